"""``grace-st eval mteb``: runs that go on where they stopped, and what cannot be run."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')

import mteb

from grace_eval.mteb.benchmarks import GRACE16, select_benchmark, select_tasks
from grace_eval.mteb.data import MissingDataError, check_offline
from grace_eval.mteb.live import LiveTable
from grace_eval.mteb.run import RunState, TaskState, expected_texts
from grace_st import NonFiniteVectorError, RationaleStore
from grace_st.cli import main
from grace_st.engines.torch_engine import TorchEngine
from grace_st.store import StoreFileError
from tests.conftest import GraceFolder
from tests.evaluation.conftest import write_small_data

TASKS = ("STSBenchmark", "Banking77Classification", "XQuADRetrieval:en")


@pytest.fixture(scope="module")
def folder(grace_folder: GraceFolder) -> Path:
    return grace_folder("qwen2", max_new_tokens=3)


def run(*arguments: object) -> int:
    return main(["eval", "mteb", *map(str, arguments)])


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


# ---------------------------------------------------------------- which tasks


def test_the_benchmarks() -> None:
    paper = select_benchmark("eng-v1")
    assert len(paper.tasks) == 56
    by_name = {task.metadata.name: task for task in paper.tasks}
    assert by_name["STS17"].hf_subsets == ["en-en"] and by_name["MSMARCO"].eval_splits == ["dev"]
    assert len(select_benchmark("eng-v2").tasks) == 41
    small = select_benchmark("grace16")
    assert [task.metadata.name for task in small.tasks] == list(GRACE16) and len(set(GRACE16)) == 16
    assert set(GRACE16) <= set(by_name)
    assert select_tasks(["XQuADRetrieval:en"]).tasks[0].hf_subsets == ["en"]
    assert select_tasks(["MassiveIntentClassification"]).tasks[0].hf_subsets == ["en"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "STSBenchmrk"], "there is no task 'STSBenchmrk'; did you mean STSBenchmark"),
        (["--tasks", "banking77"], "Banking77Classification"),
        (["--tasks", "XQuADRetrieval:fr"], "has no subset 'fr'"),
        (["--tasks", "STS12", "STS12"], "the task STS12 is given twice"),
        (["--tasks", "XQuADRetrieval:en", "XQuADRetrieval:de"], "several subsets of the task XQuADRetrieval"),
        (["--benchmark", "eng-v3"], "did you mean eng-v"),
        (["--benchmark", "zzzz"], "the short names are eng-v1, eng-v2, grace16"),
        (["--tasks", "STS12", "--model", "missing"], "missing is not a folder"),
        (["--tasks", "STS12", "--name", "mine"], "must be ORGANIZATION/MODEL"),
        (["--tasks", "STS12", "--temperature", "0.5"], "add do_sample=True"),
        (["--tasks", "STS12", "--max-new-tokens", "-1"], "max_new_tokens must be an integer >= 0"),
        (["--tasks", "STS12", "--engine", "vllm", "--slots", "3"], "--engine-option max_num_seqs=N"),
        (["--tasks", "STS12", "--engine-option", "slotz=3"], "unknown engine option 'slotz'"),
        (["--tasks", "STS12", "--no-store", "--store", "x.sqlite"], "have no meaning with it"),
        (["--tasks", "STS12", "--compare", "missing"], "there is no folder missing"),
        (["--tasks", "STS12", "--data-root", "missing"], "there is no folder missing with data sets"),
        (["--tasks", "STS12"], "hf download mteb/sts12-sts --repo-type dataset --revision"),
        ([], "one of the arguments --benchmark --tasks is required"),
    ],
)
def test_misuse_is_one_line_before_any_work(
    arguments: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [] if "--model" in arguments else ["--model", folder]
    assert run(*arguments, *model, "--results", tmp_path / "results") == 2
    error = capsys.readouterr().err
    assert said in error, error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.sqlite"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("PRAGMA user_version = 99", "has format version 99"),
        ("PRAGMA application_id = 1", "is an SQLite file of something else"),
    ],
)
def test_a_store_that_cannot_be_used_is_said_before_any_work(
    change: str, said: str, folder: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store.sqlite"
    RationaleStore(store).close()
    with closing(sqlite3.connect(store)) as connection:
        connection.execute(change)
    arguments = ("--tasks", "STSBenchmark", "--model", folder, "--results", tmp_path / "r", "--data-root", small_data)
    assert run(*arguments, "--store", store) == 2
    error = capsys.readouterr().err
    assert said in error and "name another" in error and error.count("\n") == 1
    assert "run the same again" not in error  # that would not help
    assert not list(tmp_path.rglob("STSBenchmark.json"))


def test_missing_data_are_named_with_what_fetches_them(
    folder: Path, tmp_path: Path, small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--model", folder, "--results", tmp_path, "--data-root", small_data)
    assert run("--tasks", "STSBenchmark", "CQADupstackRetrieval", *arguments) == 2
    error = capsys.readouterr().err
    assert "the data of 12 tasks are not in" in error and "CQADupstackAndroidRetrieval needs mteb/CQADupstack" in error
    assert f"--local-dir {small_data}/mteb/CQADupstack" in error
    with pytest.raises(MissingDataError, match=r"STS12 needs mteb/sts12-sts.*--data-root DIR"):
        check_offline([mteb.get_task("STS12")])


# ---------------------------------------------------------------- runs


def test_a_run_its_report_and_the_next_run(
    folder: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--model", folder, "--name", "test/model", "--results", tmp_path, "--data-root", small_data)
    first = run_json(capsys, "--tasks", *TASKS, *arguments)
    assert first["tasks_done"] == 3 and first["missing"] == []
    scores = {task["task"]: task["value"] for task in first["tasks"]}
    assert first["average"] == pytest.approx(sum(scores.values()) / 3)
    own = tmp_path / "results/test__model" / first["model"]["revision"]
    assert {path.name for path in own.iterdir()} == {
        "Banking77Classification.json",
        "STSBenchmark.json",
        "XQuADRetrieval.json",
        "model_meta.json",
        "run_settings.jsonl",
    }
    report = Path(first["reports"][0]).read_text()
    assert "| STSBenchmark | STS | cosine_spearman |" in report and str(small_data) in report
    before = {path.name: path.read_bytes() for path in own.glob("*.json")}
    again = run_json(capsys, "--tasks", *TASKS, *arguments)
    assert again["tasks"] == first["tasks"]
    assert {path.name: path.read_bytes() for path in own.glob("*.json")} == before
    # Other settings are other scores, in another place.
    short = run_json(capsys, "--tasks", "STSBenchmark", *arguments, "--max-new-tokens", 0)
    assert short["model"]["experiment"] == {"max_new_tokens": 0}
    assert short["tasks"][0]["value"] != scores["STSBenchmark"]
    assert (own / "experiments/max_new_tokens_0/STSBenchmark.json").is_file()
    # The model's own budget, said aloud, is no other setting.
    assert run_json(capsys, "--tasks", "STSBenchmark", *arguments, "--max-new-tokens", 3)["model"]["experiment"] == {}


def test_changed_local_data_are_read_anew(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_small_data(tmp_path / "data")
    arguments = ("--tasks", "STSBenchmark", "--model", folder, "--results", tmp_path / "r", "--data-root", data)
    first = run_json(capsys, *arguments)["average"]
    path = data / "mteb/stsbenchmark-sts/default/test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "score": 5 - row["score"]}) + "\n" for row in rows))
    assert run_json(capsys, *arguments, "--overwrite")["average"] == pytest.approx(-first, abs=1e-6)


def test_a_half_written_result_is_run_again(
    folder: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ("--tasks", "STSBenchmark", "--model", folder, "--results", tmp_path, "--data-root", small_data)
    first = run_json(capsys, *arguments)
    (path,) = tmp_path.glob("results/*/*/STSBenchmark.json")
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        again = run_json(capsys, *arguments)
    assert again["average"] == first["average"] and json.loads(path.read_text())
    (aside,) = tmp_path.glob("set-aside/*/*/STSBenchmark.json")
    assert f"STSBenchmark.json is damaged; it was moved to {aside}" in caplog.text


def test_a_changed_checkpoint_is_another_model(
    folder: Path, grace_folder: GraceFolder, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    arguments = ("--tasks", "STSBenchmark", "--model", model, "--results", tmp_path / "r", "--data-root", small_data)
    first = run_json(capsys, *arguments)
    shutil.copytree(grace_folder("llama", max_new_tokens=3), model, dirs_exist_ok=True)
    assert run(*arguments) == 0
    shown = capsys.readouterr().out
    assert f"also has results of other content of the model folder ({first['model']['revision'][:12]})" in shown
    assert len(list((tmp_path / "r/results/local__model").iterdir())) == 2
    assert "STSBenchmark: " in shown and "Task mean" in shown


def test_a_task_that_fails(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_small_data(tmp_path / "data")
    (data / "mteb/stsbenchmark-sts/default/test.jsonl").write_text('{"wrong": 1}\n')
    arguments = ("--tasks", *TASKS[:2], "--model", folder, "--results", tmp_path, "--data-root", data)
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert "in the task STSBenchmark" in error and "0 of 2 tasks" in error and "run the same again" in error
    assert run(*arguments, "--keep-going", "--quiet") == 1
    (report,) = tmp_path.glob("reports/*/*/tasks.md")
    assert "STSBenchmark failed" in report.read_text() and "| Banking77Classification | Class. |" in report.read_text()


def test_data_that_are_missing_are_the_trouble_of_one_task(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is said about them (`FileNotFoundError`, errors of the hub) are errors of the system, as a full disk is."""
    data = write_small_data(tmp_path / "data")
    for path in (data / "mteb/stsbenchmark-sts").rglob("*.jsonl"):
        path.unlink()
    arguments = ("--tasks", *TASKS[:2], "--model", folder, "--results", tmp_path, "--data-root", data)
    assert run(*arguments, "--keep-going", "--quiet") == 1
    (report,) = tmp_path.glob("reports/*/*/tasks.md")
    assert "STSBenchmark failed" in report.read_text() and "| Banking77Classification | Class. |" in report.read_text()


