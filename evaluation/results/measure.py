"""The scores in ``README.md``: small models, with the prompt alone and with rationales, on three real tasks of mteb.

``python evaluation/results/measure.py DATA WORK`` from the root of the repository. DATA holds what `hub_layout` takes,
the model stories260K (``stories260K/``) and published result files (``mteb_results/``). WORK keeps data, results and
rationales: after an interruption the same command goes on. Writes ``scores.json`` and ``scores.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import hub_layout  # noqa: E402

import grace_st  # noqa: E402
from grace_st.cli import main  # noqa: E402
from tests.llama2c import save_stories260k  # noqa: E402

TASKS = ("STSBenchmark", "XQuADRetrieval:en", "Banking77Classification")
BUDGETS = {"the prompt alone": 0, "with rationales": None}


def stories260k(source: Path, work: Path) -> Path:
    """The model folder of stories260K: a story-teller of 260 K parameters, so neither instructed nor an embedder."""
    folder = work / "models/stories260K"
    if not folder.is_dir():
        checkpoint = work / "models/stories260K-checkpoint"
        checkpoint.mkdir(parents=True, exist_ok=True)
        save_stories260k(source / "stories260K", checkpoint)
        grace_st.convert(
            checkpoint, folder, system_prompt=None, pad_token="<unk>", max_seq_length=256, max_new_tokens=32
        )
    return folder


def evaluate(model: str | Path, name: str, budget: int | None, task: str, work: Path) -> dict[str, Any]:
    """The report of one run."""
    arguments = ["--model", str(model), "--name", name, "--tasks", task, "--results", str(work / "results")]
    arguments += ["--data-root", str(work / "data")]
    if budget is not None:
        arguments += ["--max-new-tokens", str(budget)]
    if main(["eval", "mteb", *arguments]) != 0:
        raise SystemExit(f"{name} has failed on {task}")
    reports = (work / "results/reports" / name.replace("/", "__")).glob("**/tasks.json")
    newest = max(reports, key=lambda path: path.stat().st_mtime)
    report: dict[str, Any] = json.loads(newest.read_text(encoding="utf-8"))
    return report


def measure(data: Path, work: Path, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """All scores, smallest runs first."""
    if not (work / "data").is_dir():
        hub_layout.write_all(data, work / "data.partial")
        (work / "data.partial").rename(work / "data")
    models = {"local/grace-nano": "grace-nano", "local/stories260K": stories260k(data, work)}
    rows = []
    for task in tasks:
        for how, budget in BUDGETS.items():
            for name, model in models.items():
                (score,) = evaluate(model, name, budget, task, work)["tasks"]
                kept = {key: score[key] for key in ("task", "category", "metric", "value", "seconds")}
                rows.append({"model": name.removeprefix("local/"), "how": how, **kept})
                write(rows, data)
    return rows


def published(data: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What others have published for these tasks, where there is something."""
    from grace_eval.mteb.benchmarks import select_tasks
    from grace_eval.mteb.scores import published_scores

    tasks = select_tasks([task for task in TASKS if task.split(":")[0] in {row["task"] for row in rows}]).tasks
    if not any((data / "mteb_results").rglob(f"{task.metadata.name}.json") for task in tasks):
        return []
    return [
        {"model": model, "how": "published", "task": name, "metric": score.metric, "value": score.value}
        for model, scores in published_scores(data / "mteb_results", tasks).items()
        for name, score in scores.items()
    ]


def write(rows: Sequence[dict[str, Any]], data: Path) -> None:
    """Write both files."""
    others = published(data, rows)
    versions = {name: version(name) for name in ("mteb", "sentence-transformers", "transformers", "torch")}
    values = {"versions": versions, "measured": list(rows), "published": others}
    (HERE / "scores.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    names = list(dict.fromkeys(row["task"] for row in rows))
    metrics = {row["task"]: row["metric"] for row in rows}
    lines = [
        "| model | | " + " | ".join(f"{name}, {metrics[name]}" for name in names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for model, how in dict.fromkeys((row["model"], row["how"]) for row in [*rows, *others]):
        found = {row["task"]: row["value"] for row in [*rows, *others] if (row["model"], row["how"]) == (model, how)}
        cells = [f"{100 * found[name]:.2f}" if name in found else "" for name in names]
        lines.append(f"| {model} | {how} | " + " | ".join(cells) + " |")
    (HERE / "scores.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("work", metavar="WORK", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    measure(given.data, given.work, given.tasks)
