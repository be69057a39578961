"""What a training run leaves in its folder about itself, and what a card says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grace_st.cards.settings import read_json

SUMMARY = Path("training") / "summary.json"


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """A finished run.

    Attributes:
        method: ``grace``, or a baseline.
        mode: ``supervised`` or ``unsupervised``.
        reward: Name of the reward; None for a baseline.
        steps: That were made.
        kept_step: Whose weights were written.
        model: What it started from: a name on the hub, or that of a folder; None where the run did not say.
        recipe: Its settings that are not the defaults, as YAML; None where the run did not say.
        before: Held-out figures of the start, by set.
        after: Held-out figures of what was written, by set.
    """

    method: str
    mode: str
    reward: str | None
    steps: int
    kept_step: int
    model: str | None = None
    recipe: str | None = None
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)


def training_record(folder: Path) -> TrainingRecord | None:
    """The run that made a folder; None where there is no sign of one.

    Raises:
        ValueError: Its record is damaged.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return None
    values = read_json(path, dict)
    try:
        return TrainingRecord(
            method=str(values["method"]),
            mode=str(values["mode"]),
            reward=values["reward"],
            steps=int(values["steps"]),
            kept_step=int(values["kept_step"]),
            model=values.get("model"),
            recipe=values.get("recipe"),
            before=values["before"],
            after=values["after"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no record of a training run ({error}): restore it, or train again") from error


def as_markdown(record: TrainingRecord) -> str:
    """What a card says of a run."""
    start = f" from `{record.model}`" if record.model else ""
    how = {"grace": "GRACE", "cl": "contrastive learning", "simcse": "SimCSE"}.get(record.method, record.method)
    reward = f", reward `{record.reward}`" if record.reward else ""
    kept = f"the weights of step {record.kept_step} are kept"
    if record.kept_step == 0:
        kept += ", which are those of the start: **none was better, so nothing is changed**"
    parts = [f"Trained{start} with {how}, {record.mode}{reward}, {_counted(record.steps, 'step')}; {kept}."]
    if record.recipe:
        parts.append(
            "Saved as `recipe.yaml`, these settings train it again with `grace-st train recipe.yaml output=FOLDER`; "
            "files are named without their folders:"
        )
        parts.append(f"```yaml\n{record.recipe.strip()}\n```")
    figures = _held_out(record)
    if figures:
        parts += ["Held-out retrieval, in training (95% bootstrap intervals):", figures]
    return "\n\n".join(parts)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _held_out(record: TrainingRecord) -> str:
    lines = []
    for name, after in record.after.items():
        before = record.before.get(name) if isinstance(record.before, Mapping) else None
        if not isinstance(after, Mapping):
            continue
        for metric, value in after.items():
            if isinstance(value, Mapping) and "mean" in value:
                start = before.get(metric) if isinstance(before, Mapping) else None
                lines.append(
                    f"| {name}, {after.get('queries')} queries, {metric} | {_estimate(start)} | {_estimate(value)} |"
                )
    return "\n".join(["| held-out | before | after |", "| --- | ---: | ---: |", *lines]) if lines else ""


def _estimate(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ""
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
