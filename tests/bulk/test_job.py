"""Jobs: what is written, what is refused, and what an interruption leaves."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from grace_st.bulk import destination as destination_module
from grace_st.bulk import partial_output
from grace_st.bulk.chunks import Chunk, Totals
from grace_st.bulk.destination import Destination
from grace_st.bulk.formats import OUTPUT_FORMATS, OutputFormat
from grace_st.bulk.job import Job, Outcome, encode_to_file, encode_to_stream
from grace_st.bulk.lock import FolderLock, LockedError
from grace_st.bulk.readers import Source
from grace_st.bulk.rows import InputError
from grace_st.bulk.writers import json_lines
from tests.bulk.fake import FakeEncoder, rationale_of, vector_of

ROOT = Path(__file__).parent.parent.parent
TEXTS = ["one", "", "lone \ud800 surrogate", "a\nb\r\n", 'q"', "日本 🙂", "x" * 60, "one"]
IDS: list[Any] = ["a", "\udfff", 3, 2**70, 1.5, True, None, "a"]


def _write(path: Path, texts: list[str], ids: list[Any] | None = None) -> Source:
    records = [{"text": text, "id": number} for number, text in enumerate(texts)]
    for record, identifier in zip(records, ids or [], strict=False):
        record["id"] = identifier
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return Source(path=path, format="jsonl", id_field="id")


def _output(folder: Path, format_: OutputFormat, **options: Any) -> Destination:
    return Destination(path=folder / f"out.{format_}", format=format_, **options)


def _job(source: Source, encoder: FakeEncoder | None = None, **options: Any) -> Job:
    return Job(source=source, loader=encoder or FakeEncoder(), **{"chunk_size": 3, **options})


def _contents(destination: Destination) -> list[bytes]:
    assert not destination.partial.exists()
    return [path.read_bytes() for path in destination.paths]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def _rationale_columns(text: str) -> dict[str, Any]:
    return {
        "rationale": rationale_of(text),
        "rationale_ids": [len(text), 7],
        "finished": len(text) % 2 == 0,
    }


@pytest.mark.parametrize("rationales", [True, False])
def test_npy(rationales: bool, tmp_path: Path) -> None:
    destination = _output(tmp_path, "npy", rationales=rationales)
    outcome = encode_to_file(_job(_write(tmp_path / "in.jsonl", TEXTS, IDS)), destination)
    vectors = np.load(destination.path, mmap_mode="r")
    assert (vectors.dtype, vectors.shape) == (np.float32, (8, 8))
    assert np.array_equal(vectors, [vector_of(text) for text in TEXTS])
    assert destination.paths[0].name == "out.rows.jsonl"
    expected = [{"id": i, **_rationale_columns(text)} for i, text in zip(IDS, TEXTS, strict=True)]
    found = _read_lines(destination.paths[0])
    assert found == (expected if rationales else [{"id": row["id"]} for row in expected])
    assert outcome.totals is not None
    assert (outcome.totals.rows, outcome.totals.dimension, outcome.totals.truncated) == (8, 8, 1)
    assert outcome.totals.tokens == 16
    assert outcome.totals.finished == sum(len(text) % 2 == 0 for text in TEXTS)


@pytest.mark.parametrize("rationales", [True, False])
def test_jsonl(rationales: bool, tmp_path: Path) -> None:
    destination = _output(tmp_path, "jsonl", rationales=rationales)
    source = _write(tmp_path / "in.jsonl", TEXTS, IDS)
    encode_to_file(_job(source), destination)
    rows = _read_lines(destination.path)
    for row, text, identifier in zip(rows, TEXTS, IDS, strict=True):
        assert list(row)[:2] == ["id", "embedding"]
        assert np.array_equal(np.array(row.pop("embedding"), dtype=np.float32), vector_of(text))
        assert row == {"id": identifier, **(_rationale_columns(text) if rationales else {})}
    streamed = (tmp_path / "streamed").open("w+b")
    encode_to_stream(_job(source), streamed, rationales=rationales)
    streamed.seek(0)
    assert streamed.read() == destination.path.read_bytes()


def test_every_float32_survives_json_lines() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    numbers = bits.view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    (line,) = json_lines(Chunk(vectors=numbers[None, :], rows=[{"id": 0}]))
    assert np.array_equal(np.array(json.loads(line)["embedding"], dtype=np.float32), numbers)


@pytest.mark.parametrize("rationales", [True, False])
def test_parquet(rationales: bool, tmp_path: Path) -> None:
    destination = _output(tmp_path, "parquet", rationales=rationales)
    encode_to_file(_job(_write(tmp_path / "in.jsonl", TEXTS)), destination)
    table = pyarrow.parquet.read_table(destination.path)
    assert table.schema.field("id").type == pyarrow.int64()
    assert table.schema.field("embedding").type == pyarrow.list_(pyarrow.float32(), 8)
    vectors = table["embedding"].combine_chunks().values.to_numpy().reshape(8, 8)
    assert np.array_equal(vectors, [vector_of(text) for text in TEXTS])
    rows = table.drop_columns(["embedding"]).to_pylist()
    assert rows == [{"id": i, **(_rationale_columns(t) if rationales else {})} for i, t in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("ids", "kind", "expected"),
    [
        ([1, 2], pyarrow.int64(), None),
        ([1, None], pyarrow.int64(), None),
        ([1.5, 2.0], pyarrow.float64(), None),
        ([True, False], pyarrow.bool_(), None),
        (["a", "\ud800"], pyarrow.string(), ["a", "\ufffd"]),
        ([None, None], pyarrow.string(), None),
        ([1, "1"], pyarrow.string(), ["1", "1"]),
        ([1, 1.5], pyarrow.string(), ["1", "1.5"]),
        ([2**63, None], pyarrow.string(), [str(2**63), None]),
        ([True, "x"], pyarrow.string(), ["true", "x"]),
    ],
)
def test_the_type_of_parquet_ids(ids: list[Any], kind: Any, expected: list[Any] | None, tmp_path: Path) -> None:
    destination = _output(tmp_path, "parquet")
    encode_to_file(_job(_write(tmp_path / "in.jsonl", ["x", "y"], ids), chunk_size=1), destination)
    column = pyarrow.parquet.read_table(destination.path)["id"]
    assert column.type == kind
    assert column.to_pylist() == (expected or ids)


def test_small_chunks_do_not_make_small_row_groups(tmp_path: Path) -> None:
    source = _write(tmp_path / "in.jsonl", [f"text {i}" for i in range(9000)])
    contents = []
    for size in (100, 5000):
        destination = Destination(path=tmp_path / f"{size}.parquet", format="parquet")
        encode_to_file(_job(source, chunk_size=size), destination)
        contents.append(pyarrow.parquet.ParquetFile(destination.path))
    assert contents[0].num_row_groups <= 2
    assert contents[0].read().equals(contents[1].read())


def test_texts_go_to_the_encoder_in_chunks(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    encode_to_file(_job(_write(tmp_path / "in.jsonl", TEXTS), encoder), _output(tmp_path, "npy"))
    assert encoder.batches == [3, 3, 2]
    assert encoder.loaded == 1


def test_bad_rows_stop_before_the_encoder_is_loaded(tmp_path: Path) -> None:
    source = _write(tmp_path / "in.jsonl", TEXTS)
    with source.path.open("a") as stream:  # type: ignore[union-attr]
        stream.write("{}\n")
    encoder, destination = FakeEncoder(), _output(tmp_path, "npy")
    with pytest.raises(InputError, match=r"row 8 \(line 9\)"):
        encode_to_file(_job(source, encoder), destination)
    assert encoder.loaded == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]
    outcome = encode_to_file(_job(source, encoder, skip_bad_rows=True), destination)
    assert outcome.bad_rows == 1
    assert len(np.load(destination.path)) == 8


def test_row_numbers_count_the_rows_that_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\n{}\n{"text": "c"}\n')
    destination = _output(tmp_path, "npy")
    encode_to_file(_job(Source(path=path, format="jsonl"), skip_bad_rows=True), destination)
    assert [row["id"] for row in _read_lines(destination.paths[0])] == [0, 2]


# ------------------------------------------------------------ resume


def _stop(job_of: Callable[..., Job], destination: Destination, mode: Any = "new", *, after: int = 2) -> BaseException:
    """Run a job whose encoder fails at a chunk."""
    with pytest.raises(RuntimeError) as raised:
        encode_to_file(job_of(FakeEncoder(fail_at=after)), destination, mode)
    return raised.value


@pytest.mark.parametrize("format_", OUTPUT_FORMATS)
def test_resume_gives_the_same_bytes_and_encodes_only_the_rest(format_: OutputFormat, tmp_path: Path) -> None:
    source = _write(tmp_path / "in.jsonl", TEXTS, IDS)
    whole = Destination(path=tmp_path / "whole", format=format_)
    encode_to_file(_job(source), whole)
    destination = _output(tmp_path, format_)
    error = _stop(lambda encoder: _job(source, encoder), destination)
    assert error.__notes__ == [f"(6 rows are kept in {destination.partial}: run the same with --resume to go on)"]
    assert not any(path.exists() for path in destination.paths)
    encoder = FakeEncoder()
    outcome = encode_to_file(_job(source, encoder), destination, "resume")
    assert (encoder.batches, outcome.resumed_rows) == ([2], 6)
    assert outcome.totals is not None and outcome.totals.rows == 8
    assert _contents(destination) == _contents(whole)


def test_resume_without_anything_to_resume(tmp_path: Path) -> None:
    source, destination, encoder = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy"), FakeEncoder()
    assert encode_to_file(_job(source, encoder), destination, "resume").resumed_rows == 0
    before = _contents(destination)
    again = encode_to_file(_job(source, encoder), destination, "resume")
    assert again == Outcome(totals=None, paths=destination.paths)
    assert encoder.loaded == 1
    assert _contents(destination) == before


def test_nothing_is_left_of_a_run_that_finished_nothing(tmp_path: Path) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy")
    error = _stop(lambda encoder: _job(source, encoder), destination, after=0)
    assert not hasattr(error, "__notes__")
    assert not destination.partial.exists()


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy")
    _stop(lambda encoder: _job(source, encoder), destination)
    with pytest.raises(FileExistsError, match=r"--resume.*--overwrite"):
        encode_to_file(_job(source), destination)
    assert len(list(destination.partial.glob("chunk-*"))) == 2
    encode_to_file(_job(source), destination, "overwrite")
    rows, vectors = destination.paths
    with pytest.raises(FileExistsError, match=r"exists.*--overwrite"):
        encode_to_file(_job(source), destination)
    vectors.unlink()
    for mode in ("new", "resume"):  # the rows alone are no complete output, but are not replaced either
        with pytest.raises(FileExistsError, match=f"{rows.name} exists.*--overwrite"):
            encode_to_file(_job(source), destination, mode)  # type: ignore[arg-type]
    assert not destination.partial.exists()


def test_overwrite_keeps_the_old_output_until_the_new_one_is_complete(tmp_path: Path) -> None:
    old, new = _write(tmp_path / "old.jsonl", TEXTS), _write(tmp_path / "new.jsonl", TEXTS[::-1])
    destination, whole = _output(tmp_path, "npy"), Destination(path=tmp_path / "whole.npy", format="npy")
    encode_to_file(_job(old), destination)
    encode_to_file(_job(new), whole)
    before = [path.read_bytes() for path in destination.paths]
    error = _stop(lambda encoder: _job(new, encoder), destination, "overwrite")
    assert "with --resume instead of --overwrite" in error.__notes__[0]
    assert [path.read_bytes() for path in destination.paths] == before
    encode_to_file(_job(new), destination, "resume")
    assert _contents(destination) == _contents(whole)


def test_overwrite_starts_afresh(tmp_path: Path) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy")
    _stop(lambda encoder: _job(source, encoder), destination)
    with pytest.raises(InputError):  # refused before anything began: what is finished stays
        encode_to_file(_job(Source(path=source.path, format="jsonl", field="body")), destination, "overwrite")
    assert len(list(destination.partial.glob("chunk-*"))) == 2
    encoder = FakeEncoder()
    encode_to_file(_job(source, encoder, settings={"--seed": 1}), destination, "overwrite")
    assert encoder.batches == [3, 3, 2]
    assert not destination.partial.exists()


@pytest.mark.parametrize(
    ("texts", "ids", "problem"),
    [
        (["changed", *TEXTS[1:]], IDS, "rows 0 to 2 are not those"),
        ([*TEXTS[:5], "changed", *TEXTS[6:]], IDS, "rows 3 to 5 are not those"),
        (TEXTS, [0, *IDS[1:]], "rows 0 to 2 are not those"),
        (TEXTS, ["a", "\udfff", 3, 2**70, 1.5, 1, None, "a"], "rows 3 to 5 are not those"),
        (TEXTS[1:], IDS[1:], "rows 0 to 2 are not those"),
        (TEXTS[:5], IDS[:5], "rows 3 to 4 are not those"),
        (TEXTS[:3], IDS[:3], "fewer rows"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_changed_input_is_refused(
    stream: bool, texts: list[str], ids: list[Any], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS, IDS), _output(tmp_path, "npy")
    _stop(lambda encoder: _job(source, encoder), destination)
    _write(tmp_path / "in.jsonl", texts, ids)
    if stream:
        monkeypatch.setattr(Source, "is_stream", True)
    encoder = FakeEncoder()
    with pytest.raises(InputError, match=f"{problem}.*--resume.*--overwrite"):
        encode_to_file(_job(source, encoder), destination, "resume")
    assert encoder.loaded == 0
    assert len(list(destination.partial.glob("chunk-*"))) == 2
    _write(tmp_path / "in.jsonl", TEXTS, IDS)
    encode_to_file(_job(source), destination, "resume")


def test_rows_that_were_not_encoded_yet_may_change(tmp_path: Path) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy")
    _stop(lambda encoder: _job(source, encoder), destination)
    _write(tmp_path / "in.jsonl", [*TEXTS[:6], "corrected", "and", "more"])
    encode_to_file(_job(source), destination, "resume")
    assert np.array_equal(np.load(destination.path)[6], vector_of("corrected"))


@pytest.mark.parametrize(
    ("settings", "encoder", "problem"),
    [
        ({"--seed": 2}, {}, "--seed 1, and now it is 2"),
        ({"--seed": None}, {}, "--seed 1, and now it is not given"),
        ({}, {}, "--seed 1, and now it is not given"),
        ({"--seed": 1, "--prompt": "é"}, {}, '--prompt not given, and now it is "é"'),
        ({"--seed": 1}, {"files": "b"}, "the model's file model.safetensors"),
        ({"--seed": 1}, {"device": "cuda"}, 'device "cpu", and now it is "cuda"'),
    ],
)
def test_a_changed_setting_is_refused(
    settings: dict[str, Any], encoder: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy")
    _stop(lambda encoder: _job(source, encoder, settings={"--seed": 1}), destination)
    fake = FakeEncoder(**encoder)
    with pytest.raises(ValueError, match=problem) as raised:
        encode_to_file(_job(source, fake, settings=settings), destination, "resume")
    assert "--resume" in str(raised.value) and "--overwrite" in str(raised.value)
    assert fake.batches == []
    encode_to_file(_job(source, settings={"--seed": 1}), destination, "resume")


def test_a_damaged_chunk_is_told_and_can_be_made_anew(tmp_path: Path) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy")
    _stop(lambda encoder: _job(source, encoder), destination)
    chunk = sorted(destination.partial.glob("chunk-*"))[1]
    data = bytearray(chunk.read_bytes())
    data[data.index(b"NUMPY") + 140] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(ValueError, match=f"{chunk.name} is damaged .*remove it"):
        encode_to_file(_job(source), destination, "resume")
    chunk.unlink()
    encoder = FakeEncoder()
    encode_to_file(_job(source, encoder), destination, "resume")
    assert np.array_equal(np.load(destination.path), [vector_of(text) for text in TEXTS])


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy")
    _stop(lambda encoder: _job(source, encoder), destination)
    for mode in ("new", "resume", "overwrite"):
        lock = FolderLock(destination.partial)
        with pytest.raises(LockedError, match=f"another process \\(pid {os.getpid()}\\) is at work"):
            encode_to_file(_job(source), destination, mode)  # type: ignore[arg-type]
        lock.release()
    assert len(list(destination.partial.glob("chunk-*"))) == 2
    encode_to_file(_job(source), destination, "resume")  # the file of the lock is still there, and is no obstacle


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy")
    destination.partial.mkdir()
    (destination.partial / "thesis.tmp").write_text("precious")
    for mode in ("new", "resume", "overwrite"):
        with pytest.raises(FileExistsError, match=r"thesis\.tmp"):
            encode_to_file(_job(source), destination, mode)  # type: ignore[arg-type]
    assert [path.read_text() for path in destination.partial.iterdir()] == ["precious"]


@pytest.mark.parametrize("content", [None, "", "[]", '{"state": "encoding"}', "\xff"])
def test_chunks_without_their_settings_are_not_used(content: str | None, tmp_path: Path) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy")
    _stop(lambda encoder: _job(source, encoder, settings={"--seed": 1}), destination)
    run = destination.partial / "run.json"
    run.unlink() if content is None else run.write_text(content, encoding="latin-1")
    for mode in ("new", "resume"):
        with pytest.raises(ValueError, match=r"run\.json cannot be read .*--overwrite"):
            encode_to_file(_job(source, settings={"--seed": 2}), destination, mode)  # type: ignore[arg-type]
    encoder = FakeEncoder()
    encode_to_file(_job(source, encoder, settings={"--seed": 2}), destination, "overwrite")
    assert encoder.batches == [3, 3, 2]


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "jsonl")
    _stop(lambda encoder: _job(source, encoder), destination)
    destination.path.write_text("from elsewhere")
    with pytest.raises(FileExistsError, match="--overwrite"):
        encode_to_file(_job(source), destination, "resume")
    destination.path.unlink()

    class Meddler(FakeEncoder):
        def load(self) -> Any:
            destination.path.write_text("from elsewhere")
            return super().load()

    with pytest.raises(FileExistsError, match="has appeared since"):
        encode_to_file(_job(source, Meddler()), destination, "resume")
    assert destination.path.read_text() == "from elsewhere"
    destination.path.unlink()
    encode_to_file(_job(source), destination, "resume")


def test_an_input_that_changes_while_it_is_read_gives_no_output(tmp_path: Path) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy")

    class Meddler(FakeEncoder):
        def load(self) -> Any:
            with (tmp_path / "in.jsonl").open("a") as stream:
                stream.write('{"text": "late", "id": 9}\n')
            return super().load()

    with pytest.raises(InputError, match="had 8 rows when it was checked and 9 when it was read"):
        encode_to_file(_job(source, Meddler()), destination)
    assert not destination.path.exists()


# ------------------------------------------------------------ disks


def test_a_full_disk_is_told_and_what_is_finished_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = _write(tmp_path / "in.jsonl", TEXTS), _output(tmp_path, "npy")
    real, count = partial_output.write_chunk, 0

    def full(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments)

    monkeypatch.setattr(partial_output, "write_chunk", full)
    with pytest.raises(OSError, match=r"no space is left in .*make room") as raised:
        encode_to_file(_job(source), destination)
    assert "6 rows are kept" in raised.value.__notes__[0]
    assert sorted(path.suffix for path in destination.partial.iterdir()) == ["", ".json", ".zip", ".zip"]
    encode_to_file(_job(source), destination, "resume")
    assert len(np.load(destination.path)) == 8


def test_a_disk_that_is_too_small_is_told_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grace_st.bulk import job as job_module

    class Usage:
        free = 100

    monkeypatch.setattr(job_module.shutil, "disk_usage", lambda path: Usage)
    encoder, destination = FakeEncoder(), _output(tmp_path, "npy")
    with pytest.raises(OSError, match=r"need 0\.0 GB.*make room"):
        encode_to_file(_job(_write(tmp_path / "in.jsonl", TEXTS), encoder), destination)
    assert encoder.batches == []
    assert not destination.partial.exists()


@pytest.mark.parametrize("trouble", ["missing", "read-only", "a folder", "a file", "the input"])
def test_an_output_that_cannot_be_written_is_refused_at_once(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, encoder = _write(tmp_path / "in.jsonl", TEXTS), FakeEncoder()
    path = tmp_path / "out.jsonl"
    if trouble == "missing":
        path = tmp_path / "no" / "out.jsonl"
    elif trouble == "read-only":
        monkeypatch.setattr(destination_module.os, "access", lambda *arguments: False)  # root may write everywhere
    elif trouble == "a folder":
        path.mkdir()
    elif trouble == "a file":
        path.with_name("out.jsonl.partial").write_text("")
    else:
        path = tmp_path / "in.jsonl"
    before = (tmp_path / "in.jsonl").read_bytes()
    with pytest.raises((OSError, ValueError)) as raised:
        encode_to_file(_job(source, encoder), Destination(path=path, format="jsonl"), "overwrite")
    assert "choose another output" in str(raised.value) or "move it away" in str(raised.value)
    assert str(path) in str(raised.value) or str(path.parent) in str(raised.value)
    assert encoder.loaded == 0
    assert (tmp_path / "in.jsonl").read_bytes() == before


# ------------------------------------------------------------ processes


def _program(*words: object) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bulk.crash", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("mode", ["new", "overwrite"])
@pytest.mark.parametrize("format_", OUTPUT_FORMATS)
def test_killed_before_any_file_operation_it_resumes_to_the_same_bytes(format_: str, mode: str, tmp_path: Path) -> None:
    assert _program("kill", tmp_path, format_, mode) > 20


@pytest.mark.parametrize("format_", OUTPUT_FORMATS)
def test_memory_does_not_grow_with_the_rows(format_: str, tmp_path: Path) -> None:
    # The texts alone of the larger input take 9 MB. The smaller one fills a row group of Parquet.
    few, many = (_program("memory", tmp_path, format_, rows) for rows in (10_000, 40_000))
    assert many - few < 5 * 2**20


def test_totals_add_up() -> None:
    totals = Totals()
    totals.add(Totals(rows=2, dimension=4, tokens=3, finished=1, truncated=0, id_kinds={"integer"}))
    totals.add(Totals(rows=1, dimension=4, tokens=2, finished=1, truncated=1, id_kinds={"string"}))
    assert totals == Totals(rows=3, dimension=4, tokens=5, finished=2, truncated=1, id_kinds={"integer", "string"})
