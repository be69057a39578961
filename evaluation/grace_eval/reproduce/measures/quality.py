"""The score of a model: a benchmark of MTEB, or, in smoke runs, a part of the bundled held-out retrieval.

Both give ``columns`` (by category), their ``average``, and how long rationales were where that is known. In percent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from grace_eval.faithfulness.intervals import interval
from grace_eval.faithfulness.tasks import RetrievalTask, retrieval_task
from grace_eval.reproduce.measures.base import Measure, Subject


def held_out_part(queries: int, documents: int) -> RetrievalTask:
    """A part of ``nano:test``: some queries, with their documents and some others, so many in all."""
    task = retrieval_task("nano:test", max_items=queries)
    asking, asked = task.roles
    wanted = [index for own in task.relevance for index in own]
    others = [index for index in range(len(asked.texts)) if index not in set(wanted)]
    missing = max(0, documents - len(wanted))
    kept = sorted([*wanted, *others[:: max(1, len(others) // max(1, missing))][:missing]])
    place = {index: position for position, index in enumerate(kept)}
    return replace(
        task,
        roles=(asking, replace(asked, texts=tuple(asked.texts[index] for index in kept))),
        relevance=tuple({place[index]: gain for index, gain in own.items()} for own in task.relevance),
    )


@dataclass(frozen=True, kw_only=True)
class HeldOut(Measure):
    """nDCG@10 on a part of the bundled held-out retrieval: a stand-in for a benchmark.

    Attributes:
        queries: How many.
        documents: How many in all, those that are relevant among them.
    """

    kind = "quality"

    queries: int = 24
    documents: int = 100

    def measure(self, subject: Subject) -> dict[str, Any]:
        """See `Measure`."""
        task = held_out_part(self.queries, self.documents)
        found = {role.name: subject.embed(role.texts, role.instruction) for role in task.roles}
        outcome = task.outcome({name: embedded.vectors for name, embedded in found.items()})
        score = interval(outcome, resamples=500)
        lengths = [length for embedded in found.values() for length in embedded.lengths]
        return {
            "columns": {"Retr. (nano)": 100 * score.mean},
            "average": 100 * score.mean,
            "low": 100 * score.low,
            "high": 100 * score.high,
            "tokens": float(np.mean(lengths)),
            "finished": float(np.mean([done for embedded in found.values() for done in embedded.finished])),
        }


@dataclass(frozen=True, kw_only=True)
class Benchmark(Measure):
    """A benchmark of MTEB, by `grace_eval.mteb`: resumable, and kept in its own layout below the study's folder.

    Attributes:
        benchmark: ``eng-v1`` or ``grace16``.
    """

    kind = "quality"

    benchmark: str

    def measure(self, subject: Subject) -> dict[str, Any]:
        """See `Measure`."""
        scores = _encoder_scores(self, subject) if subject.is_encoder else _grace_scores(self, subject)
        from grace_eval.mteb.scores import by_category, task_mean

        mean = task_mean(scores)
        assert mean is not None
        return {
            "columns": {name: 100 * value for name, value in by_category(scores).items()},
            "average": 100 * mean,
            "tasks": {score.task: 100 * score.value for score in scores},
        }

    def mteb_tasks(self) -> list[Any]:
        """See `Measure`."""
        from grace_eval.mteb.benchmarks import select_benchmark

        return list(select_benchmark(self.benchmark).tasks)

    def command(self, folder: str, options: str, data: str) -> str | None:
        """See `Measure`."""
        return " ".join(
            filter(None, (f"grace-st eval mteb --model {folder} --benchmark {self.benchmark}", options, data))
        )


def _grace_scores(measure: Benchmark, subject: Subject) -> list[Any]:
    from grace_eval.mteb.options import ModelOptions
    from grace_eval.mteb.results import Results
    from grace_eval.mteb.run import plan, run, use_local_data

    options = ModelOptions(
        folder=Path(subject.source),
        name=f"reproduction/{Path(subject.source).name}",
        max_new_tokens=subject.options.get("max_new_tokens"),
        pooling_span=subject.options.get("pooling_span"),
        pooling=subject.options.get("pooling"),
        device=subject.device,
        store=subject.work / "rationales.sqlite",
    )
    results = Results(subject.work / "mteb", options.meta())
    state = plan(measure.mteb_tasks(), results)
    if subject.data_root is not None:
        use_local_data(state, subject.data_root, subject.datasets_cache)
    run(state, lambda: options.load(results.meta, state.advance), results)
    return [task.score for task in state.tasks if task.score is not None]


def _encoder_scores(measure: Benchmark, subject: Subject) -> list[Any]:
    import mteb
    from mteb.cache import ResultCache

    from grace_eval.mteb.data import datasets_cache
    from grace_eval.mteb.scores import read_result, score_of

    found = []
    # A folder of its own: mteb tells local encoders apart by nothing.
    folder = subject.work / "mteb-encoders" / subject.source.replace("/", "__")
    for task in measure.mteb_tasks():
        chosen, prepared = subject.located(task)
        with datasets_cache(prepared):
            mteb.evaluate(subject.model, chosen, cache=ResultCache(folder), co2_tracker=False, show_progress_bar=False)
        (path,) = folder.rglob(f"{task.metadata.name}.json")
        score = score_of(read_result(path), task)
        if score is None:
            raise RuntimeError(f"mteb has evaluated {task.metadata.name}, but {path} has no complete result of it")
        found.append(score)
    return found