@pytest.mark.parametrize(
    ("error", "stops"),
    [
        (StoreFileError("the store is locked"), True),
        (OSError(errno.ENOSPC, "no space"), True),
        (MemoryError(), True),
        (FileNotFoundError(errno.ENOENT, "no data"), False),
        (NonFiniteVectorError(0, "a vector"), False),
    ],
)
def test_what_all_tasks_would_have_stops_the_run(
    error: Exception, stops: bool, folder: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(TorchEngine, "generate", failing)
    arguments = ("--tasks", *TASKS[:2], "--model", folder, "--results", tmp_path, "--data-root", small_data, "--quiet")
    assert run(*arguments, "--keep-going") != 0
    reports = list(tmp_path.glob("reports/*/*/tasks.json"))
    assert (reports == []) is stops
    if not stops:
        assert len(json.loads(reports[0].read_text())["failed"]) == 2


def test_another_engine(
    fake_vllm: Callable[[str], None], small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fake of vLLM in a process of its own: its scores are nonsense, and its rationales are kept as vLLM's."""
    del fake_vllm
    arguments = ("--tasks", "STSBenchmark", "--model", "grace-nano", "--results", tmp_path, "--data-root", small_data)
    found = run_json(capsys, *arguments, "--engine", "vllm", "--engine-option", "max_num_seqs=4")
    assert found["tasks_done"] == 1
    (space,) = RationaleStore(tmp_path / "rationales.sqlite").info().spaces
    assert space.settings["engine"] == "VllmEngine" and space.settings["options"]["max_num_seqs"] == 4
    assert space.entries > 0


def test_results_of_other_data_are_evaluated_again(
    folder: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--tasks", "STSBenchmark", "--model", folder, "--results", tmp_path, "--data-root", small_data)
    first = run_json(capsys, *arguments)
    (path,) = tmp_path.glob("results/*/*/STSBenchmark.json")
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "dataset_revision": "an older one"}))
    again = run_json(capsys, *arguments)
    assert json.loads(path.read_text())["dataset_revision"] == values["dataset_revision"]
    assert again["average"] == pytest.approx(first["average"], abs=1e-6)
    (aside,) = tmp_path.glob("set-aside/*/*/STSBenchmark.json")
    assert json.loads(aside.read_text())["dataset_revision"] == "an older one"
    assert {one.name for one in path.parent.iterdir()} == {"STSBenchmark.json", "model_meta.json", "run_settings.jsonl"}


