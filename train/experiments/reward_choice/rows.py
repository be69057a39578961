"""The table's rows: what is compared, declared. Knows nothing about how a run is made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Start = Literal["vague", "plain"]
"""Start models: grace-nano, a third of whose corpus rationales are vague, and the same recipe without vague ones."""

BUDGET = 72
"""Tokens of a rationale, in training and evaluation, as in the bundled configuration ``nano``."""

REFERENCE = "reasoning"
"""The untrained row with rationales."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        name: Short, for files and ``--rows``.
        label: For the table.
        section: Heading in the table.
        start: The start model.
        changes: ``key=value`` for the configuration ``nano``; None where nothing is trained.
        budget: Tokens of a rationale when it is measured; 0 measures the prompt alone.
        span: What is pooled.
        system_prompt: Whether the prompt has GRACE's system message.
        seeds: How many runs; one where nothing is random.
        is_option: Whether it can be chosen as the default: rows that cost more than others cannot.
    """

    name: str
    label: str
    section: str
    start: Start = "vague"
    changes: tuple[str, ...] | None = ()
    budget: int = BUDGET
    span: Literal["text_and_rationale", "rationale"] = "text_and_rationale"
    system_prompt: bool = True
    seeds: int = 3
    is_option: bool = True

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"{self.name}: seeds must be at least 1, got {self.seeds}")
        if self.changes is None and self.seeds != 1:
            raise ValueError(f"{self.name}: nothing is random without training, so one seed is enough")

    @property
    def is_trained(self) -> bool:
        """Whether the start model is trained at all."""
        return self.changes is not None

    @property
    def key(self) -> str:
        """Names the row among all."""
        return f"{self.start}-{self.name}"

    @property
    def reading(self) -> tuple[Start, str, int, bool]:
        """How its model is read: an untrained row of the same is what its gain is measured from."""
        return self.start, self.span, self.budget, self.system_prompt


HEADLINE = "headline"
BASELINES = "baselines"
TERMS = "weights of the terms"
SPANS = "pooled span"
PENALTIES = "length penalty, budget of 24 tokens"
ALGORITHMS = "algorithms"
REMEDIES = "remedies"
SECTIONS = (HEADLINE, BASELINES, TERMS, SPANS, PENALTIES, ALGORITHMS, REMEDIES)

_CL = ("method=cl", "steps=100", "optimizer.learning_rate=3e-4")
_TIGHT = "prompt.max_new_tokens=24"
_UNSUPERVISED = "mode=unsupervised"
_HARD = "reward.lambda_hard=3"


def _headline(start: Start) -> list[Row]:
    def trained(name: str, label: str, *changes: str, budget: int = BUDGET) -> Row:
        return Row(name=name, label=label, section=HEADLINE, start=start, changes=changes, budget=budget, seeds=5)

    return [
        Row(name=REFERENCE, label="reasoning, untrained", section=HEADLINE, start=start, changes=None, seeds=1),
        Row(
            name="prompt",
            label="prompt pooling, untrained",
            section=HEADLINE,
            start=start,
            changes=None,
            budget=0,
            seeds=1,
        ),
        trained("cl", "CL", *_CL, budget=0),
        trained("paper", "GRACE `paper`", "reward.variant=paper"),
        trained("per-rollout", "GRACE `per_rollout`", "reward.variant=per_rollout"),
        trained("symmetric", "GRACE `symmetric`", "reward.variant=symmetric", "rollout.group_size=4"),
        trained("infonce", "GRACE `infonce`", "reward.variant=infonce"),
        trained("unsupervised", "GRACE unsupervised", _UNSUPERVISED),
    ]


def _row(section: str, name: str, label: str, *changes: str) -> Row:
    return Row(name=name, label=label, section=section, changes=changes)


def _tight(name: str, label: str, *changes: str) -> Row:
    return replace(_row(PENALTIES, name, label, _TIGHT, *changes), budget=24)


def _rest() -> Iterable[Row]:
    # 1. Without rationales.
    base = Row(name="base", label="Base", section=BASELINES, changes=None, budget=0, system_prompt=False, seeds=1)
    yield base
    simcse = _row(BASELINES, "simcse", "SimCSE", "method=simcse", "steps=100", "optimizer.learning_rate=3e-5")
    yield replace(simcse, budget=0)
    for name, label, costs_as_much, *changes in (
        ("cl-low", "CL, lr 1e-4", True, "steps=100", "optimizer.learning_rate=1e-4"),
        ("cl-long", "CL, three times the steps", False, "steps=300", "optimizer.learning_rate=3e-4"),
        ("cl-batch", "CL, batch of 32", False, "steps=50", "batch_size=32", "optimizer.learning_rate=3e-4"),
    ):
        yield replace(_row(BASELINES, name, label, "method=cl", *changes), budget=0, is_option=costs_as_much)
    # 2. What the terms of the reward do.
    yield _row(TERMS, "no-consistency", "`per_rollout`, lambda1 = 0", "reward.lambda_consistency=0")
    yield _row(TERMS, "no-hard", "`per_rollout`, lambda2 = 0", "reward.lambda_hard=0")
    yield _row(TERMS, "neither", "`per_rollout`, both 0", "reward.lambda_consistency=0", "reward.lambda_hard=0")
    yield _row(TERMS, "hard-1", "`per_rollout`, lambda2 = 1", "reward.lambda_hard=1")
    yield _row(TERMS, "hard-3", "`per_rollout`, lambda2 = 3", "reward.lambda_hard=3")
    yield _row(
        TERMS,
        "unsupervised-no-consistency",
        "unsupervised, lambda1 = 0",
        _UNSUPERVISED,
        "reward.lambda_consistency=0",
    )
    yield _row(TERMS, "unsupervised-hard-1", "unsupervised, lambda2 = 1", _UNSUPERVISED, "reward.lambda_hard=1")
    yield _row(TERMS, "unsupervised-hard-3", "unsupervised, lambda2 = 3", _UNSUPERVISED, "reward.lambda_hard=3")
    # What won, on the other start model.
    yield replace(_row(TERMS, "hard-3", "`per_rollout`, lambda2 = 3", "reward.lambda_hard=3"), start="plain")
    yield replace(
        _row(TERMS, "unsupervised-hard-3", "unsupervised, lambda2 = 3", _UNSUPERVISED, "reward.lambda_hard=3"),
        start="plain",
    )
    # 3. The rationale alone.
    span = Row(
        name="span", label="reasoning, untrained", section=SPANS, changes=None, span="rationale", budget=BUDGET, seeds=1
    )
    yield span
    alone = "prompt.pooling_span=rationale"
    for variant in ("paper", "per_rollout"):
        name = f"span-{variant.replace('_', '-')}"
        row = _row(SPANS, name, f"GRACE `{variant}`", alone, f"reward.variant={variant}")
        yield replace(row, span="rationale")
    row = _row(SPANS, "span-hard-3", "GRACE `per_rollout`, lambda2 = 3", alone, "reward.lambda_hard=3")
    yield replace(row, span="rationale")
    # 4. The two penalties differ only where rationales reach the budget.
    yield replace(
        span, name="tight", label="reasoning, untrained", section=PENALTIES, span="text_and_rationale", budget=24
    )
    for variant in ("paper", "per_rollout"):
        for penalty in ("replace", "below_group"):
            yield _tight(
                f"tight-{variant}-{penalty}".replace("_", "-"),
                f"`{variant}`, `{penalty}`",
                f"reward.variant={variant}",
                f"reward.length_penalty={penalty}",
            )
    # 5. Table 4; grpo is the headline's.
    for algorithm in ("rloo", "dapo", "reinforce++", "remax"):
        name = algorithm.replace("+", "p")
        yield _row(ALGORITHMS, name, f"`per_rollout`, {algorithm}", f"algorithm.name={algorithm}")
    # 6. Against repeated attributes, groups that become identical, collapse and drift.
    yield _row(REMEDIES, "entropy", "`per_rollout`, entropy 0.01", "algorithm.entropy=0.01")
    yield _row(REMEDIES, "kl", "`per_rollout`, kl 0.05", "algorithm.kl=0.05")
    yield _row(REMEDIES, "hot", "`per_rollout`, temperature 1.3", "rollout.temperature=1.3")
    yield _row(REMEDIES, "low-rate", "`per_rollout`, lr 3e-5", "optimizer.learning_rate=3e-5")
    yield _row(REMEDIES, "high-rate", "`per_rollout`, lr 3e-4", "optimizer.learning_rate=3e-4")
    yield replace(_row(REMEDIES, "long", "`per_rollout`, twice the steps", "steps=double"), is_option=False)
    yield _row(REMEDIES, "paper-kl", "`paper`, kl 0.05", "reward.variant=paper", "algorithm.kl=0.05")
    yield _row(REMEDIES, "unsupervised-entropy", "unsupervised, entropy 0.01", _UNSUPERVISED, "algorithm.entropy=0.01")
    yield _row(REMEDIES, "unsupervised-hot", "unsupervised, temperature 1.3", _UNSUPERVISED, "rollout.temperature=1.3")
    yield _row(REMEDIES, "unsupervised-kl", "unsupervised, kl 0.05", _UNSUPERVISED, "algorithm.kl=0.05")
    for name, label, weight in (
        ("long", "twice the steps", "0.2"),
        ("hard-3-long", "lambda2 = 3, twice the steps", "3"),
    ):
        changes = (_UNSUPERVISED, f"reward.lambda_hard={weight}", "steps=double")
        yield replace(_row(REMEDIES, f"unsupervised-{name}", f"unsupervised, {label}", *changes), is_option=False)
    # Half of the rationales that lambda2 = 3 trains state an attribute twice.
    near = (_HARD, "algorithm.kl=0.05")
    yield _row(REMEDIES, "hard-3-kl", "`per_rollout`, lambda2 = 3, kl 0.05", *near)
    for weight in (10, 30):
        name, label = f"hard-3-repetition-{weight}", f"`per_rollout`, lambda2 = 3, repetition {weight}"
        yield _row(REMEDIES, name, label, _HARD, f"reward.repetition={weight}")
    texts = (_UNSUPERVISED, _HARD, "reward.repetition=10")
    yield _row(REMEDIES, "unsupervised-hard-3-repetition", "unsupervised, lambda2 = 3, repetition 10", *texts)
    soft = ("reward.length_penalty=soft", f"reward.soft_buffer={BUDGET // 2}")
    yield _row(REMEDIES, "hard-3-soft", "`per_rollout`, lambda2 = 3, `soft` over half of the budget", _HARD, *soft)
    # What mixtures of the variants come to, and the two that gain most together.
    nearest = ("reward.lambda_hard=1", "reward.hard_reduction=max")
    yield _row(REMEDIES, "hard-max", "`per_rollout`, lambda2 = 1 of the nearest query", *nearest)
    both = ("reward.variant=symmetric", "rollout.group_size=4", _HARD)
    yield _row(REMEDIES, "symmetric-hard-3", "`symmetric`, lambda2 = 3", *both)
    # Early stopping: of the rows that fall or drift, the weights of the best of a few steps.
    early = ("eval.every=10", "eval.dev=nano:dev", "eval.max_queries=100", "eval.keep=best", "eval.kl=false")
    for name, label, change in (
        ("infonce", "`infonce`", "reward.variant=infonce"),
        ("high-rate", "`per_rollout`, lr 3e-4", "optimizer.learning_rate=3e-4"),
    ):
        row = _row(REMEDIES, f"{name}-early", f"{label}, best of steps 0, 10, 20 and 30 on dev", change, *early)
        yield replace(row, is_option=False)  # dev has chosen once already
    short = replace(
        base,
        name="short",
        label="reasoning, untrained, budget of 48 tokens",
        section=REMEDIES,
        system_prompt=True,
        budget=48,
    )
    yield short
    yield replace(
        short,
        name="hard-3-short",
        label="`per_rollout`, lambda2 = 3, budget of 48 tokens",
        changes=("prompt.max_new_tokens=48", "reward.lambda_hard=3"),
        seeds=3,
    )


ROWS: tuple[Row, ...] = (*_headline("vague"), *_headline("plain"), *_rest())


def choose(names: Sequence[str]) -> tuple[Row, ...]:
    """The rows of some names: `Row.key`, `Row.name` or a section; all for none.

    Raises:
        ValueError: A name is none of these.
    """
    if not names:
        return ROWS
    known = {name for row in ROWS for name in (row.key, row.name, row.section)}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no row {name!r}; there are {', '.join(sorted(known))}")
    return tuple(row for row in ROWS if {row.key, row.name, row.section} & set(names))


@dataclass(frozen=True)
class Run:
    """A row with a seed."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.row.key}-{self.seed}"


def runs_of(rows: Sequence[Row], seeds: int | None = None) -> list[Run]:
    """The runs in the order in which they are made: headline first, seed by seed, so that an early end is balanced.

    Args:
        rows: What is compared.
        seeds: At most so many of each row.
    """
    headline = [row for row in rows if row.section == HEADLINE]
    others = [row for row in rows if row.section != HEADLINE]
    return [
        Run(row, seed)
        for part in (headline, others)
        for seed in range(max((row.seeds for row in part), default=0))
        for row in part
        if seed < min(row.seeds, seeds or row.seeds)
    ]
