"""Lay public data sets out as their repositories on the hub, for ``grace-st eval mteb --data-root``.

``python evaluation/results/hub_layout.py SOURCE DESTINATION`` takes what the data sets' own publishers offer:

- ``SOURCE/banking77/{train,test}.csv`` and ``categories.json``: PolyAI-LDN/task-specific-datasets
- ``SOURCE/stsb/stsb-en-{train,dev,test}.csv``: PhilipMay/stsb-multi-mt
- ``SOURCE/xquad_en/xquad.en.json``: google-deepmind/xquad

and writes ``mteb/banking77``, ``mteb/stsbenchmark-sts`` and ``mteb/XQuADRetrieval`` (English). Their texts and labels
are those that mteb's tasks read; that they are those of the revisions that mteb names cannot be checked without the
hub.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Rows = Iterable[Mapping[str, Any]]


def write_repository(folder: Path, configs: Mapping[str, Mapping[str, Rows]]) -> None:
    """Write a data set: a JSONL file for each split of each configuration, and the README that names them."""
    head = ["---", "configs:"]
    for config, splits in configs.items():
        head += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = folder / config / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            head += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*head, "---", ""]), encoding="utf-8")


def banking77(source: Path) -> dict[str, dict[str, Rows]]:
    """Queries to a bank with one of 77 intents."""
    labels = json.loads((source / "categories.json").read_text(encoding="utf-8"))
    number = {name: index for index, name in enumerate(labels)}

    def rows(split: str) -> Rows:
        with (source / f"{split}.csv").open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                yield {"text": row["text"], "label": number[row["category"]], "label_text": row["category"]}

    return {"default": {"train": list(rows("train")), "test": list(rows("test"))}}


def stsbenchmark(source: Path) -> dict[str, dict[str, Rows]]:
    """Pairs of sentences with a similarity from 0 to 5."""

    def rows(name: str) -> Rows:
        with (source / f"stsb-en-{name}.csv").open(encoding="utf-8", newline="") as lines:
            for first, second, score in csv.reader(lines):
                yield {"sentence1": first, "sentence2": second, "score": float(score)}

    names = {"train": "train", "validation": "dev", "test": "test"}
    return {"default": {split: list(rows(name)) for split, name in names.items()}}


def xquad(source: Path) -> dict[str, dict[str, Rows]]:
    """Questions, and the paragraphs of Wikipedia that answer them."""
    articles = json.loads((source / "xquad.en.json").read_text(encoding="utf-8"))["data"]
    corpus, queries, qrels = [], [], []
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        document = f"d{len(corpus)}"
        corpus.append({"_id": document, "title": "", "text": paragraph["context"]})
        for question in paragraph["qas"]:
            queries.append({"_id": question["id"], "text": question["question"]})
            qrels.append({"query-id": question["id"], "corpus-id": document, "score": 1})
    parts = {"en-corpus": corpus, "en-queries": queries, "en-qrels": qrels}
    return {config: {"validation": rows} for config, rows in parts.items()}


def write_all(source: Path, destination: Path) -> None:
    """Write all three."""
    write_repository(destination / "mteb/banking77", banking77(source / "banking77"))
    write_repository(destination / "mteb/stsbenchmark-sts", stsbenchmark(source / "stsb"))
    write_repository(destination / "mteb/XQuADRetrieval", xquad(source / "xquad_en"))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python hub_layout.py SOURCE DESTINATION")
    write_all(Path(sys.argv[1]), Path(sys.argv[2]))