def test_a_run_that_goes_on_finds_what_is_prepared(
    folder: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--model", folder, "--results", tmp_path, "--data-root", small_data)
    run_json(capsys, "--tasks", "STSBenchmark", *arguments)
    prepared = {path.name for path in (tmp_path / "datasets-cache").iterdir()}
    run_json(capsys, "--tasks", *TASKS[:2], *arguments, "--overwrite")
    assert {path.name for path in (tmp_path / "datasets-cache").iterdir() if path.name.startswith("STSB")} == prepared


def test_reports_of_several_benchmarks_lie_side_by_side(tmp_path: Path) -> None:
    from grace_eval.mteb.report import Report, write_report

    for name in ("eng-v1", "MTEB(eng, v2)"):
        model = {"name": "a/b", "revision": "0" * 40, "experiment": {}}
        write_report(Report(model=model, benchmark=name, wanted=[], scores={}), tmp_path)
    assert {path.name for path in tmp_path.glob("*.md")} == {"eng-v1.md", "MTEB_eng__v2_.md"}


# A process of its own: the thread pools of the libraries that read data do not survive a fork.
_KILLED = """
import os, signal, sys
import grace_st.module
from grace_st.cli import main
from grace_st.engines.torch_engine import TorchEngine
grace_st.module.CPU_BATCH = 4
log, left, *arguments = sys.argv[1:]
left = int(left)
generate = TorchEngine.generate
def counted(self, prompts, *args, **options):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    with open(log, "a") as stream:
        stream.writelines(f"{prompt.ids}\\n" for prompt in prompts)
    return generate(self, prompts, *args, **options)
TorchEngine.generate = counted
sys.exit(main(["eval", "mteb", *arguments]))
"""


@pytest.mark.slow  # imports all once more; tests/test_store.py kills a run of the encoder alone
def test_a_killed_run_goes_on_and_generates_nothing_twice(
    folder: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "generated"
    common = ("--tasks", "STSBenchmark", "XQuADRetrieval:en", "--model", folder, "--data-root", small_data)
    whole = run_json(capsys, *common, "--results", tmp_path / "whole", "--no-store")
    arguments = [log, 4, *common, "--results", tmp_path / "killed", "--quiet"]
    killed = subprocess.run([sys.executable, "-c", _KILLED, *map(str, arguments)], timeout=240)
    assert killed.returncode == -signal.SIGKILL  # in the second task
    results = [path.name for path in tmp_path.glob("killed/results/*/*/*.json")]
    assert sorted(results) == ["STSBenchmark.json", "model_meta.json"]
    generate = TorchEngine.generate

    def counted(self: TorchEngine, prompts: Any, *args: Any, **options: Any) -> Any:
        with log.open("a") as stream:
            stream.writelines(f"{prompt.ids}\n" for prompt in prompts)
        return generate(self, prompts, *args, **options)

    monkeypatch.setattr(TorchEngine, "generate", counted)
    resumed = run_json(capsys, *common, "--results", tmp_path / "killed")
    generated = log.read_text().splitlines()
    assert len(generated) == len(set(generated)) == 5 + 12 + 6
    assert resumed["tasks_done"] == 2
    for one, two in zip(whole["tasks"], resumed["tasks"], strict=True):
        assert one["value"] == pytest.approx(two["value"], abs=1e-6)


def test_an_interruption_says_what_is_kept(
    folder: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TorchEngine, "generate", interrupted)
    arguments = ("--tasks", "STSBenchmark", "--model", folder, "--results", tmp_path, "--data-root", small_data)
    assert run(*arguments) == 130
    assert "interrupted (0 of 1 tasks, and the texts encoded so far, are kept" in capsys.readouterr().err
    assert run(*arguments, "--no-store") == 130
    assert "interrupted (0 of 1 tasks are kept" in capsys.readouterr().err


# ---------------------------------------------------------------- the live table


def test_the_live_table_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    tasks = select_benchmark("grace16").tasks
    state = RunState(tasks=[TaskState(task=task, expected=1000) for task in tasks], started=100.0)
    state.tasks[0].status = "kept"
    state.current = state.tasks[1]
    state.current.status = "running"
    assert state.seconds_left() is None
    state.advance(500)
    now[0] = 150.0
    assert state.seconds_left() == pytest.approx((500 + 14 * 1000) / 10)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(LiveTable(state))
    shown = console.export_text()
    assert "SciFact" in shown and "done before" in shown
    assert "500 of about 1000" in shown and "1 of 16 tasks done, 0:00:50 so far, about 0:24:10 left" in shown


def test_expected_counts_come_from_mteb() -> None:
    by_name = {task.metadata.name: task for task in select_benchmark("eng-v1").tasks}
    assert expected_texts(by_name["STSBenchmark"]) == 2 * 1379
    assert expected_texts(by_name["SciFact"]) == 5483
    assert (expected_texts(by_name["CQADupstackRetrieval"]) or 0) > 400_000
