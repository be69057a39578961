"""``grace-st encode --ray``: what it refuses, and its vectors. On a cluster in this process; tests/engines has Ray."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

import grace_st
from grace_st.cli import main
from grace_st.scale import cluster as cluster_module
from grace_st.scale.sizing import Sizes
from tests.scale.fakes import HereCluster
from tests.tiny import TEXTS

Encode = Callable[..., str]


class Cluster(HereCluster):
    """Takes what `RayCluster` takes."""

    asked: dict[str, Any] = {}  # noqa: RUF012  (one for all tests, as it comes)

    def __init__(self, **options: Any) -> None:
        super().__init__()
        Cluster.asked = options
        self.sizes: Sizes | None = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(grace_folder: Callable[..., Path]) -> Path:
    return grace_folder(max_new_tokens=6)


@pytest.fixture
def encode(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Encode:
    """Runs the command in a folder of its own, with a corpus of two files, and returns what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster_module, "RayCluster", Cluster)
    (tmp_path / "corpus").mkdir()
    for name, texts in (("a.jsonl", TEXTS[:6]), ("b.jsonl", TEXTS[6:])):
        lines = "".join(json.dumps({"text": text, "body": "x"}) + "\n" for text in texts)
        (tmp_path / "corpus" / name).write_text(lines)
    (tmp_path / "file").write_text("x")

    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["encode", *words, "--model", str(folder), "--device", "cpu"]) == code
        output = capsys.readouterr()
        if code:
            assert output.out == ""
            assert output.err.count("\n") == 1, output.err
            return output.err
        assert output.err == ""
        return output.out

    return run


def test_the_vectors_are_those_of_the_model(encode: Encode, folder: Path) -> None:
    said = json.loads(encode("corpus/*.jsonl", "out", "--ray", "--shard-rows", "8", "--chunk-size", "3", "--json"))
    assert (said["rows"], said["shards"], said["status"]) == (10, 2, "written")
    table = pyarrow.parquet.read_table("out")
    assert table["id"].to_pylist() == [f"{'a' if i < 6 else 'b'}.jsonl:{i if i < 6 else i - 6}" for i in range(10)]
    expected = grace_st.load(folder, device="cpu").encode_with_rationales(TEXTS)
    made = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    assert np.abs(made - np.stack([one.embedding for one in expected])).max() < 1e-5
    assert table["rationale_ids"].to_pylist() == [one.rationale_ids for one in expected]
    assert Cluster.asked == {"address": None, "workers": None, "gpus": 0.0}  # of a device that is none of CUDA's
    assert "complete already" in encode("corpus/*.jsonl", "out", "--ray", "--resume")


def test_a_store_folder_and_the_summary(encode: Encode, tmp_path: Path) -> None:
    encode("corpus", "first", "--ray", "--store", "stores")
    (file,) = (tmp_path / "stores").glob("*.sqlite")
    assert file.stat().st_size > 0
    words = ["--store", "stores", "--workers", "3", "--address", "auto"]
    said = " ".join(encode("corpus", "second", "--ray", *words).split())
    assert "10, in 1 files" in said
    assert "10 found in the store" in said
    assert Cluster.asked == {"address": "auto", "workers": 3, "gpus": 0.0}


def test_a_changed_option_is_refused(encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "map_workers", killed)
        assert main(["encode", "corpus", "out", "--ray", "--model", "grace-nano", "--device", "cpu"]) == 130
    assert (tmp_path / "out.partial").is_dir()
    assert "was made with the model's file" in encode("corpus", "out", "--ray", "--resume", code=2)
    assert "was made with --prompt not given" in encode("corpus", "out", "--ray", "--resume", "--prompt", "x", code=2)
    encode("corpus", "out", "--ray", "--overwrite")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["corpus", "out.npy", "--workers", "2"], "--workers has no meaning without --ray"),
        (["-", "out", "--ray"], "--ray needs a file or a folder for INPUT, not standard input"),
        (["corpus", "-", "--ray"], "--ray needs a file or a folder for OUTPUT, not standard output"),
        (["corpus", "out", "--ray", "--output-format", "npy"], "--ray writes Parquet only, not npy"),
        (["corpus", "out", "--ray", "--input-format", "csv"], "--ray reads jsonl and parquet, not csv"),
        (["corpus", "out", "--ray", "--store", "s3://b/c"], "--store needs a folder on a disk"),
        (["corpus", "out", "--ray", "--store", "file"], "is a file, and with --ray --store names a folder"),
        (["corpus", "out", "--ray", "--workers", "0"], "must be an integer >= 1, got '0'"),
        (["corpus", "out", "--ray", "--gpus-per-worker", "-1"], "must be a number >= 0"),
        (["none", "out", "--ray"], "there is no file or folder none"),
        (["corpus", "file", "--ray"], "file is a file, and --ray writes a folder"),
        (["corpus", "out", "--ray", "--field", "title"], r"jsonl: row 0.*there is no field 'title'"),
        (["corpus", "out", "--ray", "--engine", "none"], "(engine must be one of|invalid choice).*torch"),
        (["corpus", "out", "--ray", "--top-p", "0.5"], "top_p=0.5 has no effect in greedy decoding"),
        (
            ["corpus", "out", "--ray", "--prompt-name", "x"],
            "'x' is not one of the model's prompts: .*query",
        ),
    ],
)
def test_misuse_is_one_line(encode: Encode, tmp_path: Path, words: list[str], message: str) -> None:
    assert re.search(message, encode(*words, code=2))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_without_ray_the_pip_line_is_named(encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "--ray needs Ray: pip install 'grace-st[ray]'" in encode("corpus", "out", "--ray", code=2)
    assert not (tmp_path / "out.partial").exists()
