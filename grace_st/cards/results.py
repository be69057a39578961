"""MTEB results as a card has them: metadata for the hub (``model-index``), and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult

from grace_st.cards.folder import CardError, Measured

if TYPE_CHECKING:
    from mteb.results import TaskResult

_NO_RESULT = ("model_meta.json",)
_SOURCE = "https://github.com/embeddings-benchmark/mteb"


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A result with what mteb knows about its task."""

    result: TaskResult
    kind: str
    metric: str
    dataset: str


def measured(folder: Path, root: Path) -> Measured:
    """What `grace-st eval mteb` has measured of a model folder as it is now.

    Results of other weights, and those with options of their own (which nobody could repeat from the model's name), are
    left out.

    Args:
        folder: A GRACE model folder.
        root: The results folder of `grace-st eval mteb`.

    Raises:
        FileNotFoundError: There are no results of this folder as it is now.
        CardError: A result cannot be read, or mteb is missing.
    """
    try:
        import mteb  # noqa: F401
    except ImportError as error:
        raise CardError("results need mteb, which knows their tasks: pip install 'grace-st[mteb]'") from error
    from grace_st.fingerprint import folder_revision

    revision = folder_revision(folder)
    places = sorted(path for path in root.glob(f"results/*/{revision}") if path.is_dir())
    if not places:
        others = len(list(root.glob("results/*/*/model_meta.json")))
        raise FileNotFoundError(
            f"{root} holds no results of {folder} as it is now (revision {revision[:12]}), but of {others} other "
            f"revisions: measure it with `grace-st eval mteb --model {folder} --results {root} --benchmark eng-v1`"
        )
    tasks: dict[str, _Task] = {}
    for place in places:
        for path in sorted(place.glob("*.json")):
            if path.name not in _NO_RESULT:
                task = _read(path)
                tasks.setdefault(task.result.task_name, task)
    if not tasks:
        raise FileNotFoundError(f"{places[0]} holds no results yet: run `grace-st eval mteb` to its end")
    inside = [path.relative_to(root / "results") for path in places]
    found = list(tasks.values())
    return Measured(
        text=_as_markdown(found, revision, _benchmarks(root, inside), _local_copies(root, inside, list(tasks))),
        results=[result for task in found for result in _eval_results(task)],
    )


def _read(path: Path) -> _Task:
    import mteb
    from mteb.results import TaskResult

    try:
        result = TaskResult.from_disk(path, load_historic_data=False)
        metadata = mteb.get_task(result.task_name).metadata
        task = _Task(
            result=result,
            kind=str(metadata.type),
            metric=str(metadata.main_score),
            dataset=str(metadata.dataset["path"]),
        )
        scores = [float(entry["main_score"]) for entries in result.scores.values() for entry in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise CardError(
            f"{path} is no result that mteb can read ({' '.join(str(error).split())[:200]}): remove it, and run its "
            "task again"
        ) from error
    if not scores or not all(math.isfinite(score) for score in scores):
        raise CardError(f"{path} has main scores that are no numbers: remove it, and run its task again")
    return task


def _eval_results(task: _Task) -> Iterator[EvalResult]:
    """As mteb writes them: the main score of every split and subset, as a fraction."""
    result = task.result
    for split, entries in result.scores.items():
        for entry in entries:
            subset = entry.get("hf_subset", "default")
            yield EvalResult(
                task_type=task.kind,
                dataset_type=task.dataset,
                dataset_name=f"MTEB {result.task_name} ({subset})",
                dataset_config=subset,
                dataset_split=split,
                dataset_revision=result.dataset_revision,
                metric_type=task.metric,
                metric_name=task.metric,
                metric_value=float(entry["main_score"]),
                source_name="MTEB",
                source_url=_SOURCE,
            )


def _benchmarks(root: Path, inside: Sequence[Path]) -> list[dict[str, Any]]:
    """The reports on whole benchmarks."""
    found = []
    for place in inside:
        for path in sorted((root / "reports" / place).glob("*.json")):
            report = json.loads(path.read_text(encoding="utf-8"))
            if report.get("benchmark") != "tasks" and not report.get("missing") and report.get("average") is not None:
                found.append(report)
    return found


def _local_copies(root: Path, inside: Sequence[Path], tasks: Sequence[str]) -> int:
    """How many tasks were read from local copies of their data, or it is not known where from."""
    count = 0
    for task in tasks:
        paths = [root / "data-sources" / place / f"{task}.json" for place in inside]
        sources = [json.loads(path.read_text(encoding="utf-8")).get("source") for path in paths if path.is_file()]
        count += sources != ["hub"]
    return count


def _as_markdown(tasks: Sequence[_Task], revision: str, benchmarks: Sequence[dict[str, Any]], local: int) -> str:
    versions = sorted({str(task.result.mteb_version) for task in tasks})
    parts = [
        f"With mteb {', '.join(versions)}, on revision `{revision}` (a hash of the model's files), in percent. "
        "They are in the metadata as well (`model-index`)."
    ]
    if local:
        parts.append(
            f"{local} of {len(tasks)} tasks read local copies of their data, whose revision was not checked, or left "
            "no note where from."
        )
    for report in benchmarks:
        categories = report.get("categories") or {}
        count = len(report.get("tasks") or [])
        lines = [["", *categories, "Task mean"], ["---", *["---:"] * (len(categories) + 1)]]
        values = [*categories.values(), report["average"]]
        lines.append([f"{report['benchmark']}, {count} tasks", *(f"{100 * value:.2f}" for value in values)])
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    rows = [
        f"| {task.result.task_name} | {task.kind} | {task.metric} | {100 * task.result.get_score():.2f} |"
        for task in sorted(tasks, key=lambda task: (task.kind, task.result.task_name))
    ]
    parts.append("\n".join(["| task | type | metric | score |", "| --- | --- | --- | ---: |", *rows]))
    return "\n\n".join(parts)
