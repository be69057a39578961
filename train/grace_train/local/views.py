"""Everything that shows or records a run, opened and closed together."""

from __future__ import annotations

import sys

from grace_train.config import TrainConfig
from grace_train.local.run_folder import RunFolder
from grace_train.report.live import LiveView
from grace_train.report.log import RunLog
from grace_train.report.samples import SampleLog


class Views:
    """The log, the rationale samples and the live line.

    Args:
        config: The run.
        folder: Where it writes.
        quiet: Show nothing.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder, *, quiet: bool) -> None:
        self.log = RunLog(folder.training, config.log)
        self.samples = SampleLog(folder.training)
        self._every = config.log.every
        self._quiet = quiet
        self.live = LiveView(0, quiet=True)

    def note(self, text: str) -> None:
        """Say something before the live line begins."""
        if not self._quiet:
            sys.stderr.write(f"{text}\n")

    def start(self, total: int) -> None:
        """Begin the live line, once it is known how many steps there are."""
        self.live = LiveView(total, every=self._every, quiet=self._quiet)

    def __enter__(self) -> Views:
        return self

    def __exit__(self, *error: object) -> None:
        self.live.close()
        self.log.close()
