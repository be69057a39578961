"""``grace-st explain``: what it shows, what it writes, and what it refuses."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import grace_st
from grace_st.cli import main
from grace_st.cli.explain_view import show, show_ranking

QUERY = "I dream of a country governed from Paris. It has [bold] wine and \x1b[2J a tower."
DOCUMENT = "France. Geographers place it in Western Europe."
OTHER = "Kenya is a land in East Africa with many speakers of Swahili."

Explain = Callable[..., str]


@pytest.fixture(scope="module")
def model() -> grace_st.GraceModel:
    return grace_st.load(grace_st.nano_path())


@pytest.fixture(scope="module")
def explanation(model: grace_st.GraceModel) -> grace_st.Explanation:
    return model.explain(QUERY, DOCUMENT)


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Explain:
    """Runs the command in a folder of its own and returns what it says."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["explain", *words]) == code
        output = capsys.readouterr()
        if code:
            assert output.out == ""
            assert output.err.count("\n") == 1, output.err
            return output.err
        return output.out

    return run


def _shown(draw: Callable[[Console], None], width: int, *, colour: bool = False) -> str:
    stream = io.StringIO()
    system = "truecolor" if colour else None
    draw(Console(file=stream, width=width, force_terminal=colour, color_system=system, highlight=False))
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_terminal_shows_shares_that_add_up(explanation: grace_st.Explanation, width: int) -> None:
    shown = _shown(lambda console: show(console, explanation), width)
    words = " ".join(shown.split())
    assert f"cosine {explanation.cosine:.3f}; without the rationales {explanation.prompt_cosine:.3f}" in words
    assert "rationale with rationale" in shown
    assert "[bold]" in shown
    assert "\x1b" not in shown
    for index, share in enumerate(explanation.shares_a, start=1):
        assert f"A{index} {share:.3f}" in words.replace("  ", " ")
    strongest = explanation.strongest(1)[0]
    assert f"{strongest.contribution:.3f}" in shown.split("The strongest pairs")[1]
    assert all(len(line.rstrip()) <= width for line in shown.splitlines())
    assert "\x1b[" in _shown(lambda console: show(console, explanation), width, colour=True)


def test_what_was_cut_is_said_and_a_wide_heat_map_is_left_out(model: grace_st.GraceModel) -> None:
    cut = model.explain("Word after word. " * 90, DOCUMENT, max_new_tokens=3)
    shown = _shown(lambda console: show(console, cut), 60)
    assert f"The last {len(cut.a.text) - cut.a.characters_read} characters were not read" in shown
    assert "cut off at 3 tokens" in shown
    turned = model.explain(DOCUMENT, "Word after word. " * 90, max_new_tokens=3)
    assert "columns do not fit here" in _shown(lambda console: show(console, turned), 60)


def test_the_terminal_shows_why_a_document_is_first(model: grace_st.GraceModel) -> None:
    ranking = model.explain_ranking(QUERY, [OTHER, DOCUMENT, "[x]"], ids=["k", "f", "[b]"], top_k=3)
    shown = _shown(lambda console: show_ranking(console, ranking), 100)
    assert "The first 3 of 3 documents" in shown
    lines = shown.splitlines()
    assert next(line for line in lines if "France. Geographers" in line).split()[3] == "f"
    assert "[b]" in shown
    lead = shown.split("ahead of the second")[1]
    assert f"{ranking.lead().sum():.3f}" in lead


def test_json_is_what_the_library_says(explain: Explain, explanation: grace_st.Explanation) -> None:
    told = json.loads(explain(QUERY, DOCUMENT, "--json"))
    assert told == json.loads(explanation.to_json())


def test_a_page_is_written_and_not_overwritten(explain: Explain, tmp_path: Path) -> None:
    page = tmp_path / "why [b].html"
    assert "The page is in why [b].html" in explain("a", "--html", page.name, "b", "--max-new-tokens", "2")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [page]
    assert "--overwrite" in explain("a", "b", "--html", page.name, code=2)
    json.loads(explain("c", "d", "--html", page.name, "--overwrite", "--json", "--max-new-tokens", "2"))
    assert ">c<" in page.read_text(encoding="utf-8")


def test_documents_of_a_file(explain: Explain, tmp_path: Path, grace_folder: Callable[..., Path]) -> None:
    rows = [{"id": "k", "body": OTHER}, {"id": "f", "body": DOCUMENT}, {"id": "x"}]
    Path(tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ("--documents", "d.jsonl", "--field", "body", "--id-field", "id")
    assert "row 2 (line 3)" in explain(QUERY, *words, code=2)
    told = json.loads(explain(QUERY, *words, "--on-bad-row", "skip", "--json", "--top", "1"))
    assert told["count"] == 2
    assert [document["id"] for document in told["documents"]] == ["f"]
    Path(tmp_path / "d.txt").write_text(f"{OTHER}\n{DOCUMENT}\n", encoding="utf-8")
    folder = str(grace_folder(max_new_tokens=4))
    shown = explain("q", "--documents", "d.txt", "--model", folder, "--html", "page.html", "--store", "s.sqlite")
    assert "The first 2 of 2 documents" in shown
    assert "Why is this document first?" in Path("page.html").read_text(encoding="utf-8")
    assert Path("s.sqlite").is_file()


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["one"], "--documents FILE"),
        (["one", "two", "three"], "quote each text"),
        (["one", "two", "--documents", "d.txt"], "quote the query"),
        (["one", "two", "--top", "3"], "--top is about documents"),
        (["one", "two", "--on-bad-row", "skip"], "--on-bad-row is about documents"),
        (["one", "--documents", "none.txt"], "there is no file none.txt"),
        (["one", "--documents", "d.bin"], "--input-format"),
        (["one", "--documents", "d.txt", "--top", "0"], "--top must be an integer >= 1"),
        (["one", "--documents", "d.txt", "--field", "x"], "--field has no meaning"),
        (["one", "two", "--model", "nowhere"], "grace-st convert"),
        (["one", "two", "--html", "nowhere/page.html"], "there is no folder"),
        (["one", "two", "--html", "."], "name a file"),
        (["one", "two", "--overwrite"], "--html FILE"),
        (["one", "two", "--max-new-tokens", "-1"], "max_new_tokens must be an integer >= 0"),
    ],
)
def test_misuse_is_one_line_that_says_what_to_do(
    explain: Explain, tmp_path: Path, words: list[str], remedy: str
) -> None:
    for name in ("d.txt", "d.bin"):
        (tmp_path / name).write_text("a\n", encoding="utf-8")
    assert remedy in explain(*words, code=2)


def test_a_model_that_cannot_be_explained(explain: Explain, grace_folder: Callable[..., Path]) -> None:
    folder = grace_folder(pooling="max")
    assert "pooling='mean'" in explain("a", "b", "--model", str(folder), code=2)
