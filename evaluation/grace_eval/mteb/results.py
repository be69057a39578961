"""Where results are kept: mteb's own layout, ``results/ORG__MODEL/REVISION/TASK.json``, and where their data came from.

Damaged and outdated files are moved to ``set-aside/``, and sources of data written down in ``data-sources/``: outside
the folder of the revision, in which the leaderboard wants results alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from mteb.abstasks import AbsTask
from mteb.cache import ResultCache
from mteb.models import ModelMeta

from grace_eval.files import write_whole
from grace_eval.mteb.data import parts
from grace_eval.mteb.scores import ScoresError, TaskScore, read_result, score_of

logger = logging.getLogger(__name__)

HUB = "hub"
UNKNOWN = "unknown"
"""Where the data of a result came from, where it was no folder of local copies."""


def data_source(root: Path, inside: Path, task: str) -> str:
    """Where the data of a result came from: ``"hub"``, a folder of local copies, or ``"unknown"``.

    Args:
        root: The folder of all results.
        inside: Of the model, see `Results.inside`.
        task: Its name.
    """
    path = _source_path(root, inside, task)
    if not path.is_file():
        return UNKNOWN
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["source"])
    except (ValueError, KeyError, TypeError):
        return UNKNOWN


class Results:
    """The folder with the results of a model.

    Args:
        root: Where results of all models are.
        meta: The model's metadata.
    """

    def __init__(self, root: Path, meta: ModelMeta) -> None:
        self.cache = ResultCache(root)
        self.meta = meta

    @property
    def folder(self) -> Path:
        """Holds ``TASK.json``."""
        return self.cache.get_task_result_path("x", self.meta).parent

    @property
    def inside(self) -> Path:
        """That folder below the one of all results: ``ORG__MODEL/REVISION``, and the experiment where it is one."""
        return self.folder.relative_to(self.cache.cache_path / "results")

    def score(self, task: AbsTask) -> TaskScore | None:
        """The score of a task, or None where it is not complete.

        A damaged file, and one of another revision of the data, are set aside first. mteb writes files in place, so
        that a run that was killed can leave half of one; and it keeps a complete result whatever its data were.
        """
        path = self.folder / f"{task.metadata.name}.json"
        if not path.is_file():
            return None
        try:
            values = read_result(path)
        except ScoresError:
            self._set_aside(path, f"{path} is damaged")
            return None
        if values.get("dataset_revision") != task.metadata.revision:
            self._set_aside(
                path, f"{path} is of the data {values.get('dataset_revision')}, and mteb has {task.metadata.revision}"
            )
            return None
        return score_of(values, task)

    def _set_aside(self, path: Path, why: str) -> None:
        aside = self.cache.cache_path / "set-aside" / self.inside / path.name
        aside.parent.mkdir(parents=True, exist_ok=True)
        path.replace(aside)
        logger.warning("%s; it was moved to %s", why, aside)

    def note_source(self, task: AbsTask, data_root: Path | None, *, overwrite: bool) -> None:
        """Write down where the data of a task come from, before it is evaluated.

        A result that was begun with local copies stays one of local copies, wherever its other subsets come from.
        """
        for one in {part.metadata.name: part for part in (task, *parts(task))}.values():
            name = one.metadata.name
            is_begun = (self.folder / f"{name}.json").is_file() and not overwrite
            if data_root is None and is_begun and data_source(self.cache.cache_path, self.inside, name) != HUB:
                continue
            values = {"task": name, "source": HUB if data_root is None else str(data_root.resolve())}
            write_whole(_source_path(self.cache.cache_path, self.inside, name), json.dumps(values) + "\n")

    def local_data(self, tasks: Iterable[AbsTask]) -> dict[str, str]:
        """Tasks whose data did not come from the hub, and from where; ``"unknown"`` where nobody wrote it down."""
        sources = {
            task.metadata.name: data_source(self.cache.cache_path, self.inside, task.metadata.name) for task in tasks
        }
        return {name: source for name, source in sources.items() if source != HUB}

    def other_revisions(self) -> list[str]:
        """Revisions of a model of the same name that have results here, and are another model."""
        own = self.cache.cache_path / "results" / self.meta.model_name_as_path()
        if not own.is_dir():
            return []
        return sorted(path.name for path in own.iterdir() if path.is_dir() and path.name != self.meta.revision)


def _source_path(root: Path, inside: Path, task: str) -> Path:
    return root / "data-sources" / inside / f"{task}.json"
