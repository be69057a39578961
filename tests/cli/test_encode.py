"""``grace-st encode``: files against the library, refusals, and interruptions of real processes."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import grace_st
from grace_st.bulk import DEFAULT_CHUNK_SIZE
from grace_st.cli import main
from tests.tiny import TEXTS

PROGRAM = Path(sys.executable).with_name("grace-st")
BUDGET = 6

Encode = Callable[..., str]


@pytest.fixture(scope="module")
def folder(grace_folder: Callable[..., Path]) -> Path:
    return grace_folder(max_new_tokens=BUDGET)


@pytest.fixture(scope="module")
def model(folder: Path) -> grace_st.GraceModel:
    return grace_st.load(folder, device="cpu")


@pytest.fixture
def encode(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Encode:
    """Runs the command in a folder of its own and returns what it says on stdout."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["encode", "--model", str(folder), "--device", "cpu", *words]) == code
        output = capsys.readouterr()
        if code:
            assert output.out == ""
            assert output.err.count("\n") == 1, output.err
            return output.err
        assert output.err == "" or "-" in words
        return output.out

    return run


def _stdin(monkeypatch: pytest.MonkeyPatch, content: str | bytes) -> None:
    data = content.encode("utf-8") if isinstance(content, str) else content
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def _jsonl(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text, "key": f"k{i}"}) + "\n" for i, text in enumerate(texts))


def _csv(texts: list[str]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([["key", "text"], *([f"k{i}", text] for i, text in enumerate(texts))])
    return stream.getvalue()


def _lines(content: str | Path) -> list[dict[str, Any]]:
    text = content if isinstance(content, str) else content.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _check_rows(rows: list[dict[str, Any]], encodings: list[grace_st.Encoding], ids: list[Any]) -> None:
    assert [row["id"] for row in rows] == ids
    for row, encoding in zip(rows, encodings, strict=True):
        assert row["rationale"] == encoding.rationale
        assert row["rationale_ids"] == encoding.rationale_ids
        assert row["finished"] is encoding.finished


def _vectors(encodings: list[grace_st.Encoding]) -> np.ndarray:
    return np.stack([encoding.embedding for encoding in encodings])


# ------------------------------------------------------------ formats


def test_every_input_format(encode: Encode, model: grace_st.GraceModel, tmp_path: Path) -> None:
    expected = _vectors(model.encode_with_rationales(TEXTS))
    (tmp_path / "a.jsonl").write_text(_jsonl(TEXTS))
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(_jsonl(TEXTS).encode()))
    (tmp_path / "a.csv").write_text(_csv(TEXTS), encoding="utf-8", newline="")
    table = pyarrow.table({"text": TEXTS, "key": [f"k{i}" for i in range(len(TEXTS))]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.ndjson.gz", "a.csv", "a.parquet"):
        encode(name, f"{name}.npy", "--id-field", "key")
        assert np.array_equal(np.load(f"{name}.npy"), expected), name
        assert [row["id"] for row in _lines(tmp_path / f"{name}.rows.jsonl")] == list(table["key"].to_pylist())
    lines = [text for text in TEXTS if "\n" not in text]
    (tmp_path / "a.dat").write_text("\r\n".join(lines), encoding="utf-8")
    encode("a.dat", "a.npy", "--input-format", "text")
    assert np.array_equal(np.load("a.npy"), _vectors(model.encode_with_rationales(lines)))


def test_every_output_format(encode: Encode, model: grace_st.GraceModel, tmp_path: Path) -> None:
    encodings = model.encode_with_rationales(TEXTS)
    ids = list(range(len(TEXTS)))
    (tmp_path / "in.jsonl").write_text(_jsonl(TEXTS))
    encode("in.jsonl", "out.npy")
    vectors = np.load("out.npy", mmap_mode="r")
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, _vectors(encodings))
    _check_rows(_lines(tmp_path / "out.rows.jsonl"), encodings, ids)

    encode("in.jsonl", "out.jsonl")
    rows = _lines(tmp_path / "out.jsonl")
    _check_rows(rows, encodings, ids)
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), _vectors(encodings))

    encode("in.jsonl", "out.bin", "--output-format", "parquet")
    rows = pyarrow.parquet.read_table("out.bin").to_pylist()
    _check_rows(rows, encodings, ids)
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), _vectors(encodings))

    encode("in.jsonl", "bare.parquet", "--no-rationales")
    table = pyarrow.parquet.read_table("bare.parquet")
    assert table.column_names == ["id", "embedding"]
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), _vectors(encodings))


