from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path

import pytest

from harness import recorded
from harness.experiment import Experiment, Planned, result_path
from harness.jobs import Job, run_all
from harness.pages import fill
from harness.spread import difference, spread
from harness.training import training_log


def test_spread_and_difference() -> None:
    assert spread([1.0]).std is None
    row, reference = spread([0.8, 0.9, 0.7]), spread([0.5, 0.6])
    assert (row.mean, row.std, row.n) == (pytest.approx(0.8), pytest.approx(0.1), 3)
    own = [[1.0, 0.5, 0.9], [1.0, 0.7, 1.0], [1.0, 0.3, 0.8]]
    other = [[0.5, 0.5, 0.5], [0.5, 0.7, 0.6]]
    found = difference(row, reference, own, other)
    assert found.mean == pytest.approx(0.25)
    assert found.std == pytest.approx(math.sqrt(0.01 + 0.005))
    assert found.in_std == pytest.approx(0.25 / math.sqrt(0.015))
    # Paired by query: differences 0.5, -0.1 and 0.35.
    assert found.query_error == pytest.approx(0.312250 / math.sqrt(3), rel=1e-4)
    alone = difference(spread([0.8]), reference, own[:1], other)
    assert (alone.std, alone.in_std) == (None, None)
    two = difference(spread([0.8, 0.8001]), reference, own[:2], other)
    assert two.std is not None and two.in_std is None
    # What is not trained is not random, and adds nothing.
    assert difference(row, spread([0.5]), own, other[:1]).std == pytest.approx(0.1)
    with pytest.raises(ValueError, match="3 queries cannot be paired with 2"):
        difference(row, reference, own, [[1.0, 2.0]])


def test_the_training_log_is_summarised() -> None:
    records = [{"step": step, "a": float(step)} for step in range(1, 11)] + [{"step": 10, "b": 2.0}]
    assert training_log(records) == {
        "a": {"first": 1.0, "mean": 5.5, "last": 8.0},
        "b": {"first": 2.0, "mean": 2.0, "last": 2.0},
    }


def test_a_page_is_filled_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- t: begin -->\nold\n<!-- t: end -->\nafter\n", encoding="utf-8")
    for content_ in ("new", "newer\nlines\n"):
        fill(page, {"t": content_})
    assert page.read_text(encoding="utf-8") == "before\n<!-- t: begin -->\nnewer\nlines\n<!-- t: end -->\nafter\n"
    with pytest.raises(ValueError, match="needs <!-- x: begin -->"):
        fill(page, {"x": "new"})


# ---------------------------------------------------------------- processes


def job(tmp_path: Path, name: str, code: str) -> Job:
    return Job(name, [sys.executable, "-c", code], tmp_path / f"{name}.txt")


def test_a_failure_or_a_hang_stops_none_of_the_others(tmp_path: Path) -> None:
    marker = tmp_path / "child"
    child = f"import time; time.sleep(4); open({str(marker)!r}, 'w')"
    hang = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    jobs = [
        job(tmp_path, "bad", "import sys; sys.exit('the reason')"),
        job(tmp_path, "hang", hang),
        job(tmp_path, "good", "import os; assert os.environ['OMP_NUM_THREADS'] == '1'"),
    ]
    began = time.monotonic()
    ended = list(run_all(jobs, side_by_side=2, limit=2.5, environment={"OMP_NUM_THREADS": "1"}))
    causes = {item.job.name: item.cause for item in ended}
    assert causes == {"bad": "exit code 1: the reason", "good": None, "hang": "stopped after the limit of 2 s"}
    assert [item.job.name for item in ended][-1] == "hang"  # the third did not wait for it
    time.sleep(max(0.0, began + 5.5 - time.monotonic()))
    assert not marker.exists()  # what it had started went with it


def test_leaving_early_kills_what_runs(tmp_path: Path) -> None:
    tell = "import os, pathlib, time; pathlib.Path({!r}).write_text(str(os.getpid())); time.sleep(60)"
    pids = [tmp_path / name for name in "ab"]
    jobs = [job(tmp_path, path.name, tell.format(str(path))) for path in pids]
    wait = f"import os, time\nwhile not all(os.path.exists(p) for p in {[str(path) for path in pids]}): time.sleep(0.1)"
    jobs.insert(0, job(tmp_path, "first", f"{wait}\ntime.sleep(0.5)"))
    running = run_all(jobs, side_by_side=3, limit=100, environment={})
    assert next(running).job.name == "first"
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 10
    for path in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


# ---------------------------------------------------------------- going on

WRITES = "import json, sys; json.dump({'status': 'done', 'digest': sys.argv[2], 'x': 1}, open(sys.argv[1], 'w'))"


