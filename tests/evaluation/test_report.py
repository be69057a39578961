"""Reports: means by category and over tasks, the paper beside them, and published results."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')

from grace_eval.mteb.benchmarks import CATEGORIES, select_tasks
from grace_eval.mteb.paper import rows_for
from grace_eval.mteb.report import Report, as_csv, as_dict, as_markdown
from grace_eval.mteb.scores import (
    ScoresError,
    TaskScore,
    by_category,
    published_scores,
    read_result,
    score_of,
    scores_in,
    task_mean,
)
from grace_st.cards.paper import ALGORITHMS, COLUMNS, SUPERVISED


def score(task: str, category: str, value: float, revision: str = "r") -> TaskScore:
    return TaskScore(task=task, category=category, metric="m", value=value, seconds=1.0, dataset_revision=revision)


def write_result(path: Path, task: str, values: dict[str, float], split: str = "test", revision: str = "r") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"hf_subset": subset, "main_score": value, "languages": []} for subset, value in values.items()]
    path.write_text(json.dumps({"task_name": task, "dataset_revision": revision, "scores": {split: entries}}))


def test_the_average_is_the_mean_over_tasks_not_over_categories() -> None:
    scores = [score("a", "STS", 0.2), score("b", "STS", 0.4), score("c", "Retr.", 0.9)]
    assert by_category(scores) == {"Retr.": 0.9, "STS": pytest.approx(0.3)}
    assert task_mean(scores) == pytest.approx(0.5)
    assert task_mean([]) is None


def test_only_what_counts_is_averaged() -> None:
    (task,) = select_tasks(["STS17"]).tasks
    values: dict[str, Any] = {"scores": {"test": [{"hf_subset": "en-en", "main_score": 0.8}]}}
    values["scores"]["test"].append({"hf_subset": "ko-ko", "main_score": 0.1})
    found = score_of(values, task)
    assert found is not None and found.value == 0.8 and found.category == "STS"
    for wrong in ({"main_score": None}, {"main_score": float("nan")}, {}):
        values["scores"]["test"][0] = {"hf_subset": "en-en", **wrong}
        assert score_of(values, task) is None  # and no crash, nor a mean that is no number
    values["scores"]["test"].pop(0)
    assert score_of(values, task) is None


def test_the_papers_rows_are_quoted() -> None:
    assert len(SUPERVISED) == 16 and len(ALGORITHMS) == 4
    by_name = {(row.model, row.method): row for row in rows_for("eng-v1")}
    assert by_name["Qwen2.5-1.5B-Instruct", "GRACE"].average == 45.48
    assert by_name["Qwen3-4B-Instruct-2507", "GRACE"].columns["Retr."] == 52.11
    assert by_name["Qwen2.5-3B-Instruct", "GRACE (unsupervised)"].average == 50.15
    assert all(set(row.columns) == set(COLUMNS) for row in [*SUPERVISED, *ALGORITHMS])
    assert tuple(CATEGORIES.values()) == COLUMNS
    assert rows_for("grace16")[-1].average == 55.89 and rows_for("eng-v2") == ()


def report(**changes: Any) -> Report:
    fields: dict[str, Any] = {
        "model": {"name": "org/m", "revision": "0" * 40, "experiment": {"max_new_tokens": 0}},
        "benchmark": "eng-v1",
        "wanted": ["STS12", "STS13", "SciFact"],
        "scores": {"STS12": score("STS12", "STS", 0.5), "SciFact": score("SciFact", "Retr.", 0.25)},
        "failed": {"STS13": "ValueError: no"},
        "published": {
            "other/model": {"STS12": score("STS12", "STS", 0.6, "older"), "STS13": score("STS13", "STS", 0.7)}
        },
        "paper": rows_for("eng-v1"),
        "local_data": {"STS12": "/data", "SciFact": "unknown"},
        **changes,
    }
    return Report(**fields)


def test_the_report_for_people() -> None:
    text = as_markdown(report())
    assert "2 of 3 tasks" in text and "max_new_tokens=0" in text
    assert "| **org/m** | 25.00 |  |  |  |  | 50.00 |  | 37.50 |" in text
    assert "Qwen2.5-1.5B-Instruct, GRACE (paper, Table 1) | 40.44 | 46.95 |" in text and "| 45.48 |" in text
    assert "not the same quantity" in text and "lacks 1 task, so" in text
    assert "| STS13 |  |  | failed | 70.00 |" in text and "STS13 failed: ValueError: no" in text
    assert "- other/model: 60.00, this model 50.00 (one common task)" in text
    assert "another revision of the data: STS12" in text and "local copies in `/data`: STS12." in text
    assert "not known where the data came from: SciFact." in text


def test_the_report_for_programs() -> None:
    values = as_dict(report())
    assert json.loads(json.dumps(values)) == values
    assert (values["average"], values["missing"]) == (0.375, ["STS13"])
    assert values["published"]["other/model"]["average_on_common_tasks"] == 0.6
    rows = list(csv.DictReader(io.StringIO(as_csv(report()))))
    assert [row["task"] for row in rows if row["task"]] == ["STS12", "STS13", "SciFact"]
    means = {row["category"]: row["score"] for row in rows if row["metric"] == "mean"}
    assert means == {"Retr.": "0.250000", "STS": "0.500000", "": "0.375000"}
    assert rows[0]["score"] == "0.500000" and rows[0]["other/model"] == "0.600000" and rows[1]["score"] == ""


def test_published_results_of_several_revisions(tmp_path: Path) -> None:
    tasks = select_tasks(["STS12", "STSBenchmark"]).tasks
    model = tmp_path / "results/org__model"
    write_result(model / "external/STS12.json", "STS12", {"default": 0.1})
    write_result(model / "external/STSBenchmark.json", "STSBenchmark", {"default": 0.2})
    write_result(model / ("a" * 40) / "STS12.json", "STS12", {"default": 0.3})
    for root in (tmp_path, tmp_path / "results", model):
        found = published_scores(root, tasks)
        assert {name: value.value for name, value in found["org/model"].items()} == {"STS12": 0.3, "STSBenchmark": 0.2}
    with pytest.raises(FileNotFoundError, match="holds no published results"):
        published_scores(tmp_path / "results", select_tasks(["SciFact"]).tasks)


@pytest.mark.data
def test_the_published_results_of_real_models(data_dir: Path) -> None:
    tasks = select_tasks(["Banking77Classification", "STSBenchmark"]).tasks
    found = published_scores(data_dir / "mteb_results", tasks)
    assert len(found) == 5
    mini = found["sentence-transformers/all-MiniLM-L6-v2"]
    assert mini["STSBenchmark"].value == pytest.approx(0.8203, abs=1e-4)
    assert mini["Banking77Classification"].value == pytest.approx(0.8004, abs=1e-4)
    assert found["minishlab/potion-base-2M"]["STSBenchmark"].value == pytest.approx(0.7281, abs=1e-4)


def test_files_that_are_no_results(tmp_path: Path) -> None:
    path = tmp_path / "STS12.json"
    path.write_text("{")
    with pytest.raises(ScoresError, match="not valid JSON"):
        read_result(path)
    path.write_text("[]")
    with pytest.raises(ScoresError, match="no result file"):
        scores_in(tmp_path, select_tasks(["STS12"]).tasks)
