"""What a table or a figure needs, declared. Knows nothing about how it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from grace_eval.reproduce.measures.base import Measure

Data = Literal["pairs", "texts"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run of ``grace-st train``.

    Attributes:
        config: Name of a bundled configuration.
        changes: ``key=value``; model, output, data and seed are set when it is run.
        data: What it is trained on: pairs with negatives, or single texts.
    """

    config: str
    changes: tuple[str, ...] = ()
    data: Data = "pairs"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model folder to be made.

    Attributes:
        label: Of its folder, for people.
        source: The causal LM that it begins with: a name on the hub, or ``grace-nano``; of an encoder its own name.
        system_prompt: Whether the prompt has GRACE's system message; only untrained models go without.
        training: What is done with it; None is nothing.
        after: The same run with fewer steps, from whose end this one goes on; what is trained is the same without.
        is_encoder: It is an encoder, which writes nothing.
    """

    label: str
    source: str
    system_prompt: bool = True
    training: Training | None = None
    after: Model | None = None
    is_encoder: bool = False


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a model folder is read; what is None is as the folder says.

    Attributes:
        budget: Most tokens of a rationale; 0 pools the prompt alone.
        pooling: The reduction.
        span: What is pooled.
    """

    budget: int | None = None
    pooling: str | None = None
    span: str | None = None

    def config(self) -> dict[str, str | int]:
        """The fields of a model's configuration that are replaced."""
        given = {"max_new_tokens": self.budget, "pooling": self.pooling, "pooling_span": self.span}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measured thing.

    Attributes:
        name: Unique in its study; of its file.
        labels: What it is, by the columns of the CSV file.
        model: The model.
        reading: How it is read.
        measures: What is measured.
    """

    name: str
    labels: Mapping[str, str | int | float]
    model: Model
    reading: Reading = field(default_factory=Reading)
    measures: tuple[Measure, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table or a figure.

    Attributes:
        kind: ``"table"`` or ``"figure"``.
        number: The paper's.
        title: What it shows.
        cells: In the order in which they are done.
        notes: Where it differs from the paper, by design or because the paper does not say; for the report.
        stamp: What every output says first; None for full studies.
    """

    kind: Literal["table", "figure"]
    number: int
    title: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    stamp: str | None = None

    def __post_init__(self) -> None:
        names = [cell.name for cell in self.cells]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{self.name} has two cells {twice[0]}")

    @property
    def name(self) -> str:
        """Of its folder and files."""
        return f"{self.kind}-{self.number}"
