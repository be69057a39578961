"""The folder that a reader of the pages would have: the files that commands and snippets name, small."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import grace_st
from tests.docs.pages import ROOT

NANO_ROWS = [
    ("a country governed from Paris", "France lies in Western Europe.", "Norway is part of Scandinavia."),
    ("a country governed from Oslo", "Norway is part of Scandinavia.", "Kenya is a land in East Africa."),
    ("a country governed from Nairobi", "Kenya is a land in East Africa.", "Japan lies in East Asia."),
    ("a country governed from Tokyo", "Japan lies in East Asia.", "France lies in Western Europe."),
]

CONFIGURATION = "model: grace-nano\noutput: runs/my\nbatch_size: 2\ndata:\n  train: pairs.jsonl\n"


def make_world(folder: Path, model: Path) -> None:
    """Fill an empty folder.

    Args:
        folder: Where commands and snippets are run.
        model: A model folder; it stands in for the reader's own ones.
    """
    (folder / "models").mkdir()
    for name in ("mine", "qwen-1.5b"):
        shutil.copytree(model, folder / "models" / name)
    (folder / "texts.txt").write_text("".join(f"{query}\n" for query, _, _ in NANO_ROWS), encoding="utf-8")
    (folder / "corpus.txt").write_text("".join(f"{text}\n" for row in NANO_ROWS for text in row[:2]), encoding="utf-8")
    documents = [{"id": f"d{number}", "body": row[1], "text": row[1]} for number, row in enumerate(NANO_ROWS)]
    pairs = [
        {
            **{"query": query, "positive": positive, "negative": negative},
            **{"question": query, "answer": positive, "hard_negatives": negative},
        }
        for query, positive, negative in NANO_ROWS
    ]
    (folder / "corpus").mkdir()
    _write(folder / "corpus.jsonl", documents)
    _write(folder / "corpus" / "part-0.jsonl", documents)
    with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write((folder / "corpus.jsonl").read_text(encoding="utf-8"))
    _write(folder / "pairs.jsonl", pairs)
    _write(folder / "e5.jsonl", pairs)
    (folder / "my.yaml").write_text(CONFIGURATION, encoding="utf-8")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    loaded = grace_st.load(folder / "models" / "mine", device="cpu")
    loaded.encode(["France lies in Western Europe."], store=folder / "rationales.sqlite")


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
