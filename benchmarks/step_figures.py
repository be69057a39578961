"""The figures of benchmarks/train_step.py: from what each step took to ratios, shares, growth, and tables. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from measuring import spread

Answer = Mapping[str, Any]
"""What a step cost: ``seconds``, and ``cpu_seconds`` of all threads; ``sampled`` and ``updated`` rollouts; ``parts`` in
seconds; ``peak_bytes``."""

PAIRS = (
    ("trained", "trl_trivial"),
    ("trained", "trl_compact"),
    ("trained", "trl_embed"),
    ("whole", "trl_whole"),
    ("whole", "trl_trivial"),
)
"""In each but the last both sides sample and train as many rollouts; there this engine samples more."""


def comparison(answers: Mapping[str, Sequence[Answer]]) -> dict[str, Any]:
    """The figures of variants that took turns.

    Args:
        answers: Per variant one for each round.
    """
    return {
        "seconds_per_step": {
            name: [round(answer["seconds"], 3) for answer in given] for name, given in answers.items()
        },
        "cpu_seconds_per_step": {
            name: [round(answer["cpu_seconds"], 3) for answer in given] for name, given in answers.items()
        },
        "rollouts_per_step": {
            name: {"sampled": constant(given, "sampled"), "updated": constant(given, "updated")}
            for name, given in answers.items()
        },
        "milliseconds_per_sampled_rollout": {
            name: spread([1000 * answer["seconds"] / answer["sampled"] for answer in given])
            for name, given in answers.items()
        },
        "step_ratios": ratios(answers, per=None),
        # Where others use the machine as well, these are the steadier ones.
        "step_cpu_ratios": ratios(answers, per=None, cost="cpu_seconds"),
        "sampled_rollout_ratios": ratios(answers, per="sampled"),
        "shares": {name: shares(given) for name, given in answers.items()},
        "peak_mb": {name: peak(given) for name, given in answers.items()},
    }


def ratios(
    answers: Mapping[str, Sequence[Answer]], *, per: str | None, cost: str = "seconds"
) -> dict[str, dict[str, float]]:
    """Time of this engine over TRL's, within rounds: below 1, this engine is faster.

    Args:
        answers: As in `comparison`.
        per: Divides each time first: a count in the answers.
        cost: Which time.
    """

    def costs(name: str) -> list[float]:
        return [answer[cost] / (1 if per is None else answer[per]) for answer in answers[name]]

    return {
        f"{own} / {other}": spread([a / b for a, b in zip(costs(own), costs(other), strict=True)])
        for own, other in PAIRS
        if own in answers and other in answers
    }


def constant(answers: Sequence[Answer], key: str) -> int:
    """A count that must not differ between steps.

    Raises:
        ValueError: It does.
    """
    found = {answer[key] for answer in answers}
    if len(found) != 1:
        raise ValueError(f"steps differ in {key}: {sorted(found)}")
    return int(found.pop())


def shares(answers: Sequence[Answer]) -> dict[str, float]:
    """Median share of each part in the time of its step, and of the rest."""
    parts = {
        name: statistics.median([answer["parts"][name] / answer["seconds"] for answer in answers])
        for name in answers[0]["parts"]
    }
    rest = statistics.median([1 - sum(answer["parts"].values()) / answer["seconds"] for answer in answers])
    return {name: round(value, 4) for name, value in {**parts, "rest": rest}.items()}


def peak(answers: Sequence[Answer]) -> int | None:
    """Most memory of a process so far, in MB."""
    found = [answer["peak_bytes"] for answer in answers]
    return None if None in found else round(max(found) / 1e6)


def growth(answers: Mapping[int, Sequence[Answer]]) -> dict[str, Any]:
    """How cost grows with a size.

    Args:
        answers: Per size one for each round.

    Returns:
        Per size the median seconds of a step, and the cost of a sampled rollout over that at the smallest size, within
        rounds: 1 is linear, below it is better.
    """
    smallest = min(answers)
    result = {}
    for size, given in answers.items():
        against = [
            (own["seconds"] / own["sampled"]) / (other["seconds"] / other["sampled"])
            for own, other in zip(given, answers[smallest], strict=True)
        ]
        result[str(size)] = {
            "seconds_per_step": [round(answer["seconds"], 3) for answer in given],
            "sampled": constant(given, "sampled"),
            "updated": constant(given, "updated"),
            "cost_per_sampled_rollout_over_smallest": spread(against),
        }
    return result


def tables(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    blocks = []
    for tokens, found in result["comparison"].items():
        lines = [
            f"{tokens} tokens",
            "",
            "| step | s | sampled | trained | ms per sampled rollout | peak MB |",
            "|---|---|---|---|---|---|",
        ]
        for name, seconds in found["seconds_per_step"].items():
            counts, each = found["rollouts_per_step"][name], found["milliseconds_per_sampled_rollout"][name]
            cells = [name, f"{statistics.median(seconds):.2f}", counts["sampled"], counts["updated"], _shown(each, 1)]
            lines.append(f"| {' | '.join(map(str, [*cells, found['peak_mb'][name]]))} |")
        if found["step_ratios"]:
            lines += [
                "",
                "| this engine / TRL | per step | per sampled rollout | CPU time per step |",
                "|---|---|---|---|",
            ]
        for pair, ratio in found["step_ratios"].items():
            others = (found["sampled_rollout_ratios"][pair], found["step_cpu_ratios"][pair])
            lines.append(f"| {pair} | {' | '.join(_shown(value, 2) for value in (ratio, *others))} |")
        parts = [
            ", ".join(f"{part} {share:.1%}" for part, share in found["shares"][name].items())
            for name in found["shares"]
        ]
        lines += ["", *(f"{name}: {part}" for name, part in zip(found["shares"], parts, strict=True))]
        blocks.append("\n".join(lines))
    for name, found in result["growth"].items():
        lines = [f"| {name} | s | sampled | cost of one over that at the smallest |", "|---|---|---|---|"]
        for size, figures in found.items():
            seconds, cost = figures["seconds_per_step"], figures["cost_per_sampled_rollout_over_smallest"]
            lines.append(f"| {size} | {statistics.median(seconds):.2f} | {figures['sampled']} | {_shown(cost, 2)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _shown(value: Mapping[str, float], digits: int) -> str:
    return f"{value['median']:.{digits}f} ({value['min']:.{digits}f} to {value['max']:.{digits}f})"
