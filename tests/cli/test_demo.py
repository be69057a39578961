"""``grace-st demo``: the bundled model end to end, and the views of what it does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import grace_st
from grace_st.cli import main
from grace_st.cli.demo import DemoResult, Rationale, split_rationale
from grace_st.cli.demo_texts import DEMO_TEXTS, DemoText
from grace_st.cli.demo_view import show

PROGRAM = Path(sys.executable).with_name("grace-st")


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What ``grace-st demo --json`` says, from a process of its own."""
    done = subprocess.run(
        [PROGRAM, "demo", "--json"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _result(**changes: Any) -> DemoResult:
    """A result with two queries and their documents; the first is found only with the rationale."""
    values: dict[str, Any] = {
        "model": "grace-nano",
        "bundled": True,
        "num_parameters": 3_400_000,
        "embedding_dimension": 256,
        "texts": (
            DemoText("Q1", "a country governed from Paris [bold]", "D1"),
            DemoText("D1", "France: visitors come for the Eiffel Tower."),
            DemoText("Q2", "a metal with the symbol Fe", "D2"),
            DemoText("D2", "Iron is found in steel and in blood."),
        ),
        "rationales": (
            Rationale(thinking="Paris points to France.", statement="About France.", tokens=9, finished=True),
            Rationale(thinking="A country.", statement="France \x1b[2J again.", tokens=7, finished=True),
            Rationale(thinking="", statement="Iron.", tokens=2, finished=True),
            Rationale(thinking="It goes on and on", statement="", tokens=64, finished=False),
        ),
        "rows": (0, 2),
        "columns": (1, 3),
        "prompt_similarity": [[0.70, 0.80], [0.60, 0.90]],
        "rationale_similarity": [[0.95, 0.30], [0.20, 0.85]],
        "seconds_load": 5.0,
        "seconds_prompt": 0.1,
        "seconds_rationale": 1.5,
    }
    return DemoResult(**{**values, **changes})


def _shown(result: DemoResult, width: int = 80, *, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        highlight=False,
    )
    show(console, result)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("rationale", "thinking", "statement"),
    [
        ("<think>It is France.</think>\nAbout France.", "It is France.", "About France."),
        ("About France.", "", "About France."),
        ("<think>It goes on and", "It goes on and", ""),
        ("Well. <think>France</think> So.", "France", "Well. So."),
        ("", "", ""),
    ],
)
def test_a_rationale_is_split_into_thinking_and_statement(rationale: str, thinking: str, statement: str) -> None:
    assert split_rationale(rationale) == (thinking, statement)


def test_the_page_tells_what_the_rationale_changes() -> None:
    shown = _shown(_result())
    assert "Paris points to France." in shown
    assert "1 of 2 from the prompt alone" in " ".join(shown.split())
    assert "2 of 2 with the rationale" in " ".join(shown.split())
    assert "✗ D2" in shown
    assert "✓ D1" in shown
    assert "cut off at 64 tokens" in shown
    assert "demonstration" in shown
    assert "grace-st convert" in shown


def test_texts_are_shown_as_they_are_and_cannot_drive_the_terminal() -> None:
    shown = _shown(_result())
    assert "governed from Paris [bold]" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    long_texts = tuple(DemoText(text.name, text.text * 4, text.answer) for text in _result().texts)
    for line in _shown(_result(texts=long_texts), width).splitlines():
        assert len(line.rstrip()) <= width


def test_colour_is_used_where_there_is_one() -> None:
    assert "\x1b[" in _shown(_result(), colour=True)


def test_many_texts_do_not_break_the_page() -> None:
    texts = tuple(DemoText(f"T{i}", f"text {i}") for i in range(30))
    every = tuple(range(30))
    matrix = [[1.0 if i == j else 0.5 for j in every] for i in every]
    rationale = Rationale(thinking="", statement="A text.", tokens=3, finished=True)
    result = _result(
        texts=texts,
        rationales=(rationale,) * 30,
        rows=every,
        columns=every,
        prompt_similarity=matrix,
        rationale_similarity=matrix,
    )
    shown = _shown(result)
    assert "--json" in shown
    assert "of 30" not in shown


def test_the_demo_s_queries_and_documents_share_no_telling_word() -> None:
    small = {
        "a",
        "an",
        "and",
        "by",
        "for",
        "from",
        "in",
        "is",
        "it",
        "its",
        "of",
        "on",
        "one",
        "that",
        "the",
        "this",
        "to",
    }
    documents = {text.name: text.text for text in DEMO_TEXTS if text.answer is None}

    def words(text: str) -> set[str]:
        return {word.strip(".,:;?!").lower() for word in text.split()} - small

    queries = [text for text in DEMO_TEXTS if text.answer is not None]
    assert len(DEMO_TEXTS) == 12
    for query in queries:
        assert query.answer is not None
        assert not words(query.text) & words(documents[query.answer])


def test_the_bundled_model_writes_rationales_that_it_ends_itself(told: dict[str, Any]) -> None:
    assert told["bundled"] is True
    assert told["num_parameters"] < 4_000_000
    assert len(told["texts"]) == 12
    for text in told["texts"]:
        assert text["finished"]
        assert text["thinking"]
        assert text["statement"]
    assert len({text["thinking"] for text in told["texts"]}) > 6


def test_the_rationale_brings_queries_to_their_documents(told: dict[str, Any]) -> None:
    answers = {text["name"]: text["answer"] for text in told["texts"] if text["answer"]}

    def right(view: str) -> int:
        return sum(answers[query] == document for query, document in told[view]["nearest"].items())

    assert right("with_rationale") >= 5
    assert right("with_rationale") > right("prompt_only")


def test_json_has_the_cosines_that_encode_gives(told: dict[str, Any]) -> None:
    model = grace_st.load(grace_st.nano_path())
    texts = {text["name"]: text["text"] for text in told["texts"]}
    for view, options in (("prompt_only", {"max_new_tokens": 0}), ("with_rationale", {})):
        queries = model.encode([texts[name] for name in told["rows"]], **options)
        documents = model.encode([texts[name] for name in told["columns"]], **options)
        expected = model.similarity(queries, documents).tolist()
        for row, wanted in zip(told[view]["similarity"], expected, strict=True):
            assert row == pytest.approx(wanted, abs=1e-5)


def test_the_demo_is_quick_quiet_and_plain_in_a_pipe() -> None:
    started = time.perf_counter()
    done = subprocess.run([PROGRAM, "demo"], capture_output=True, text=True, encoding="utf-8", timeout=120, check=False)
    assert time.perf_counter() - started < 60  # 20 on two idle cores; tests may share them
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_a_terminal_without_unicode_is_no_obstacle() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([PROGRAM, "demo"], capture_output=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


def test_own_texts_and_own_model(grace_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = grace_folder()
    capsys.readouterr()
    assert main(["demo", "--model", str(folder), "--text", "one text", "another", "--text", "a third", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bundled"] is False
    assert [text["text"] for text in told["texts"]] == ["one text", "another", "a third"]
    assert told["rows"] == told["columns"] == ["T1", "T2", "T3"]
    for name, nearest in told["with_rationale"]["nearest"].items():
        assert name != nearest
    assert main(["demo", "--model", str(folder), "--text", "only one"]) == 0
    assert "only one" in capsys.readouterr().out


def test_a_folder_that_is_no_grace_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["demo", "--model", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "grace-st convert" in error
