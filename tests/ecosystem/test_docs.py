"""docs/ keeps its word: the examples find what they ask for, and the snippets run."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
PAGE = (DOCS / "integrations.md").read_text(encoding="utf-8")


def test_both_libraries_have_an_example() -> None:
    assert [path.name for path in EXAMPLES] == ["langchain_rag.py", "llama_index_rag.py"]


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_finds_the_answer_and_shows_why(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    question, rationale, first, second = re.fullmatch(
        r"question: +(.*?)\nrationale: (.*?)\n1\. +(.*?)\n2\. +(.*?)\n", shown, flags=re.DOTALL
    ).groups()
    assert "Egypt" not in question and "about the country Egypt" in rationale
    assert first == "Egypt belongs to North Africa, where people speak Arabic."
    assert second != first


def test_the_snippets_run_and_agree(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 7
    scope: dict[str, object] = {}
    for block in blocks:
        exec(block, scope)
    shown = capsys.readouterr().out
    # LangChain, LlamaIndex and util.semantic_search find the same; the two rationales are one.
    assert shown.count("Norway is part of Scandinavia.\n") == 3
    assert shown.count("The text is about the country Norway.") == 2
    assert re.search(r"^64 1\.0$", shown, flags=re.MULTILINE)
    assert scope["dataset"].column_names == ["text", "embedding"]
