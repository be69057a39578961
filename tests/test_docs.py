"""The pages of docs/ keep their word: snippets run, commands exist, links lead somewhere.

Pages whose snippets need other libraries are tested in tests/ecosystem.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def test_the_snippets_about_encoding_run(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/encoding.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    scope: dict[str, object] = {}
    for block in blocks:
        exec(block, scope)
    assert capsys.readouterr().out.count("</think>") == 3  # a rationale for each text
    assert scope["vectors"].shape[0] == 3  # type: ignore[attr-defined]


def test_the_snippet_about_training_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/training.md").read_text(), flags=re.DOTALL)
    exec(block.replace('"steps=1"', '"steps=1", "prompt.max_new_tokens=4", "compute.threads=1"'), {})
    assert capsys.readouterr().out == "1\n"
    assert (tmp_path / "runs/nano/model.safetensors").is_file()


def test_the_page_about_training_names_what_there_is() -> None:
    from grace_train.config_files import bundled_names

    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w.-]+)` \| (?!.*`)", page, flags=re.MULTILINE)[0] == "nano"
    for name in bundled_names():
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
