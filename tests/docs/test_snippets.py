"""Every fenced block that is code: Python is executed, JSON and YAML are read, and other languages are refused.

The snippets of a page are executed in their order, in one namespace, in the folder of world.py. Pages whose snippets
need more than that are executed where it is, and listed with the file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from grace_train.config_files import load_config
from tests.docs.pages import OTHERS, ROOT, SHELL, Block, fenced, name_of, pages

ELSEWHERE = {
    "docs/evaluation.md": "tests/evaluation/test_docs.py",  # registers a model in mteb, and takes it out again
    "docs/explain.md": "tests/explain/test_docs.py",  # looks at the fields that the page describes
    "docs/integrations.md": "tests/ecosystem/test_docs.py",  # with LangChain and LlamaIndex, off the network
    "docs/serving.md": "tests/ecosystem/test_openai_clients.py",  # against a running server
}

INSTEAD = {
    "docs/training.md": {'"steps=1"': '"steps=1", "prompt.max_new_tokens=4", "compute.threads=1"'},
}
"""What stands in for something in a snippet."""

FAKE_VLLM = ("docs/vllm.md",)
"""Run with the stand-in of tests/vllm for vLLM's process; `make test-engines` has the real one."""

PRINTED = {
    "README.md": r"tensor\(\[\[",
    "docs/encoding.md": r"(?s)</think>.*</think>.*</think>",  # a rationale for each text
    "docs/faq.md": r"^True$",
    "docs/quick-start.md": r"</think>",
    "docs/training.md": r"^1$",
}

PYTHON = {name_of(page): blocks for page in pages() if (blocks := [b for b in fenced(page) if b.language == "python"])}


@pytest.mark.parametrize("page", [page for page in PYTHON if page not in ELSEWHERE])
def test_the_snippets_run(
    page: str,
    world: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if page in FAKE_VLLM:
        request.getfixturevalue("fake_vllm")
    scope: dict[str, object] = {"__name__": "snippets"}
    for block in PYTHON[page]:
        code = block.code
        for shown, stand_in in INSTEAD.get(page, {}).items():
            assert shown in code, f"{page} has no {shown} any more"
            code = code.replace(shown, stand_in)
        exec(compile(code, f"{page}:{block.line}", "exec"), scope)
    if page in PRINTED:
        assert re.search(PRINTED[page], capsys.readouterr().out, flags=re.MULTILINE)


def test_pages_that_are_run_elsewhere_are() -> None:
    for page, test in ELSEWHERE.items():
        code = (ROOT / test).read_text(encoding="utf-8")
        assert Path(page).name in code and "exec(block" in code, test
        assert page in PYTHON, f"{page} has no snippet any more"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_blocks_name_a_language_that_is_tested(page: Path) -> None:
    for block in fenced(page):
        place = f"{name_of(page)}:{block.line}"
        if block.language == "json":
            json.loads(block.code)
        elif block.language == "yaml":
            assert isinstance(yaml.safe_load(block.code), dict), place
        else:
            assert block.language in ("python", *SHELL, *OTHERS), f"{place}: which language is it, and what tests it?"


def test_settings_on_the_pages_are_accepted(world: Path) -> None:
    blocks: list[Block] = [block for page in pages() for block in fenced(page) if block.language == "yaml"]
    assert blocks
    for number, block in enumerate(blocks):
        path = world / f"{number}.yaml"
        path.write_text("model: grace-nano\noutput: runs/mine\n" + block.code, encoding="utf-8")
        load_config(str(path))
