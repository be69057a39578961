"""What a path, a folder or a pattern names."""

from __future__ import annotations

from pathlib import Path

import pytest

from grace_st.bulk.rows import InputError
from grace_st.scale.files import list_files, place_of


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    names = ["b.jsonl", "a.parquet", "sub/c.ndjson", "sub/deep/d.jsonl.gz", "notes.md", "_run/x.parquet", ".e.jsonl"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(source: str | Path) -> list[str]:
    return [file.name for file in list_files(str(source)).files]


def test_a_folder_is_listed_by_name_and_tells_what_it_leaves_out(corpus: Path) -> None:
    listing = list_files(str(corpus))
    assert [file.name for file in listing.files] == ["a.parquet", "b.jsonl", "sub/c.ndjson", "sub/deep/d.jsonl.gz"]
    assert [file.format for file in listing.files] == ["parquet", "jsonl", "jsonl", "jsonl"]
    assert listing.others == ("notes.md",)


def test_a_file_and_a_uri_of_a_file_are_the_same(corpus: Path) -> None:
    by_path, by_uri = list_files(str(corpus / "b.jsonl")), list_files(f"file://{corpus}/b.jsonl")
    assert by_path.files == by_uri.files
    assert by_path.files[0].name == "b.jsonl"
    assert by_uri.place.is_local


def test_patterns(corpus: Path) -> None:
    assert names(corpus / "*.jsonl") == [".e.jsonl", "b.jsonl"]
    assert names(corpus / "sub" / "*") == ["c.ndjson"]
    assert names(corpus / "**" / "[cd].*") == ["sub/c.ndjson", "sub/deep/d.jsonl.gz"]
    assert names(corpus / "s?b/**/*.gz") == ["sub/deep/d.jsonl.gz"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_bytes(b"x")
    assert names(tmp_path / "a[1].jsonl") == ["a[1].jsonl"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none", FileNotFoundError, "there is no file or folder .*none"),
        ("*.parquet", FileNotFoundError, "no file matches .*parquet"),
        (".", FileNotFoundError, "there are no files of Parquet or JSON lines"),
        ("a.csv", InputError, "a.csv is csv, and --ray reads jsonl and parquet"),
        ("a.bin", ValueError, "cannot tell the format of .*a.bin"),
        ("nonsense://bucket/x", ValueError, "nonsense://bucket/x cannot be opened .*s3://bucket"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for existing in ("a.csv", "a.bin"):
        (tmp_path / existing).write_bytes(b"x")
    with pytest.raises(error, match=message):
        list_files(name)


def test_other_file_systems_are_told_from_disks(tmp_path: Path) -> None:
    assert not place_of(f"fsspec+local://{tmp_path}").is_local
    assert place_of("fsspec+memory://bucket/folder").child("x").path.endswith("bucket/folder/x")
