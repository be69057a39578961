"""Which tasks: a benchmark, or names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import mteb
import mteb.tasks
from mteb.abstasks import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata

BENCHMARKS = {"eng-v1": "MTEB(eng, v1)", "eng-v2": "MTEB(eng, v2)"}
"""Short names of mteb's benchmarks. ``eng-v1`` are the 56 tasks of the paper's Tables 1 and 2."""

GRACE16 = (
    "SciFact",
    "ArguAna",
    "NFCorpus",
    "StackOverflowDupQuestions",
    "SciDocsRR",
    "BiorxivClusteringS2S",
    "MedrxivClusteringS2S",
    "TwentyNewsgroupsClustering",
    "SprintDuplicateQuestions",
    "Banking77Classification",
    "EmotionClassification",
    "MassiveIntentClassification",
    "STS17",
    "SICK-R",
    "STSBenchmark",
    "SummEval",
)
"""The 16 tasks of the paper's ablations (Table 3)."""

TASKS = "tasks"
"""Name of a selection that is no benchmark."""

BENCHMARK_NAMES = (*BENCHMARKS, "grace16")

CATEGORIES = {
    "Retrieval": "Retr.",
    "Reranking": "Rerank.",
    "Clustering": "Clust.",
    "PairClassification": "PairClass.",
    "Classification": "Class.",
    "STS": "STS",
    "Summarization": "Summ.",
}
"""mteb's types of tasks that the paper reports, by its short names and in its order. Others follow under their own."""


class UnknownTaskError(ValueError):
    """A name that is no task and no benchmark."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Tasks to run.

    Attributes:
        name: Of the benchmark, or ``"tasks"``.
        tasks: The tasks, with the splits and subsets that count.
    """

    name: str
    tasks: tuple[AbsTask, ...]


def category(task: AbsTask) -> str:
    """The category of a task in a report."""
    return CATEGORIES.get(task.metadata.type, task.metadata.type)


def select_benchmark(name: str) -> Selection:
    """The tasks of a benchmark: ``eng-v1``, ``eng-v2``, ``grace16``, or a name that mteb knows.

    Raises:
        UnknownTaskError: There is none; the nearest names are given.
    """
    if name == "grace16":
        return Selection(name=name, tasks=_named(GRACE16))
    known = {benchmark.name: benchmark for benchmark in mteb.get_benchmarks()}
    full = BENCHMARKS.get(name, name)
    if full not in known:
        raise UnknownTaskError(
            f"there is no benchmark {name!r}; {_nearest(name, [*BENCHMARK_NAMES, *known], 'the short names are ')}"
        )
    return Selection(name=name, tasks=tuple(known[full].tasks))


def select_tasks(names: Sequence[str]) -> Selection:
    """Tasks by their names; those of the English benchmarks with the splits and subsets that count there.

    ``TASK:SUBSET`` is one subset of a task, such as ``XQuADRetrieval:en``.

    Raises:
        UnknownTaskError: A name is no task; the nearest names are given.
        ValueError: A name comes twice, several subsets of a task are named, or there is no name.
    """
    if not names:
        raise ValueError("no tasks are given: name some, or a benchmark")
    repeated = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if repeated is not None:
        raise ValueError(f"the task {repeated} is given twice")
    bare = [name.partition(":")[0] for name in names]
    several = next((name for index, name in enumerate(bare) if name in bare[:index]), None)
    if several is not None:
        # Their scores would stand under one name, as if they were one.
        raise ValueError(
            f"several subsets of the task {several} are given: evaluate each in a run of its own, or the whole task "
            f"as {several}"
        )
    return Selection(name=TASKS, tasks=_named(names))


def _named(names: Sequence[str]) -> tuple[AbsTask, ...]:
    # From the benchmarks first: there a task has the splits and subsets that count (STS17 is en-en alone).
    english = _english()
    return tuple(english[name] if name in english else _task(*name.partition(":")[::2]) for name in names)


@cache
def _english() -> dict[str, AbsTask]:
    return {task.metadata.name: task for name in ("eng-v2", "eng-v1") for task in select_benchmark(name).tasks}


def _task(name: str, subset: str) -> AbsTask:
    try:
        task = mteb.get_task(name)
    except KeyError:
        classes = [value for value in vars(mteb.tasks).values() if isinstance(value, type)]
        every = sorted(
            cls.metadata.name for cls in classes if issubclass(cls, AbsTask) and isinstance(cls.metadata, TaskMetadata)
        )
        raise UnknownTaskError(f"there is no task {name!r}; {_nearest(name, every, 'mteb has ')}") from None
    if not subset:
        return task
    if subset not in task.hf_subsets:
        raise UnknownTaskError(
            f"the task {name} has no subset {subset!r}; {_nearest(subset, task.hf_subsets, 'it has ')}"
        )
    return mteb.get_task(name, hf_subsets=[subset])


def _nearest(name: str, known: Sequence[str], otherwise: str) -> str:
    by_lower = {other.lower(): other for other in known}
    near = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    near += [other for other in known if name.lower() in other.lower() and other not in near][: 3 - len(near)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    short = ", ".join(BENCHMARK_NAMES) if otherwise.startswith("the short") else f"{len(known)} names"
    return f"{otherwise}{short}"
