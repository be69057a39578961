"""Real tasks of mteb on real data, offline, with the bundled model and a real pretrained one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')

from grace_st.cli import main

pytestmark = pytest.mark.data


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["eval", "mteb", *map(str, arguments), "--json"]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_stsbenchmark_with_the_prompt_alone(
    real_data: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--model", "grace-nano", "--tasks", "STSBenchmark", "--data-root", real_data, "--results", tmp_path)
    value = evaluate(capsys, *common, "--max-new-tokens", 0, "--compare", data_dir / "mteb_results")
    (task,) = value["tasks"]
    assert 0.1 < task["value"] < 0.9
    assert len(value["published"]) == 5
    random = value["published"]["mteb/baseline-random-encoder"]["tasks"]["STSBenchmark"]
    assert (
        random < task["value"] < value["published"]["sentence-transformers/all-MiniLM-L6-v2"]["tasks"]["STSBenchmark"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Banking77Classification", "XQuADRetrieval:en"])
def test_the_other_kinds_of_tasks(
    task: str, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--model", "grace-nano", "--tasks", task, "--data-root", real_data, "--results", tmp_path)
    value = evaluate(capsys, *common, "--max-new-tokens", 0)
    chance = 1 / 77 if task.startswith("Banking") else 10 / 240
    assert value["average"] > 2 * chance
