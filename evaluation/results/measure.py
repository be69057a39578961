"""The table of measured scores: small models, with the prompt alone and with rationales, on three real tasks of mteb.

``python evaluation/results/measure.py DATA WORK`` from the root of the repository. DATA holds what `hub_layout` takes,
the model stories260K (``stories260K/``) and published result files (``mteb_results/``). WORK keeps data, results and
rationales: after an interruption the same command goes on. All texts of each task are encoded, for three quarters of an
hour on one busy core. Writes ``scores.json`` beside this file, and the table into ``README.md`` there and into
``docs/evaluation.md``.
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
ROOT = HERE.parent.parent
PAGES = (HERE / "README.md", ROOT / "docs/evaluation.md")
sys.path[:0] = [str(HERE), str(ROOT), str(ROOT / "train/experiments")]

import hub_layout  # noqa: E402

import grace_st  # noqa: E402
from grace_eval.files import write_whole  # noqa: E402
from grace_eval.mteb.benchmarks import select_tasks  # noqa: E402
from grace_eval.mteb.scores import published_scores  # noqa: E402
from grace_st.cli import main  # noqa: E402
from harness.pages import fill, header, row  # noqa: E402
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


def measure(data: Path, work: Path) -> None:
    """Measure and write all scores, smallest runs first."""
    if not (work / "data").is_dir():
        hub_layout.write_all(data, work / "data.partial")
        (work / "data.partial").rename(work / "data")
    models = {"local/grace-nano": "grace-nano", "local/stories260K": stories260k(data, work)}
    others = published(data)
    rows = []
    for task in TASKS:
        for how, budget in BUDGETS.items():
            for name, model in models.items():
                (score,) = evaluate(model, name, budget, task, work)["tasks"]
                kept = {key: score[key] for key in ("task", "category", "metric", "value", "seconds")}
                rows.append({"model": name.removeprefix("local/"), "how": how, **kept})
                write(rows, others)


def published(data: Path) -> list[dict[str, Any]]:
    """What others have published for these tasks, where there is something."""
    return [
        {"model": model, "how": "published", "task": name, "metric": score.metric, "value": score.value}
        for model, scores in published_scores(data / "mteb_results", select_tasks(TASKS).tasks).items()
        for name, score in scores.items()
    ]


def write(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> None:
    """Write the scores so far, and their table."""
    versions = {name: version(name) for name in ("mteb", "sentence-transformers", "transformers", "torch")}
    values = {"versions": versions, "measured": list(rows), "published": list(others)}
    write_whole(HERE / "scores.json", json.dumps(values, indent=1) + "\n")
    for page in PAGES:
        fill(page, {"scores": table(rows, others)})


def table(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    """The scores as Markdown, in percent."""
    metrics = {score["task"]: score["metric"] for score in rows}
    lines = [header(["", *(f"{task}, {metric}" for task, metric in metrics.items())])]
    for model, how in dict.fromkeys((score["model"], score["how"]) for score in [*rows, *others]):
        found = {
            score["task"]: f"{100 * score['value']:.2f}"
            for score in [*rows, *others]
            if (score["model"], score["how"]) == (model, how)
        }
        lines.append(row(f"{model}, {how}", *(found.get(task, "") for task in metrics)))
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("work", metavar="WORK", type=Path)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    measure(given.data, given.work)
