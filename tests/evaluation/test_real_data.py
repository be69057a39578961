"""Real tasks of mteb on real data, offline, with a real pretrained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')

import grace_st
from grace_st.cli import main
from tests.llama2c import save_stories260k

pytestmark = pytest.mark.data


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["eval", "mteb", *map(str, arguments), "--json"]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


@pytest.fixture(scope="module")
def stories(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real pretrained model, small enough for a real task: no embedder, but no random one either."""
    root = tmp_path_factory.mktemp("stories")
    save_stories260k(data_dir / "stories260K", root / "checkpoint")
    options = {"system_prompt": None, "pad_token": "<unk>", "max_seq_length": 256, "max_new_tokens": 4}
    grace_st.convert(root / "checkpoint", root / "model", **options)
    return root / "model"


def test_stsbenchmark_with_the_prompt_alone(
    stories: Path, real_data: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--model", stories, "--tasks", "STSBenchmark", "--data-root", real_data, "--results", tmp_path)
    value = evaluate(capsys, *common, "--max-new-tokens", 0, "--compare", data_dir / "mteb_results")
    (task,) = value["tasks"]
    published = {model: scores["tasks"]["STSBenchmark"] for model, scores in value["published"].items()}
    assert len(published) == 5
    random, trained = published["mteb/baseline-random-encoder"], published["sentence-transformers/all-MiniLM-L6-v2"]
    assert random + 0.1 < task["value"] < trained - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Banking77Classification", "XQuADRetrieval:en"])
def test_the_other_kinds_of_tasks(
    task: str, stories: Path, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--model", stories, "--tasks", task, "--data-root", real_data, "--results", tmp_path)
    value = evaluate(capsys, *common, "--max-new-tokens", 0)
    chance = 1 / 77 if task.startswith("Banking") else 10 / 240
    assert value["average"] > 2 * chance