def test_standard_input_and_output(
    encode: Encode,
    model: grace_st.GraceModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [text for text in TEXTS if "\n" not in text]
    _stdin(monkeypatch, "".join(f"{line}\n" for line in lines))
    rows = _lines(encode("-", "-"))
    encodings = model.encode_with_rationales(lines)
    _check_rows(rows, encodings, list(range(len(lines))))
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), _vectors(encodings))

    _stdin(monkeypatch, '{"body": "a"}\n{}\n{"body": "b"}\n')
    assert main(["encode", "-", "-", "--model", str(model_folder(model)), "--field", "body", *JSON_INPUT, *SKIP]) == 0
    output = capsys.readouterr()
    assert [row["id"] for row in _lines(output.out)] == [0, 2]
    assert "1 bad row left out" in output.err
    _stdin(monkeypatch, "a\nb\n")
    encode("-", "out.npy", "--quiet")
    assert len(np.load("out.npy")) == 2


JSON_INPUT = ["--input-format", "jsonl"]
SKIP = ["--on-bad-row", "skip"]


def model_folder(model: grace_st.GraceModel) -> Path:
    return Path(model[0].tokenizer.name_or_path)


def test_texts_that_files_trip_over(encode: Encode, model: grace_st.GraceModel, tmp_path: Path) -> None:
    texts = ["lone \ud800 surrogate", "two\nlines\r\n", "\u2028\x85\x0b\x00", "<|im_end|>", "\ufeff"]
    (tmp_path / "in.jsonl").write_text(_jsonl(texts))
    encodings = model.encode_with_rationales(texts)
    for name in ("out.npy", "out.jsonl", "out.parquet"):
        encode("in.jsonl", name)
    assert np.array_equal(np.load("out.npy"), _vectors(encodings))
    _check_rows(_lines(tmp_path / "out.jsonl"), encodings, list(range(5)))


# ------------------------------------------------------------ options


