"""``grace-st data check``: what it finds, its exit codes, and errors that name its own options."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grace_st.cli import app
from grace_train.cli.data import COMMAND
from tests.train.data.helpers import pair, write_jsonl

Check = Callable[..., str]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Check:
    """Runs ``grace-st data check`` in a folder of its own and returns what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(app, "available_commands", lambda: {"data": lambda: COMMAND})

    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert app.main(["data", "check", *words]) == code
        output = capsys.readouterr()
        if code == app.EXIT_MISUSE:
            assert output.out == "" and output.err.count("\n") == 1, output.err
            return output.err
        return output.out

    return run


ROWS = [
    {**pair("what eats fish?", "herons", "bears", negatives=["cows", "deer"]), "source": "a"},
    {**pair("same", "same", negatives=["same", ""]), "source": "b"},
    {**pair("what eats fish?", "herons ", negatives=["cows"]), "source": "a"},
]


def _json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_good_file(check: Check, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    report = _json(check("a.jsonl", "--json"))
    assert (report["rows"], report["bad_rows"], report["mode"]) == (3, 0, "supervised")
    assert report["duplicates"] == {"query": 1, "positive": 1}
    assert report["texts_per_row"]["positives"] == {"median": 1, "p95": 2, "max": 2}
    assert report["lengths"]["query"]["characters"] == {"median": 15, "p95": 15, "max": 15}
    assert {role: lengths["texts"] for role, lengths in report["lengths"].items()} == {
        "query": 3,
        "positive": 4,
        "negative": 3,
    }
    assert [report[name] for name in ("query_is_positive", "false_negatives", "empty_negatives")] == [1, 1, 1]
    assert report["rows_without_negatives"] == 1
    assert report["sources"] == {"a": 2, "b": 1}
    shown = check("a.jsonl")
    assert "every row can be used" in shown
    assert "duplicate queries" in shown


def test_bad_rows_are_listed_and_counted(check: Check, tmp_path: Path) -> None:
    rows = [{"query": "q"}, *ROWS, *({"query": "", "positive": f"p{i}"} for i in range(15))]
    write_jsonl(tmp_path / "a.jsonl", rows)
    shown = check("a.jsonl", code=1)
    assert "16 bad rows" in shown
    assert "row 0 (line 1): the fields are 'query'; positive or positives is expected" in shown
    assert "row 4 (line 5): the field 'query' is empty" in shown
    assert "... and 6 more" in shown
    report = _json(check("a.jsonl", "--json", code=1))
    assert (report["rows"], report["bad_rows"], len(report["first_bad_rows"])) == (19, 16, 10)
    assert report["first_bad_rows"][1] == {"place": "row 4 (line 5)", "problem": "the field 'query' is empty"}


def test_a_file_of_bad_rows_only(check: Check, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}] * 3)
    shown = check("a.jsonl", code=1)
    assert "3, 0 of them usable" in shown
    assert "query is expected: name it with --query-field" in shown
    assert "data.query_field" not in shown
    assert "every row can be used" in check("a.jsonl", "--query-field", "question", "--positive-field", "answer")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "there is no file or folder none.jsonl"),
        ("a.jsonl", "", "a.jsonl has no rows"),
        ("a.csv", "question,positive\nq,p\n", "query is expected: name it with --query-field ..."),
        ("a.dat", "x", "name it with --format ... (text, jsonl"),
        ("a.parquet", "x", "no readable Parquet file"),
    ],
)
def test_a_file_that_cannot_be_used_at_all(
    name: str, content: str | None, message: str, check: Check, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert message in check(name, code=2)


def test_plain_text_is_unsupervised(check: Check, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo three\none\n")
    report = _json(check("a.txt", "--json"))
    assert (report["mode"], report["rows"], report["duplicates"]) == ("unsupervised", 3, {"text": 1})
    assert "supervised training needs queries" in check("a.txt", "--mode", "supervised", code=2)


def test_lengths_in_tokens(check: Check, tmp_path: Path, grace_folder: Callable[..., Path]) -> None:
    import grace_st

    folder = grace_folder()
    texts = ["a short text", "word " * 400]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    prompt = grace_st.load(folder, device="cpu")[0].prompt  # type: ignore[union-attr]
    expected = sorted(
        len(tokens.ids) for tokens in prompt.tokenize([text.strip() for text in texts], max_seq_length=9999)
    )
    report = _json(check("a.txt", "--model", str(folder), "--json"))
    assert report["max_seq_length"] == 128
    lengths = report["lengths"]["text"]
    assert lengths["too_long"] == 1
    assert abs(lengths["tokens"]["max"] - expected[1]) <= 1  # the space at the end of the line
    assert "over 128" in check("a.txt", "--model", str(folder))
    assert "is not a GRACE model folder" in check("a.txt", "--model", str(tmp_path), code=2)


def test_lengths_in_the_tokens_of_a_model_that_is_not_converted_yet(
    check: Check, tmp_path: Path, checkpoints: Callable[..., Path], grace_folder: Callable[..., Path]
) -> None:
    (tmp_path / "a.txt").write_text("a short text\n" + "word " * 400)
    shown = check("a.txt", "--model", str(checkpoints("qwen2")), "--max-seq-length", "128", "--json")
    assert _json(shown) == _json(check("a.txt", "--model", str(grace_folder()), "--json"))
    assert _json(check("a.txt", "--model", str(checkpoints("qwen2")), "--json"))["max_seq_length"] == 1024
    assert "org/model is no local folder" in check("a.txt", "--model", "org/model", code=2)
    assert "needs --model" in check("a.txt", "--max-seq-length", "128", code=2)


def test_one_problem_of_many_rows_is_said_once(check: Check, tmp_path: Path) -> None:
    rows = [{"question": "q", "positive": "p"}] * 12
    write_jsonl(tmp_path / "a.jsonl", rows)
    shown = check("a.jsonl", code=1)
    assert shown.count("query is expected") == 1
    assert "row 0 (line 1)" in shown
    assert "the same in the next 9 bad rows" in " ".join(shown.split())
    assert "... and 2 more" in shown


def test_the_command_is_cheap_to_import() -> None:
    code = (
        "import sys, grace_train.cli.data; "
        "sys.exit(', '.join({'torch', 'pyarrow', 'numpy', 'datasets'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.data
def test_real_texts(check: Check, data_dir: Path) -> None:
    report = _json(check(str(data_dir / "wikitext2" / "test.txt"), "--json"))
    assert report["bad_rows"] == 0
    assert report["rows"] == 2891


def test_fields_that_are_not_read_are_named(check: Check, tmp_path: Path) -> None:
    """Negatives under a name of their own would be left out without a word otherwise."""
    rows = [{"query": "q", "positive": "p", "hard": ["n"], "source": "a"}, {"query": "r", "positive": "s", "id": 1}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.csv").write_text("query,positive,hard\nq,p,n\n", encoding="utf-8")
    assert "fields not read      hard, id; if one holds negatives, name it: --negative-field ..." in check("a.jsonl")
    assert _json(check("a.csv", "--json"))["unread_fields"] == ["hard"]
    assert _json(check("a.csv", "--json", "--negative-field", "hard"))["unread_fields"] == []
    assert "fields not read" not in check("a.csv", "--negative-field", "hard")


def test_a_file_without_a_usable_row_is_not_to_be_skipped(check: Check, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "p"}] * 2)
    output = check("a.jsonl", code=1)
    assert "say what the fields are called (--query-field, --positive-field, --negative-field)" in output
    assert "on_bad_row=skip" not in output and "fields not read" not in output
