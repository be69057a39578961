"""Data sets in the layout of the hub: small ones made up here, and public ones from GRACE_ST_DATA."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
COLOURS = ("red", "green", "blue", "white")
THINGS = ("a house", "the sea in winter", "an old car", "birds over the town", "a long letter", "rain")


def _hub_layout() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hub_layout", ROOT / "evaluation/results/hub_layout.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hub_layout = _hub_layout()


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is read from, or left in, the user's own cache."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "mteb-cache"))
    yield


def write_small_data(root: Path) -> Path:
    """Made-up data for the real classes Banking77Classification, STSBenchmark and XQuADRetrieval:en."""
    texts = [f"{thing}, {colour}" for thing in THINGS for colour in COLOURS]
    rows = [{"text": text, "label": i % 4, "label_text": COLOURS[i % 4]} for i, text in enumerate(texts)]
    hub_layout.write_repository(root / "mteb/banking77", {"default": {"train": rows, "test": rows[:12]}})
    pairs = [
        {"sentence1": first, "sentence2": second, "score": 5.0 - abs(i - j)}
        for i, first in enumerate(texts[:5])
        for j, second in enumerate(texts[:4])
    ]
    hub_layout.write_repository(root / "mteb/stsbenchmark-sts", {"default": {"test": pairs, "train": pairs[:2]}})
    corpus = [{"_id": f"d{i}", "title": f"Title {i}", "text": text} for i, text in enumerate(texts[:12])]
    queries = [{"_id": f"q{i}", "text": f"Where is {text}?"} for i, text in enumerate(texts[:6])]
    qrels = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in range(6)]
    parts = {"en-corpus": corpus, "en-queries": queries, "en-qrels": qrels}
    hub_layout.write_repository(
        root / "mteb/XQuADRetrieval", {name: {"validation": part} for name, part in parts.items()}
    )
    return root


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def real_data(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real-data")
    hub_layout.write_all(data_dir, root)
    return root
