"""The rules of the results repository (embeddings-benchmark/results): what may lie where, and what must be in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mteb

from grace_eval.mteb.scores import ScoresError, read_result, score_of

META_NAME = "model_meta.json"
SETTINGS_NAME = "run_settings.jsonl"
MOST_BYTES = 10 * 1024**2
REVISION = re.compile(r"[0-9a-f]{40}")
_RESERVED = ("no_model_name", "local")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What keeps results from being accepted.

    Attributes:
        path: The file or folder.
        message: What is wrong, and what to do.
    """

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def check_folder(folder: Path) -> list[Problem]:
    """Check a folder ``ORG__MODEL/REVISION`` of results.

    Args:
        folder: The folder of the revision.

    Returns:
        All problems; none when the results repository's rules are met.
    """
    return [*_check_names(folder), *_check_meta(folder), *_check_files(folder), *_check_results(folder)]


def _check_names(folder: Path) -> Iterator[Problem]:
    model = folder.parent.name
    if model.count("__") != 1 or not all(model.split("__")):
        yield Problem(path=folder.parent, message="the folder of a model is named ORGANIZATION__MODEL")
    elif model.split("__")[0] in _RESERVED:
        yield Problem(
            path=folder.parent,
            message="the model has no organization of the hub in its name: evaluate it with --name ORGANIZATION/MODEL",
        )
    if not REVISION.fullmatch(folder.name):
        yield Problem(path=folder, message="a revision is 40 hexadecimal digits")


def _check_meta(folder: Path) -> Iterator[Problem]:
    path = folder / META_NAME
    if not path.is_file():
        yield Problem(path=path, message="is missing: mteb writes it beside the results")
        return
    try:
        meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        yield Problem(path=path, message=f"is not valid JSON ({error})")
        return
    named = str(meta.get("name")).replace("/", "__").replace(" ", "_")
    if named != folder.parent.name:
        yield Problem(path=path, message=f"is of the model {meta.get('name')}, and lies in {folder.parent.name}")
    if meta.get("revision") != folder.name:
        yield Problem(path=path, message=f"is of the revision {meta.get('revision')}, and lies in {folder.name}")
    if meta.get("experiment_kwargs"):
        yield Problem(path=path, message="is of an experiment, not of the model as it is")


def _check_files(folder: Path) -> Iterator[Problem]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield Problem(path=path, message="is a folder, and results of a revision lie side by side")
        elif path.suffix != ".json" and path.name != SETTINGS_NAME:
            yield Problem(path=path, message=f"is neither a result, nor {META_NAME}, nor {SETTINGS_NAME}")
        elif path.stat().st_size > MOST_BYTES:
            yield Problem(path=path, message=f"has {path.stat().st_size} bytes, and {MOST_BYTES} are accepted at most")


def result_files(folder: Path) -> list[Path]:
    """The result files of a revision."""
    return sorted(path for path in folder.glob("*.json") if path.name != META_NAME)


def _check_results(folder: Path) -> Iterator[Problem]:
    paths = result_files(folder)
    if not paths:
        yield Problem(path=folder, message="holds no results")
    for path in paths:
        try:
            values = read_result(path)
        except ScoresError as error:
            yield Problem(path=path, message=str(error))
            continue
        yield from _check_result(path, values)


def _check_result(path: Path, values: dict[str, Any]) -> Iterator[Problem]:
    name = values.get("task_name")
    if name != path.stem:
        yield Problem(path=path, message=f"is a result of {name}")
        return
    try:
        task = mteb.get_task(path.stem)
    except KeyError:
        yield Problem(path=path, message="is of a task that this mteb does not know")
        return
    if values.get("dataset_revision") != task.metadata.revision:
        yield Problem(
            path=path,
            message=f"is of the data {values.get('dataset_revision')}, and mteb has {task.metadata.revision}: run it "
            "again",
        )
    entries = [entry for split in values["scores"].values() for entry in split]
    scores = [entry.get("main_score") for entry in entries]
    if not scores or any(not isinstance(score, (int, float)) or not math.isfinite(score) for score in scores):
        yield Problem(path=path, message="has main scores that are no numbers")
    missing = [split for split in task.eval_splits if not values["scores"].get(split)]
    if missing:
        yield Problem(path=path, message=f"lacks the split {missing[0]}: run its task again")


def is_complete(path: Path, task: Any) -> bool:
    """Whether a result has all splits and subsets of a task that count."""
    return score_of(read_result(path), task) is not None
