"""Where the data of tasks come from: local copies, or the hub and its cache. Checked before any work starts."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from mteb.abstasks import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate


class MissingDataError(FileNotFoundError):
    """Data sets that are not here."""


def parts(task: AbsTask) -> list[AbsTask]:
    """The tasks that an aggregate is made of, or the task itself."""
    if isinstance(task, AbsTaskAggregate):
        return [part for inner in task.metadata.tasks for part in parts(inner)]
    return [task]


def with_local_data(tasks: Sequence[AbsTask], root: Path) -> tuple[AbsTask, ...]:
    """Copies of tasks that read from ``root/ORGANIZATION/NAME`` instead of the hub.

    Args:
        tasks: The tasks.
        root: Holds a folder for each data set, laid out as its repository on the hub (``hf download --local-dir``).

    Raises:
        MissingDataError: Folders are missing; each is named with the command that fetches it.
    """
    if not root.is_dir():
        raise MissingDataError(f"there is no folder {root} with data sets")
    missing = [part for task in tasks for part in parts(task) if not _folder(root, part).is_dir()]
    if missing:
        raise MissingDataError(_said(missing, f"in {root}", root))
    return tuple(_localised(task, root) for task in tasks)


def local_copies(tasks: Sequence[AbsTask], root: Path, cache: Path) -> list[tuple[AbsTask, Path]]:
    """The tasks of `with_local_data`, each with the folder where `datasets` prepares what it reads.

    Args:
        tasks: The tasks.
        root: The local copies, see `with_local_data`.
        cache: Holds such folders, see `cache_folder`.

    Raises:
        MissingDataError: See `with_local_data`.
    """
    copied = with_local_data(tasks, root)
    return [(copy_, cache_folder(task, root, cache)) for task, copy_ in zip(tasks, copied, strict=True)]


def check_offline(tasks: Sequence[AbsTask]) -> None:
    """When the hub may not be asked (``HF_HUB_OFFLINE``), refuse tasks whose data are not in its cache.

    Raises:
        MissingDataError: Each data set is named with the command that fetches it.
    """
    if not (constants.HF_HUB_OFFLINE or datasets.config.HF_DATASETS_OFFLINE):
        return
    missing = [part for task in tasks for part in parts(task) if not part.data_loaded and not _is_cached(part)]
    if missing:
        raise MissingDataError(_said(missing, "in the cache, and the hub may not be asked (HF_HUB_OFFLINE)", None))


def _is_cached(task: AbsTask) -> bool:
    source = _source(task)
    if Path(source).is_dir():
        return True
    prepared = Path(datasets.config.HF_DATASETS_CACHE) / source.replace("/", "___")
    if prepared.is_dir():
        return True
    try:
        snapshot_download(
            source, repo_type="dataset", revision=task.metadata.dataset.get("revision"), local_files_only=True
        )
    except LocalEntryNotFoundError:
        return False
    return True


def _said(missing: Sequence[AbsTask], where: str, root: Path | None) -> str:
    shown = missing[:5]
    more = f" (and {len(missing) - len(shown)} more)" if len(missing) > len(shown) else ""
    named = ", ".join(f"{task.metadata.name} needs {_source(task)}" for task in shown)
    source, revision = _source(shown[0]), shown[0].metadata.dataset.get("revision")
    tasks = "task" if len(missing) == 1 else "tasks"
    target = f" --local-dir {_folder(root, shown[0])}" if root is not None else ""
    return (
        f"the data of {len(missing)} {tasks} are not {where}: {named}{more}. With a network: hf download {source} "
        f"--repo-type dataset --revision {revision}{target}"
        + ("" if root is not None else "; or use local copies with --data-root DIR")
    )


def _source(task: AbsTask) -> str:
    return str(task.metadata.dataset["path"])


def _folder(root: Path, task: AbsTask) -> Path:
    return root / _source(task)


def _localised(task: AbsTask, root: Path) -> AbsTask:
    update: dict[str, Any]
    if isinstance(task, AbsTaskAggregate):
        update = {"tasks": [_localised(part, root) for part in task.metadata.tasks]}
    else:
        update = {"dataset": {**task.metadata.dataset, "path": str(_folder(root, task).resolve())}}
    # A copy: the benchmark's own object stays as it is. Data that were loaded from elsewhere do not come along.
    local = copy.copy(task)
    local.dataset = None
    local.data_loaded = False
    local.__dict__.pop("metadata", None)
    # Of a class of its own: `unload_data` takes metadata that belong to the object alone away.
    cls = type(task)
    metadata = task.metadata.model_copy(update=update)
    local.__class__ = type(cls.__name__, (cls,), {"metadata": metadata, "__module__": cls.__module__})
    return local


def cache_folder(task: AbsTask, root: Path, cache: Path) -> Path:
    """Where `datasets` prepares the local copies that a task reads: a folder named by what they hold.

    Its usual cache knows a local folder by its path alone, and would serve what lay there before. One folder for each
    task, so that a run that goes on, or another selection of tasks, finds what is prepared.

    Args:
        task: The task, before `with_local_data`.
        root: The local copies.
        cache: Holds such folders.
    """
    digest = hashlib.sha256(str(root.resolve()).encode())
    for folder in sorted({_folder(root, part) for part in parts(task)}):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                stat = path.stat()
                digest.update(f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return cache / f"{task.metadata.name}-{digest.hexdigest()[:16]}"


@contextmanager
def datasets_cache(folder: Path | None) -> Iterator[None]:
    """Have `datasets` prepare data in this folder; None leaves it its own."""
    before = datasets.config.HF_DATASETS_CACHE
    if folder is not None:
        datasets.config.HF_DATASETS_CACHE = folder
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = before
