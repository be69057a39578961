"""Scores as mteb's result files hold them: of a run, and those that others have published."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mteb.abstasks import AbsTask

from grace_eval.mteb.benchmarks import CATEGORIES, category


class ScoresError(ValueError):
    """A result file that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """A task's main score.

    Attributes:
        task: Its name.
        category: Of the task, see `benchmarks.CATEGORIES`.
        metric: Name of the main score.
        value: From 0 to 1 (-1 to 1 for correlations): the mean over the splits and subsets that count.
        seconds: How long the task took; None where it is not known.
        dataset_revision: Of the data.
    """

    task: str
    category: str
    metric: str
    value: float
    seconds: float | None
    dataset_revision: str | None


def read_result(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ScoresError: It is not one.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ScoresError(f"{path} is not valid JSON ({error}): remove it, and run its task again") from error
    if not isinstance(values, dict) or not isinstance(values.get("scores"), dict):
        raise ScoresError(f"{path} is no result file of mteb: it has no scores")
    return values


def score_of(values: Mapping[str, Any], task: AbsTask) -> TaskScore | None:
    """The score of a task, or None where splits or subsets that count are missing, or have no number."""
    found = []
    for split in task.eval_splits:
        by_subset = {entry.get("hf_subset"): entry.get("main_score") for entry in values["scores"].get(split) or []}
        for subset in task.hf_subsets:
            value = by_subset.get(subset)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                return None
            found.append(float(value))
    if not found:
        return None
    return TaskScore(
        task=task.metadata.name,
        category=category(task),
        metric=str(task.metadata.main_score),
        value=sum(found) / len(found),
        seconds=values.get("evaluation_time"),
        dataset_revision=values.get("dataset_revision"),
    )


def scores_in(folder: Path, tasks: Iterable[AbsTask]) -> dict[str, TaskScore]:
    """The scores in a folder of result files, of the tasks that are complete there."""
    found = {}
    for task in tasks:
        path = folder / f"{task.metadata.name}.json"
        score = score_of(read_result(path), task) if path.is_file() else None
        if score is not None:
            found[task.metadata.name] = score
    return found


def published_scores(root: Path, tasks: Sequence[AbsTask]) -> dict[str, dict[str, TaskScore]]:
    """Scores of published models, in the layout of the results repository: ``MODEL/REVISION/TASK.json``.

    Args:
        root: The folder of the models (``results/`` of a clone), or a model's own folder.
        tasks: The tasks.

    Returns:
        Scores by model and task. A model with several revisions has, for each task, the first revision with it:
        those with a hash before others, which hold what authors reported themselves.

    Raises:
        FileNotFoundError: The folder is not there, or holds no result files.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root} with published results")
    if (root / "results").is_dir():
        root = root / "results"
    found: dict[str, dict[str, TaskScore]] = {}
    models = [root] if any(root.glob("*/*.json")) else sorted(path for path in root.iterdir() if path.is_dir())
    for model in models:
        revisions = sorted(
            (path for path in model.iterdir() if path.is_dir()), key=lambda path: (len(path.name) != 40, path.name)
        )
        scores: dict[str, TaskScore] = {}
        for revision in revisions:
            scores = {**scores_in(revision, tasks), **scores}
        if scores:
            found[model.name.replace("__", "/", 1)] = scores
    if not found:
        raise FileNotFoundError(
            f"{root} holds no published results of these tasks: it needs MODEL/REVISION/TASK.json, as in the "
            "repository embeddings-benchmark/results"
        )
    return found


def by_category(scores: Iterable[TaskScore]) -> dict[str, float]:
    """The mean over the tasks of each category, in the paper's order."""
    groups: dict[str, list[float]] = {}
    for score in scores:
        groups.setdefault(score.category, []).append(score.value)
    order = [*CATEGORIES.values(), *sorted(set(groups) - set(CATEGORIES.values()))]
    return {name: sum(groups[name]) / len(groups[name]) for name in order if name in groups}


def task_mean(scores: Iterable[TaskScore]) -> float | None:
    """The mean over tasks, each counted once; None of no tasks."""
    values = [score.value for score in scores]
    return sum(values) / len(values) if values else None
