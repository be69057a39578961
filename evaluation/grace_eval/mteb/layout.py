"""The rules of the results repository (embeddings-benchmark/results): what may lie where, and what must be in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mteb.abstasks import AbsTask

from grace_eval.mteb.benchmarks import UnknownTaskError, select_tasks
from grace_eval.mteb.data import parts
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


def check_folder(folder: Path, tasks: Sequence[AbsTask] = ()) -> list[Problem]:
    """Check a folder ``ORG__MODEL/REVISION`` of results.

    Args:
        folder: The folder of the revision.
        tasks: Those of the benchmark that was run, with the splits and subsets that count there. Other results need
            what counts on the English leaderboards, or all of their task where it is on none.

    Returns:
        All problems; none when the results repository's rules are met.
    """
    known = {one.metadata.name: one for task in tasks for one in (*parts(task), task)}
    return [*_check_names(folder), *_check_meta(folder), *_check_files(folder), *_check_results(folder, known)]


def _check_names(folder: Path) -> Iterator[Problem]:
    model = folder.parent.name
    if model.count("__") != 1 or not all(model.split("__")):
        yield Problem(path=folder.parent, message="the folder of a model is named ORGANIZATION__MODEL")
    elif model.split("__")[0] in _RESERVED:
        yield Problem(
            path=folder.parent,
            message="the model has no organization of the hub in its name: evaluate it with --name ORGANIZATION/MODEL "
            "(the store has its rationales)",
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


def _check_results(folder: Path, known: dict[str, AbsTask]) -> Iterator[Problem]:
    paths = result_files(folder)
    if not paths:
        yield Problem(path=folder, message="holds no results")
    for path in paths:
        try:
            values = read_result(path)
        except ScoresError as error:
            yield Problem(path=path, message=str(error))
            continue
        yield from _check_result(path, values, known)


def _check_result(path: Path, values: dict[str, Any], known: dict[str, AbsTask]) -> Iterator[Problem]:
    name = values.get("task_name")
    if name != path.stem:
        yield Problem(path=path, message=f"is a result of {name}")
        return
    try:
        # As the benchmark that was run has it, or else as the English leaderboards do: a bare task has more splits and
        # subsets (MassiveIntentClassification 102 of them), which no benchmark asks for.
        wanted = [known[path.stem]] if path.stem in known else []
        wanted += select_tasks([path.stem]).tasks
    except UnknownTaskError:
        yield Problem(path=path, message="is of a task that this mteb does not know")
        return
    task = wanted[0]
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
    elif all(score_of(values, one) is None for one in wanted):
        yield Problem(path=path, message=f"lacks {_first_missing(values, task)}: run its whole task")


def _first_missing(values: dict[str, Any], task: AbsTask) -> str:
    for split in task.eval_splits:
        found = {entry.get("hf_subset") for entry in values["scores"].get(split, [])}
        if not found:
            return f"the split {split}"
        for subset in task.hf_subsets:
            if subset not in found:
                return f"the subset {subset} of the split {split}"
    return "scores"
