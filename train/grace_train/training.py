"""A run, by what its configuration names: one process, a baseline, or verl on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from grace_train.config import TrainConfig
    from grace_train.local.trainer import Outcome


def train(config: TrainConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> Outcome:
    """Train as a configuration says, and write a model folder.

    Args:
        config: The run; ``engine`` and ``method`` decide what does the work.
        resume: Go on with what an interrupted run left in ``config.output``, if there is something.
        overwrite: Replace an earlier run.
        quiet: Show nothing while training.

    Raises:
        ValueError: Data, model or checkpoint do not fit the configuration; before training starts. Also where packages
            of the engine or the method are missing (an ImportError as well).
        OSError: Something cannot be read or written.
        TrainingStopped: The run was stopped for its own good; its note says what is kept.
        Interrupted: SIGINT or SIGTERM came; its note says how to go on.
    """
    chosen: Callable[..., Outcome]
    if config.engine == "verl":
        from grace_train.verl_engine import train as chosen
    elif config.method != "grace":
        from grace_train.baselines import train as chosen
    else:
        from grace_train.local.trainer import train as chosen
    return chosen(config, resume=resume, overwrite=overwrite, quiet=quiet)