def test_options_reach_the_model(encode: Encode, model: grace_st.GraceModel, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(_jsonl(TEXTS))

    def check(words: str, expected: list[grace_st.Encoding]) -> None:
        encode("in.jsonl", "out.npy", "--overwrite", *words.split())
        assert np.array_equal(np.load("out.npy"), _vectors(expected)), words

    check("--max-new-tokens 3", model.encode_with_rationales(TEXTS, max_new_tokens=3))
    check(
        "--do-sample --temperature 1.5 --top-p 0.9 --top-k 20 --repetition-penalty 1.2 --seed 3",
        model.encode_with_rationales(
            TEXTS, do_sample=True, temperature=1.5, top_p=0.9, top_k=20, repetition_penalty=1.2, seed=3
        ),
    )
    check("--prompt instruction:", model.encode_with_rationales(TEXTS, prompt="instruction:"))
    check("--slots 2", grace_st.load(folder, device="cpu", engine_kwargs={"slots": 2}).encode_with_rationales(TEXTS))
    half = grace_st.load(folder, device="cpu", model_kwargs={"dtype": "bfloat16"})
    check("--dtype bfloat16", half.encode_with_rationales(TEXTS))
    encode("in.jsonl", "out.npy", "--overwrite", "--normalize")
    expected = model.encode(TEXTS, normalize_embeddings=True, batch_size=DEFAULT_CHUNK_SIZE)
    np.testing.assert_allclose(np.load("out.npy"), expected, atol=1e-6)


def test_a_named_prompt(encode: Encode, model: grace_st.GraceModel, folder: Path, tmp_path: Path) -> None:
    named = grace_st.load(folder, device="cpu", prompts={"query": "find: "})
    named.save_pretrained(str(tmp_path / "named"))
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    encode("in.txt", "out.npy", "--prompt-name", "query", "--model", "named")
    assert np.array_equal(np.load("out.npy"), _vectors(model.encode_with_rationales(["one", "two"], prompt="find: ")))


def test_the_summary_as_json(encode: Encode, model: grace_st.GraceModel, tmp_path: Path) -> None:
    texts = ["a", "b", "word " * 300]
    (tmp_path / "in.jsonl").write_text(_jsonl(texts) + "{}\n")
    told = json.loads(encode("in.jsonl", "out.npy", "--json", *SKIP))
    encodings = model.encode_with_rationales(texts)
    assert told.pop("seconds") > 0
    assert told == {
        "output": "out.npy",
        "files": [str(tmp_path / "out.npy"), str(tmp_path / "out.rows.jsonl")],
        "status": "written",
        "rows": 3,
        "rows_resumed": 0,
        "bad_rows": 1,
        "embedding_dimension": 32,
        "mean_rationale_tokens": sum(len(encoding.rationale_ids) for encoding in encodings) / 3,
        "finished_share": sum(encoding.finished for encoding in encodings) / 3,
        "truncated_texts": 1,
    }
    again = json.loads(encode("in.jsonl", "out.npy", "--json", "--resume"))
    assert again["status"] == "already complete"
    assert "nothing to do" in encode("in.jsonl", "out.npy", "--resume")


def test_the_summary_for_people(encode: Encode, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(_jsonl(["a", "word " * 300]) + "{}\n")
    shown = encode("in.jsonl", "out.npy", *SKIP)
    for part in ("out.npy and out.rows.jsonl", "32 dimensions", "1 of the texts", "1, left out", "on average"):
        assert part in shown
    assert "\x1b" not in shown
    assert encode("in.jsonl", "out.npy", "--overwrite", "--quiet", *SKIP) == ""


def test_the_bundled_model_by_its_name(encode: Encode, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a country governed from Paris\n")
    encode("in.txt", "out.jsonl", "--model", "grace-nano")
    (row,) = _lines(tmp_path / "out.jsonl")
    assert "France" in row["rationale"]


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["no.txt", "out.npy"], "there is no file no.txt"),
        (["folder.txt", "out.npy"], "folder.txt is a folder"),
        (["in.dat", "out.npy"], "--input-format"),
        (["in.txt", "out.dat"], "--output-format"),
        (["in.txt", "no/out.npy"], "make it first"),
        (["in.txt", "folder.npy"], "choose another output"),
        (["in.txt", "there.npy"], "--overwrite"),
        (["in.jsonl", "in.jsonl", "--overwrite"], "which would be replaced"),
        (["empty.txt", "out.npy"], "nothing to encode"),
        (["empty.jsonl", "-"], "nothing to encode"),
        (["bad.jsonl", "out.npy"], "bad.jsonl: row 1 (line 2): there is no field 'text' (found: 'body'"),
        (["bad.jsonl", "-"], "bad.jsonl: row 1 (line 2)"),
        (["in.jsonl", "out.npy", "--field", "body", "--on-bad-row", "skip"], "none of the 2 rows"),
        (["in.csv", "out.npy", "--field", "body"], "no column 'body'"),
        (["latin.txt", "out.npy"], "latin.txt: row 1: line 2 is not valid UTF-8"),
        (["in.txt", "out.npy", "--field", "body"], "plain text has no fields"),
        (["in.txt", "out.npy", "--id-field", "id"], "plain text has no fields"),
        (["-", "out.npy", "--input-format", "parquet"], "name a file"),
        (["in.txt", "-", "--output-format", "npy"], "name a file"),
        (["in.txt", "-", "--json"], "--json"),
        (["in.txt", "-", "--resume"], "--resume"),
        (["in.txt", "out.npy", "--resume", "--overwrite"], "not allowed with"),
        (["in.txt", "out.npy", "--prompt", "a", "--prompt-name", "b"], "not allowed with"),
        (["in.txt", "out.npy", "--chunk-size", "0"], "integer >= 1"),
        (["in.txt", "out.npy", "--slots", "few"], "integer >= 1"),
        (["in.txt", "out.npy", "--temperature", "2"], "do_sample"),
        (["in.txt", "out.npy", "--top-p", "2", "--do-sample"], "top_p must be at most 1"),
        (["in.txt", "out.npy", "--prompt-name", "b"], "prompt_name 'b'"),
        (["in.txt", "out.npy", "--model", "no-such-folder"], "grace-st convert"),
        (["in.txt", "out.npy", "--model", "folder.txt"], "not a GRACE model folder"),
    ],
)
def test_refusals(words: list[str], remedy: str, encode: Encode, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    (tmp_path / "in.dat").write_text("one\n")
    (tmp_path / "in.jsonl").write_text(_jsonl(["one", "two"]))
    (tmp_path / "in.csv").write_text(_csv(["one"]))
    (tmp_path / "bad.jsonl").write_text('{"text": "one"}\n{"body": "two"}\n')
    (tmp_path / "latin.txt").write_bytes("one\nséance\n".encode("latin-1"))
    (tmp_path / "empty.txt").touch()
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "there.npy").touch()
    for name in ("folder.txt", "folder.npy"):
        (tmp_path / name).mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    error = encode(*words, code=2)
    assert remedy in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("words", [["in.parquet", "out.npy"], ["in.txt", "out.parquet"]])
def test_without_pyarrow(words: list[str], encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / words[0]).write_text("one\n")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert encode(*words, code=2) == ("grace-st: error: Parquet needs pyarrow: pip install 'grace-st[parquet]'\n")


