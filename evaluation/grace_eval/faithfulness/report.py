"""What was found, as JSON, CSV and Markdown, and as the block of a model card."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grace_eval.faithfulness.measure import MEANINGS, SWAPPED, Effect, Settings, TaskResult
from grace_eval.files import write_whole
from grace_eval.markdown import table, write_block
from grace_train.retrieval import Estimate

BLOCK = "faithfulness"


@dataclass(frozen=True, kw_only=True)
class FaithfulnessReport:
    """Everything about a model.

    Attributes:
        model: Name, revision and settings of the model.
        settings: How it was measured.
        tasks: What was found.
        versions: Of the packages that scores depend on.
    """

    model: Mapping[str, Any]
    settings: Settings
    tasks: Sequence[TaskResult]
    versions: Mapping[str, str]


def as_dict(report: FaithfulnessReport) -> dict[str, Any]:
    """The report as JSON values. Scores are fractions."""
    return {
        "model": dict(report.model),
        "settings": asdict(report.settings),
        "tasks": [asdict(task) for task in report.tasks],
        "versions": dict(report.versions),
    }


def as_csv(report: FaithfulnessReport) -> str:
    """A line for each task and rationale."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    estimates = [f"{name}{end}" for name in ("score", "difference") for end in ("", "_low", "_high")]
    writer.writerow(
        ["task", "kind", "metric", "items", "rationale", "budget", "tokens", "changed", *estimates, "cosine"]
    )
    for task in report.tasks:
        head = [task.task, task.kind, task.metric, task.items]
        own = [f"{value:.6f}" for value in _values(task.score)]
        writer.writerow([*head, "as written", "", f"{task.tokens:.2f}", "0", *own, *["0"] * 3, "1"])
        for effect in (*task.effects, *task.curve):
            numbers = [f"{value:.6f}" for value in (*_values(effect.score), *_values(effect.difference), effect.cosine)]
            budget = "" if effect.budget is None else effect.budget
            writer.writerow([*head, effect.name, budget, f"{effect.tokens:.2f}", f"{effect.changed:.4f}", *numbers])
    return stream.getvalue()


def as_markdown(report: FaithfulnessReport) -> str:
    """The report for people."""
    model = report.model
    return (
        "\n\n".join(
            [
                f"# Does the embedding of {model['name']} depend on its rationale?",
                f"Revision `{model['revision']}`. " + _how(report),
                *(section for task in report.tasks for section in _task(task, heading="##", curve=True)),
                _legend(report.settings),
                "Made with " + ", ".join(f"{name} {version}" for name, version in report.versions.items()) + ".",
            ]
        )
        + "\n"
    )


def as_block(report: FaithfulnessReport) -> str:
    """The part of a model card."""
    return "\n\n".join(
        [
            "## Does the embedding depend on the rationale?",
            f"Measured by `grace-st eval faithfulness` on revision `{report.model['revision'][:12]}`. " + _how(report),
            *(section for task in report.tasks for section in _task(task, heading="###", curve=False)),
            _legend(report.settings),
        ]
    )


def _how(report: FaithfulnessReport) -> str:
    settings = report.settings
    side = (
        "the rationales of all texts"
        if settings.side == "both"
        else "the rationales of the asking side alone (queries, first texts of pairs, texts to be classified)"
    )
    return (
        f"Scored with the rationales as the model writes them, and with {side} changed. Brackets are 95% bootstrap "
        f"intervals over the items of the task ({settings.resamples} resamples), paired for differences."
    )


def _legend(settings: Settings) -> str:
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in MEANINGS.items())
    return (
        f"{meanings[0].upper()}{meanings[1:]} (seed {settings.seed}). Cosine: mean, of a text's vector with the one "
        "that it has as written. Token ids are moved or replaced, never written anew."
    )


def _task(task: TaskResult, *, heading: str, curve: bool) -> list[str]:
    items = {"retrieval": "queries", "sts": "pairs", "classification": "test texts"}[task.kind]
    sections = [
        f"{heading} {task.task}, {task.metric}",
        f"{verdict(task)} {task.items} {items}, {task.texts} texts; rationales have {task.tokens:.1f} tokens and "
        f"{task.sentences:.1f} sentences on average, {task.finished:.0%} end by themselves.",
        table(
            ["Rationale", "Score", "Difference", "Cosine", "Changed"],
            [
                ["as written", _estimate(task.score), "", "1.000", ""],
                *([effect.name, *_cells(effect), f"{effect.changed:.0%}"] for effect in task.effects),
            ],
        ),
    ]
    if curve:
        sections.append(
            table(
                ["First tokens", "Tokens, mean", "Score", "Difference", "Cosine"],
                [[str(effect.budget), f"{effect.tokens:.1f}", *_cells(effect)] for effect in task.curve],
            )
        )
    return sections


def verdict(task: TaskResult) -> str:
    """One sentence: what another text's rationale does to the score."""
    change = next(effect for effect in task.effects if effect.name == SWAPPED).difference
    range_ = f"(95% interval {change.low:+.3f} to {change.high:+.3f})"
    size = f"{abs(change.mean):.3f} {range_}"
    if change.high < 0:
        return f"**The rationale matters**: another text's rationale costs {size}."
    if change.low > 0:
        return f"**The rationale harms**: with another text's rationale the score is higher by {size}."
    return f"**No effect was found**: another text's rationale changes the score by {change.mean:+.3f} {range_}."


def _cells(effect: Effect) -> list[str]:
    change = effect.difference
    return [
        _estimate(effect.score),
        f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]",
        f"{effect.cosine:.3f}",
    ]


def _estimate(value: Estimate) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _values(value: Estimate) -> tuple[float, float, float]:
    return value.mean, value.low, value.high


def write_report(report: FaithfulnessReport, folder: Path) -> list[Path]:
    """Write ``faithfulness.json``, ``.csv`` and ``.md``, and ``card.md``, the block of a model card."""
    made = {
        "faithfulness.json": json.dumps(as_dict(report), indent=1) + "\n",
        "faithfulness.csv": as_csv(report),
        "faithfulness.md": as_markdown(report),
        "card.md": as_block(report) + "\n",
    }
    for name, text in made.items():
        write_whole(folder / name, text)
    return [folder / name for name in made]


def update_card(report: FaithfulnessReport, card: Path) -> None:
    """Put the block into the card of a model folder, in the place of an earlier one.

    Raises:
        FileNotFoundError: There is no card.
        ValueError: The markers of an earlier block are damaged.
    """
    write_block(card, BLOCK, as_block(report))
