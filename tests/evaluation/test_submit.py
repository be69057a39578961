"""``grace-st eval submit``: the results repository's rules, and all that upstream asks for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')

import mteb
from mteb.models import ModelMeta
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

from grace_eval.mteb.benchmarks import select_benchmark
from grace_eval.mteb.chosen import choose
from grace_eval.mteb.layout import check_folder
from grace_eval.mteb.upstream import model_source, module_name
from grace_st.cli import main
from grace_st.mteb import model_meta
from tests.conftest import GraceFolder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def model(grace_folder: GraceFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("submitted") / "model"
    shutil.copytree(grace_folder("qwen2", max_new_tokens=3), folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(model: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluated")
    arguments = ["--model", str(model), "--name", "org/model", "--results", str(root), "--data-root", str(small_data)]
    assert main(["eval", "mteb", "--tasks", "STSBenchmark", "Banking77Classification", *arguments, "--quiet"]) == 0
    return root


@pytest.fixture
def results(evaluated: Path, tmp_path: Path) -> Path:
    shutil.copytree(evaluated, tmp_path / "results-folder")
    return tmp_path / "results-folder"


def revision_folder(results: Path) -> Path:
    (folder,) = (results / "results").glob("*/*")
    return folder


def submit(*arguments: object) -> int:
    return main(["eval", "submit", *map(str, arguments)])


def test_a_submission(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    options = ["--hub-revision", COMMIT, "--license", "mit", "--languages", "eng-Latn", "--training-datasets", "NQ"]
    assert submit("--results", results, "--output", output, *options) == 0
    shown, noise = capsys.readouterr()
    assert "pull request to https://github.com/embeddings-benchmark/results" in shown and noise == ""
    assert "Fill in release_date, open_weights" in shown
    # What was read from local copies looks like what was read from the hub, so it is said.
    assert "The data of 2 tasks (Banking77Classification, STSBenchmark) were read from local copies" in shown
    own = output / "results/org__model" / COMMIT
    assert check_folder(own) == []
    assert {path.name for path in own.iterdir()} == {
        "Banking77Classification.json",
        "STSBenchmark.json",
        "model_meta.json",
        "run_settings.jsonl",
    }
    meta = json.loads((own / "model_meta.json").read_text())
    assert (meta["name"], meta["revision"]) == ("org/model", COMMIT)
    everything = "".join(path.read_text() for path in output.rglob("*") if path.is_file() and path.name != "STEPS.md")
    assert str(results.parent) not in everything  # no path of this machine leaves it
    mock = (output / "mteb_mock_run_results.md").read_text()
    assert mock.startswith("# MTEB Mock-Run Results for `org/model`") and "✗" not in mock and mock.count("| ✓ |") >= 28
    scope: dict[str, Any] = {}
    exec((output / "org_models.py").read_text(), scope)
    made = scope["model"]
    assert isinstance(made, ModelMeta)
    assert made.loader is SentenceTransformerEncoderWrapper
    assert (made.name, made.revision, made.license, made.training_datasets) == ("org/model", COMMIT, "mit", {"NQ"})
    assert made.loader_kwargs == {"trust_remote_code": True} and made.loader is not None


@pytest.mark.slow  # mteb's mock tasks once more
def test_without_a_commit_of_the_hub_it_is_the_first_step(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (results / "results/org__model" / revision_folder(results).name / "Banking77Classification.json").unlink()
    assert submit("--results", results, "--output", tmp_path / "out", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert "1. Publish the model folder as `org/model` on the hub" in value["steps"]
    assert value["missing"] == {"tasks": ["Banking77Classification"]}
    assert "No results of 1 task (Banking77Classification) of tasks that were asked for" in value["steps"]
    assert value["results"] == 1 and value["mock_tasks_passed"] >= 28


def _edit(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return edit


def _score(value: float) -> Callable[[dict[str, Any]], None]:
    return lambda values: values["scores"]["test"][0].update(main_score=value)


BREAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no metadata": (lambda folder: (folder / "model_meta.json").unlink(), "is missing"),
    "metadata of another": (
        _edit("model_meta.json", lambda v: v.update(name="org/other")),
        "is of the model org/other",
    ),
    "another revision": (_edit("model_meta.json", lambda v: v.update(revision="1")), "is of the revision 1"),
    "half a file": (lambda folder: (folder / "STSBenchmark.json").write_text("{"), "not valid JSON"),
    "a stray file": (lambda folder: (folder / "notes.txt").write_text("x"), "is neither a result"),
    "a stray folder": (lambda folder: (folder / "old").mkdir(), "is a folder"),
    "a large file": (lambda folder: (folder / "run_settings.jsonl").write_bytes(b" " * (10 * 1024**2 + 1)), "bytes"),
    "another task": (_edit("STSBenchmark.json", lambda v: v.update(task_name="STS12")), "is a result of STS12"),
    "no such task": (
        lambda folder: (folder / "NoTask.json").write_text('{"task_name": "NoTask", "scores": {"test": []}}'),
        "does not know",
    ),
    "other data": (_edit("STSBenchmark.json", lambda v: v.update(dataset_revision="1")), "run it again"),
    "no number": (_edit("STSBenchmark.json", _score(float("nan"))), "no numbers"),
    "no split": (
        _edit("STSBenchmark.json", lambda v: v.update(scores={"dev": v["scores"]["test"]})),
        "lacks the split",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_rule_of_the_results_repository(
    name: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = BREAKS[name]
    folder = revision_folder(results)
    assert check_folder(folder) == []
    change(folder)
    assert any(said in str(problem) for problem in check_folder(folder)), check_folder(folder)
    assert submit("--results", results, "--output", tmp_path / "out") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["MassiveIntentClassification", "AmazonCounterfactualClassification", "STS17"])
def test_what_the_benchmark_runs_is_enough(task: str, results: Path) -> None:
    """A bare task has a validation split and a hundred languages, which no English benchmark runs."""
    (own,) = [one for one in select_benchmark("eng-v1").tasks if one.metadata.name == task]
    assert mteb.get_task(task).hf_subsets != own.hf_subsets
    folder = revision_folder(results)
    entries = [{"hf_subset": subset, "main_score": 0.5, "languages": []} for subset in own.hf_subsets]
    values: dict[str, Any] = {
        "task_name": task,
        "dataset_revision": own.metadata.revision,
        "scores": dict.fromkeys(own.eval_splits, entries),
    }
    path = folder / f"{task}.json"
    path.write_text(json.dumps(values))
    assert check_folder(folder) == [] and check_folder(folder, [own]) == []
    values["scores"] = {split: [{**entries[0], "hf_subset": "xx"}] for split in own.eval_splits}
    path.write_text(json.dumps(values))
    (problem,) = check_folder(folder)
    assert f"lacks the subset {own.hf_subsets[0]} of the split test" in str(problem)


def test_scores_of_a_run_with_other_settings_are_not_the_last_report(results: Path) -> None:
    folder = revision_folder(results)
    (report,) = (results / "reports/org__model").glob("*/tasks.json")
    other = json.loads(report.read_text())
    other["model"].update(experiment={"max_new_tokens": 0}, folder="/somewhere/else")
    other["benchmark"] = "eng-v1"
    path = report.parent / "experiments/max_new_tokens_0/eng-v1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(other))
    chosen = choose(results)
    assert chosen.folder == folder and set(chosen.missing) == {"tasks"} and chosen.missing["tasks"] == ()


def test_names_and_revisions_are_checked(results: Path) -> None:
    folder = revision_folder(results)
    local = folder.parent.with_name("local__model")
    folder.parent.rename(local)
    said = [str(problem) for problem in check_folder(local / folder.name)]
    assert any("no organization of the hub" in problem for problem in said)
    moved = (local / folder.name).rename(local / "main")
    assert any("40 hexadecimal digits" in str(problem) for problem in check_folder(moved))


def test_results_of_another_model_are_refused(
    results: Path, grace_folder: GraceFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit("--results", results, "--model", grace_folder("llama", max_new_tokens=3)) == 2
    assert "it has changed since, or is another model" in capsys.readouterr().err
    assert submit("--results", results, "--name", "org/other") == 2
    assert "holds no results of org/other, but of org/model" in capsys.readouterr().err
    assert submit("--results", tmp_path / "nothing") == 2
    assert "run `grace-st eval mteb` first" in capsys.readouterr().err
    other = results / "results/org__other"
    shutil.copytree(results / "results/org__model", other)
    assert submit("--results", results) == 2
    assert "choose one with --name" in capsys.readouterr().err
    assert choose(results, name="org/model").name == "org/model"


def test_a_checkpoint_that_changed_since_is_refused(
    results: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    config = json.loads((copy / "grace_config.json").read_text())
    (copy / "grace_config.json").write_text(json.dumps({**config, "max_new_tokens": 5}))
    assert submit("--results", results, "--model", copy) == 2
    assert "Evaluate it as it is now" in capsys.readouterr().err


def test_experiments_are_no_submission(
    model: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--model",
        str(model),
        "--name",
        "org/model",
        "--results",
        str(tmp_path),
        "--data-root",
        str(small_data),
    ]
    assert main(["eval", "mteb", "--tasks", "STSBenchmark", *arguments, "--max-new-tokens", "0", "--quiet"]) == 0
    assert submit("--results", tmp_path) == 2
    assert "other settings than the model's own" in capsys.readouterr().err


def test_misuse(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--results", results, "--hub-revision", "main", "--output", tmp_path / "out") == 2
    assert "40 hexadecimal digits" in capsys.readouterr().err
    assert submit("--results", results, "--output", tmp_path) == 2
    assert "exists: choose another output" in capsys.readouterr().err


def test_the_source_is_python_whatever_the_name(model: Path) -> None:
    assert module_name("My-Org/x") == "my_org_models"
    source = model_source(model_meta(model, "org/3b-it.v1"))
    assert "model_3b_it_v1 = ModelMeta(" in source
    compile(source, "x.py", "exec")
