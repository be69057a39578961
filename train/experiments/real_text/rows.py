"""The rows of the table, and the sizes of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from harness.digests import run_digest
from harness.training import common

BUDGET = 96
"""Tokens of a rationale: nearly all of the start model's end before."""

TIGHT = 48
"""Where one of seven of them does not."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        name: Short, for files and ``--rows``.
        label: For the table.
        changes: ``key=value`` for the configuration; None where nothing is trained.
        rationales: Whether what is measured writes rationales; else it is the prompt alone.
        budget: Tokens of a rationale, in training and when it is measured.
        seeds: How many runs; one where nothing is random.
    """

    name: str
    label: str
    changes: tuple[str, ...] | None = ()
    rationales: bool = True
    budget: int = BUDGET
    seeds: int = 3

    @property
    def reading(self) -> tuple[bool, int]:
        """How its model is read: the untrained row of the same is what its gain is measured from."""
        return self.rationales, self.budget if self.rationales else 0


_UNSUPERVISED = ("mode=unsupervised", "data.train=TEXTS")


def _baseline(name: str, label: str, method: str, rate: str, *changes: str) -> Row:
    own = (f"method={method}", "steps=100", f"optimizer.learning_rate={rate}", *changes)
    return Row(name=name, label=label, changes=own, rationales=False)


ROWS = (
    Row(name="prompt", label="prompt pooling, untrained", changes=None, rationales=False, seeds=1),
    Row(name="reasoning", label="reasoning, untrained", changes=None, seeds=1),
    _baseline("cl", "CL, lr 3e-4", "cl", "3e-4"),
    _baseline("cl-low", "CL, lr 1e-4", "cl", "1e-4"),
    _baseline("simcse", "SimCSE", "simcse", "3e-5", "data.train=TEXTS"),
    Row(name="paper", label="GRACE `paper`", changes=("reward.variant=paper",)),
    Row(name="per-rollout", label="GRACE `per_rollout`", changes=("reward.variant=per_rollout",)),
    Row(name="symmetric", label="GRACE `symmetric`", changes=("reward.variant=symmetric", "rollout.group_size=4")),
    Row(name="infonce", label="GRACE `infonce`", changes=("reward.variant=infonce",)),
    Row(name="hard-3", label="GRACE `per_rollout`, lambda2 = 3", changes=("reward.lambda_hard=3",)),
    Row(name="unsupervised", label="GRACE unsupervised", changes=_UNSUPERVISED),
    Row(
        name="unsupervised-hard-3",
        label="GRACE unsupervised, lambda2 = 3",
        changes=(*_UNSUPERVISED, "reward.lambda_hard=3"),
    ),
    Row(
        name="reasoning-tight",
        label=f"reasoning, untrained, budget of {TIGHT} tokens",
        changes=None,
        budget=TIGHT,
        seeds=1,
    ),
    Row(name="per-rollout-tight", label=f"GRACE `per_rollout`, budget of {TIGHT} tokens", budget=TIGHT),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of a run.

    Attributes:
        steps, batch_size: Of a GRACE run.
        most_new_tokens: Longest budget of any row.
        rows: Rows of MedQuAD to train on.
        queries: Of each split of MedQuAD.
        documents: Of both splits together.
        per_class: Training texts of each class of SNIPS and of Banking77; five times, and half as many are tested.
        pairs: Of STSBenchmark.
        perplexity_texts: Held-out texts whose perplexity is measured.
    """

    steps: int = 30
    batch_size: int = 8
    most_new_tokens: int = BUDGET
    rows: int = 4000
    queries: int = 100
    documents: int = 400
    per_class: int = 6
    pairs: int = 300
    perplexity_texts: int = 200


SMOKE = Settings(steps=2, batch_size=4, most_new_tokens=8, rows=40, queries=4, documents=12, per_class=2, pairs=6)


@dataclass(frozen=True)
class Run:
    """A row with a seed."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.row.name}-{self.seed}"


def runs_of(rows: tuple[Row, ...], seeds: int | None) -> list[Run]:
    """The runs seed by seed, so that an early end is balanced; at most so many seeds of each row."""
    most = max(row.seeds for row in rows)
    return [Run(row, seed) for seed in range(min(most, seeds or most)) for row in rows if seed < row.seeds]


def choose(names: list[str] | None) -> tuple[Row, ...]:
    """The rows of some names; all for none.

    Raises:
        ValueError: A name is none of these.
    """
    known = {row.name for row in ROWS}
    for name in names or ():
        if name not in known:
            raise ValueError(f"there is no row {name!r}; there are {', '.join(row.name for row in ROWS)}")
    return tuple(row for row in ROWS if not names or row.name in names)


def budget_of(row: Row, settings: Settings) -> int:
    """Tokens of a row's rationales, in a run of these sizes."""
    return min(row.budget, settings.most_new_tokens)


def changes_of(run: Run, settings: Settings, *, model: str, data: str, output: str) -> list[str]:
    """The changes to the bundled configuration ``nano`` that make a run.

    Args:
        run: Of a row that is trained.
        settings: Sizes.
        model: Folder of the start model.
        data: Folder of `real_text.data.write`.
        output: Folder that is written.
    """
    own = [change.replace("TEXTS", f"{data}/texts.txt") for change in run.row.changes or ()]
    if settings == SMOKE:  # baselines have step counts of their own
        own = [change for change in own if not change.startswith("steps=")]
    return [
        f"steps={settings.steps}",
        f"batch_size={settings.batch_size}",
        f"prompt.max_new_tokens={budget_of(run.row, settings)}",
        f"data.train={data}/pairs.jsonl",
        f"data.cache={data}/cache",
        *common(own),
        *own,
        f"model={model}",
        f"output={output}",
        f"seed={run.seed}",
    ]


def digest(run: Run, settings: Settings, start_revision: str, data: str) -> str:
    """Tells whether a result that is there is the result of this run, see `harness.digests.run_digest`.

    Args:
        run: The run.
        settings: Sizes.
        start_revision: Hash of the start model's folder.
        data: Hash of all that is trained on and measured, see `real_text.data.fingerprint`.
    """
    changes = None
    if run.row.changes is not None:
        changes = changes_of(run, settings, model="start", data="data", output="output")
    return run_digest(
        changes, start_revision, reading=run.row.reading, settings=asdict(settings), seed=run.seed, data=data
    )