def plan(output: Path, name: str, code: str = WRITES, digest: str = "d") -> Planned:
    words = (sys.executable, "-c", code, str(output / "runs" / f"{name}.json"), digest)
    return Planned(name=name, digest=digest, words=words, about={"row": name})


def test_runs_are_made_once_and_a_failure_is_kept(tmp_path: Path) -> None:
    runs = [plan(tmp_path, "a"), plan(tmp_path, "b", "import sys; sys.exit('bad luck')"), plan(tmp_path, "c", "pass")]
    experiment = Experiment(tmp_path, runs, lambda content: str(content["x"]))
    assert experiment.make(jobs=2, limit=60, retry_failed=False) == 2
    assert [content["status"] for content in experiment.results().values()] == ["done", "failed", "failed"]
    failed = json.loads(experiment.path("b").read_text(encoding="utf-8"))
    assert (failed["row"], failed["cause"]) == ("b", "exit code 1: bad luck")
    assert json.loads(experiment.path("c").read_text(encoding="utf-8"))["cause"].startswith("it ended without a result")
    assert experiment.left(retry_failed=False) == []
    assert experiment.left(retry_failed=True) == runs[1:]


def test_what_was_killed_is_made_again(tmp_path: Path) -> None:
    late = plan(tmp_path, "late", "import time; time.sleep(60)")
    killed = plan(tmp_path, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    wrong = plan(tmp_path, "wrong", WRITES, digest="d")
    wrong = Planned(name="wrong", digest="another", words=wrong.words, about={})
    experiment = Experiment(tmp_path, [late, killed, wrong, plan(tmp_path, "not-asked")], str)
    assert experiment.make(["late", "killed", "wrong"], jobs=3, limit=3, retry_failed=False) == 3
    assert [run.name for run in experiment.left(retry_failed=False)] == ["late", "killed", "not-asked"]
    assert "of these settings" in json.loads(experiment.path("wrong").read_text(encoding="utf-8"))["cause"]


def test_a_file_of_other_settings_does_not_count(tmp_path: Path) -> None:
    Experiment(tmp_path, [plan(tmp_path, "a")], str).make(jobs=1, limit=60, retry_failed=False)
    changed = [plan(tmp_path, "a", digest="other")]
    experiment = Experiment(tmp_path, changed, str)
    assert experiment.left(retry_failed=False) == changed
    assert experiment.results() == {}


def test_recorded_runs_are_not_made_again_elsewhere(tmp_path: Path) -> None:
    records, here, elsewhere = tmp_path / "runs.jsonl", tmp_path / "here", tmp_path / "elsewhere"
    contents = {
        "a": {
            "status": "done",
            "digest": "d",
            "figures": {"dev": {"per_query": [1 / 3, 1]}},
            "training": {"reward/hard_std": {"first": 2 / 3}, "time/step": {"first": 1.0}},
        },
        "b": {"status": "done", "digest": "d", "figures": {}, "training": None},
        "c": {"status": "failed", "digest": "d", "cause": "bad luck"},
    }
    recorded.record(records, contents, ["a", "b", "c"])
    experiment = Experiment(elsewhere, [plan(elsewhere, name) for name in "abc"], str)
    assert recorded.restore(records, elsewhere, experiment.runs) == 2
    assert [run.name for run in experiment.left(retry_failed=False)] == ["c"]
    found = experiment.results()["a"]
    assert found["figures"] == {"dev": {"per_query": [0.333333, 1]}}
    assert found["training"] == {"reward/hard_std": {"first": 0.666667}}  # what tables show
    # Results that are there, and those of other settings, are left alone.
    result_path(elsewhere, "a").write_text('{"digest": "d", "status": "done"}', encoding="utf-8")
    assert recorded.restore(records, elsewhere, experiment.runs) == 0
    others = Experiment(here, [plan(here, "a", digest="other"), plan(here, "b")], str)
    assert recorded.restore(records, here, others.runs) == 1
    assert [run.name for run in others.left(retry_failed=False)] == ["a"]


def test_records_of_runs_that_cannot_be_planned_here_stay(tmp_path: Path) -> None:
    records = tmp_path / "runs.jsonl"
    done = {"status": "done", "digest": "d", "figures": {}, "training": None}
    recorded.record(records, {"b": done, "a": done}, ["a", "b"])
    recorded.record(records, {"a": {**done, "digest": "new"}}, ["a", "c"])
    assert [(name, line["digest"]) for name, line in recorded.read(records).items()] == [("a", "new"), ("b", "d")]
    recorded.record(records, {}, ["a", "b"])
    assert recorded.read(records) == {}
    assert recorded.read(tmp_path / "none.jsonl") == {}
