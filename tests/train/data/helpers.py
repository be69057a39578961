"""Small training files for the tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from grace_train.data.config import DataConfig, Mode, SourceConfig
from grace_train.data.prepare import prepare_source
from grace_train.data.sources import TrainingData, TrainingSource
from grace_train.data.store import RowStore


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(query: str, *positives: str, negatives: Iterable[str] = ()) -> dict[str, Any]:
    return {"query": query, "positive": list(positives), "negative": list(negatives)}


def pairs(count: int, name: str = "") -> list[dict[str, Any]]:
    """Rows that share nothing."""
    return [pair(f"{name}q{i}", f"{name}p{i}", negatives=[f"{name}n{i}"]) for i in range(count)]


def prepare(path: Path | str, mode: Mode = "supervised", **options: Any) -> RowStore:
    """The store of a file, with its copy beside it."""
    cache = options.pop("cache", str(Path(path).parent / "cache"))
    config = DataConfig(train=str(path), cache=cache, **options)
    return prepare_source(config.sources()[0], config, mode)


def training_data(
    folder: Path, *sources: list[Any], weights: tuple[float, ...] = (), mode: Mode = "supervised", negatives: int = 1
) -> TrainingData:
    made = []
    for index, rows in enumerate(sources):
        store = prepare(write_jsonl(folder / f"{index}.jsonl", rows), mode)
        weight = weights[index] if weights else 1.0
        made.append(TrainingSource(name=str(index), store=store, rows=np.arange(len(store)), weight=weight))
    return TrainingData(sources=tuple(made), mode=mode, negatives=negatives)


def source(path: Path | str, **options: Any) -> SourceConfig:
    return SourceConfig(path=str(path), **options)
