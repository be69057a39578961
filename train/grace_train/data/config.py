"""Settings of the training data: ``data.*`` of a configuration."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from grace_st.bulk.formats import INPUT_FORMATS
from grace_train.options import ConfigError, option, require, require_text

Mode = Literal["supervised", "unsupervised"]
MODES: tuple[Mode, ...] = get_args(Mode)
OnBadRow = Literal["error", "skip"]

BUNDLED = "nano"
"""Names the bundled training data of grace-nano instead of a file."""

_READING = ("format", "split", "subset")
_FIELDS = ("query_field", "positive_field", "negative_field", "text_field")
_INSTRUCTIONS: tuple[str, ...] = ("query_instruction", "document_instruction")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of training data. What is None is as ``data`` itself says."""

    path: str = option(
        doc="A file (.jsonl, .csv, .tsv, .txt, also with .gz; .parquet), a folder saved by datasets, a "
        "data set on the hub (owner/name, or owner/name@revision), or nano for the bundled data."
    )
    name: str | None = option(None, "Name in logs and reports; the file's name by default.")
    weight: float = option(1.0, "How often its rows are drawn, relative to the rows of the other sources.")
    format: Literal["text", "jsonl", "csv", "tsv", "parquet"] | None = option(
        None, "How a file is read, where its suffix does not tell."
    )
    split: str | None = option(None, "Split of a data set.")
    subset: str | None = option(None, "Subset (configuration) of a data set on the hub.")
    query_field: str | None = option(None, "Field of the query.")
    positive_field: str | None = option(None, "Field of the positive or positives.")
    negative_field: str | None = option(None, "Field of the negative or negatives.")
    text_field: str | None = option(None, "Field of the text in unsupervised training.")
    query_instruction: str | None = option(None, "Goes before each query.")
    document_instruction: str | None = option(None, "Goes before each document, and before each unsupervised text.")

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", self.path, "a file, a folder, a data set's name or nano")
        require(math.isfinite(self.weight) and self.weight > 0, "weight", self.weight, "a number > 0")
        _check_names(self)

    @property
    def label(self) -> str:
        """The name in logs and messages."""
        if self.name:
            return self.name
        place, at, revision = self.path.partition("@")  # a branch may have slashes, as a folder may have an @
        if at and not Path(self.path).expanduser().exists():
            return f"{Path(place).name or place}@{revision}"
        return Path(self.path).name or self.path


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on. The fields, instructions and so on hold for every source that does not say otherwise."""

    train: str | tuple[SourceConfig | str, ...] = option(
        doc="The training data: a file, a folder, a data set's name, nano, or a list of such sources."
    )
    format: Literal["text", "jsonl", "csv", "tsv", "parquet"] | None = option(
        None, "How files are read, where their suffix does not tell."
    )
    split: str = option("train", "Split of data sets.")
    subset: str | None = option(None, "Subset (configuration) of data sets on the hub.")
    query_field: str = option("query", "Field of the query.")
    positive_field: str | None = option(
        None, "Field of the positives, a text or a list of texts; positive or positives by default."
    )
    negative_field: str | None = option(
        None, "Field of the negatives, a text or a list of texts; negative or negatives, if there, by default."
    )
    text_field: str = option("text", "Field of the text in unsupervised training.")
    query_instruction: str | None = option(None, "Goes before each query; it is not pooled.")
    document_instruction: str | None = option(
        None, "Goes before each document, and before each unsupervised text; it is not pooled."
    )
    negatives: int = option(1, "Most negatives used for a query in a step; which of a row's are used is drawn anew.")
    on_bad_row: Literal["error", "skip"] = option(
        "error", "A row that cannot be used: error stops before training, skip leaves it out."
    )
    cache: str | None = option(
        None, "Folder of the memory-mapped copies of the data; grace-st/data in the user's cache folder by default."
    )
    holdout: int = option(
        0, "Most rows kept out of training for evaluation; a query or positive is never on both sides."
    )

    def __post_init__(self) -> None:
        require(
            bool(self.train), "data.train", self.train, "a file, a folder, a data set's name, nano, or a list of them"
        )
        require(self.negatives >= 0, "data.negatives", self.negatives, "an integer >= 0")
        require(self.holdout >= 0, "data.holdout", self.holdout, "an integer >= 0")
        require_text("data.cache", self.cache, "a folder, or null")
        _check_names(self, "data.")
        labels = [source.label for source in self.sources()]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ConfigError(f"two sources of data.train are called {twice[0]!r}: give each a name of its own")

    def sources(self) -> tuple[SourceConfig, ...]:
        """The sources, each with all that it takes over from here."""
        given = (self.train,) if isinstance(self.train, str) else self.train
        return tuple(self.source(item) for item in given)

    def source(self, given: SourceConfig | str) -> SourceConfig:
        """A source with all that it takes over from here."""
        source = SourceConfig(path=given) if isinstance(given, str) else given
        # The fields of the bundled data are what they are.
        names = _INSTRUCTIONS if source.path == BUNDLED else (*_READING, *_FIELDS, *_INSTRUCTIONS)
        missing = {name: getattr(self, name) for name in names if getattr(source, name) is None}
        return dataclasses.replace(source, **missing)


def _check_names(config: SourceConfig | DataConfig, at: str = "") -> None:
    for name in (*_READING, *_FIELDS):
        value = getattr(config, name)
        require(value is None or bool(value.strip()), f"{at}{name}", value, "a name")
    formats = ", ".join(INPUT_FORMATS)
    require(config.format is None or config.format in INPUT_FORMATS, f"{at}format", config.format, f"one of {formats}")