def test_a_bad_row_of_a_stream_keeps_what_is_finished(
    encode: Encode, model: grace_st.GraceModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = _jsonl(["one", "two"]) + "{}\n" + _jsonl(["three"])
    words = ["-", "out.npy", "--chunk-size", "1", *JSON_INPUT]
    _stdin(monkeypatch, content)
    error = encode(*words, code=2)
    assert "standard input: row 2 (line 3)" in error
    assert "2 rows are kept" in error and "--resume" in error
    assert not (tmp_path / "out.npy").exists()
    _stdin(monkeypatch, content)
    assert "2 of them by an earlier run" in encode(*words, "--resume", *SKIP)
    expected = [model.encode_with_rationales(text)[0].embedding for text in ("one", "two", "three")]
    assert np.array_equal(np.load("out.npy"), expected)


def test_resume_with_other_options_is_refused(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["-", "out.npy", "--chunk-size", "1", *JSON_INPUT]
    _stdin(monkeypatch, _jsonl(["one"]) + "{}\n")
    encode(*words, code=2)
    for options, change in (
        (["--max-new-tokens", "3"], "--max-new-tokens not given, and now it is 3"),
        (["--normalize"], "--normalize false, and now it is true"),
        (["--dtype", "float16"], '--dtype not given, and now it is "float16"'),
        (["--chunk-size", "2"], "--chunk-size 1, and now it is 2"),
        (["--model", "grace-nano"], "the model's file "),
    ):
        _stdin(monkeypatch, _jsonl(["one"]))
        error = encode(*words, "--resume", *options, code=2)
        assert change in error
        assert "--overwrite" in error
    _stdin(monkeypatch, _jsonl(["another"]))
    assert "standard input: rows 0 to 0 are not those" in encode(*words, "--resume", code=2)


def test_a_vector_that_is_not_finite_keeps_what_is_finished(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = grace_st.GraceModel.encode_with_rationales

    def broken(self: grace_st.GraceModel, texts: list[str], **options: Any) -> Any:
        if "poison" in texts:
            raise grace_st.NonFiniteVectorError(0, "hidden states", "poison")
        return real(self, texts, **options)

    monkeypatch.setattr(grace_st.GraceModel, "encode_with_rationales", broken)
    (tmp_path / "in.txt").write_text("one\npoison\ntwo\n")
    words = ["encode", str(tmp_path / "in.txt"), str(tmp_path / "out.npy"), "--model", str(folder)]
    capsys.readouterr()
    assert main([*words, "--chunk-size", "1"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'poison'" in error
    assert "1 rows are kept" in error


# ------------------------------------------------------------ processes


def _wait_for(path: Path, process: subprocess.Popen[Any]) -> None:
    end = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < end
        time.sleep(0.02)


def _start(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # One thread, as in the tests: the last digits of sums depend on it.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        **options,
    )


def test_an_interruption_keeps_what_is_finished_and_says_how_to_go_on(
    encode: Encode, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"text {number}\n" for number in range(7)]
    words = ["-", "out.npy", "--chunk-size", "2", "--quiet"]
    process = _start([str(PROGRAM), "encode", *words, "--model", str(folder), "--device", "cpu"], stdin=subprocess.PIPE)
    stream: IO[bytes] = process.stdin  # type: ignore[assignment]
    stream.write("".join(lines[:5]).encode())  # and then it waits for more
    stream.flush()
    _wait_for(tmp_path / "out.npy.partial" / "chunk-00000001.zip", process)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, b"")
    shown = error.decode()
    assert shown.count("\n") == 1
    assert shown.startswith("grace-st: interrupted (4 rows are kept in ")
    assert "--resume" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy.partial"]

    _stdin(monkeypatch, "".join(lines))
    encode(*words, "--resume")
    _stdin(monkeypatch, "".join(lines))
    encode("-", "whole.npy", *words[2:])
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert (tmp_path / "out.rows.jsonl").read_bytes() == (tmp_path / "whole.rows.jsonl").read_bytes()


def test_a_killed_process_goes_on_to_the_same_bytes(encode: Encode, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("".join(f"text {number}\n" for number in range(7)))
    words = ["in.txt", "out.parquet", "--chunk-size", "2"]
    # The real program, but for its third chunk, which takes for ever.
    code = """
import itertools, sys, time
from grace_st.bulk.encoder import ModelEncoder
from grace_st.cli import main
encode, calls = ModelEncoder.encode, itertools.count()
ModelEncoder.encode = lambda *call: time.sleep(1000) if next(calls) == 2 else encode(*call)
sys.exit(main())
"""
    program = [sys.executable, "-c", code, "encode", *words, "--model", str(folder), "--device", "cpu"]
    process = _start(program)
    _wait_for(tmp_path / "out.parquet.partial" / "chunk-00000001.zip", process)
    assert "another process (pid " + str(process.pid) in encode(*words, "--resume", code=2)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out.parquet").exists()
    assert "4 of them by an earlier run" in encode(*words, "--resume")
    encode("in.txt", "whole.parquet", *words[2:])
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not (tmp_path / "out.parquet.partial").exists()
