from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from grace_train.report.config import LogConfig
from grace_train.report.log import RunLog, read_metrics

PLAIN = LogConfig(tensorboard=False)


def shown_by_tensorboard(folder: Path) -> list[tuple[int, str, float]]:
    """What TensorBoard shows of its files: files by name, a session's start purges steps from its own on."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown: list[tuple[int, str, float]] = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                shown = [point for point in shown if point[0] < event.step]
            shown += [(event.step, value.tag, round(value.simple_value, 4)) for value in event.summary.value]
    return shown


def test_every_step_is_a_line_of_json_at_once(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", PLAIN) as log:
        log.record(1, {"reward/total": 6.5, "loss/policy": 0})
        lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [{"step": 1, "reward/total": 6.5, "loss/policy": 0.0}]
        log.record(1, {"eval/ndcg@10": 0.7})
    assert [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 1]


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path: Path) -> None:
    RunLog(tmp_path, PLAIN).record(1, {"loss/policy": math.nan, "loss/grad_norm": math.inf, "loss/kl": 0.5})
    line = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(line) == {"step": 1, "loss/policy": None, "loss/grad_norm": None, "loss/kl": 0.5}
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(record["loss/policy"]) and math.isnan(record["loss/grad_norm"])


@pytest.mark.parametrize("torn", [b"", b'{"step": 5, "a"', b'{"step": 5, "a": 1.0}', b"\x00\x00\x00", b"\xe2\x82"])
def test_a_torn_last_line_is_left_out_and_cut_off_when_going_on(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    with RunLog(tmp_path, PLAIN) as log:
        for step in range(1, 5):
            log.record(step, {"a": float(step)})
    with path.open("ab") as file:
        file.write(torn)
    assert [record["step"] for record in read_metrics(path)][:4] == [1, 2, 3, 4]
    with RunLog(tmp_path, PLAIN) as log:
        log.continue_from(3)
        log.record(4, {"a": 40.0})
    assert read_metrics(path) == [{"step": 1, "a": 1}, {"step": 2, "a": 2}, {"step": 3, "a": 3}, {"step": 4, "a": 40}]
    assert list(tmp_path.iterdir()) == [path]


def test_an_evaluation_that_will_be_made_again_is_dropped(tmp_path: Path) -> None:
    with RunLog(tmp_path, PLAIN) as log:
        for step in (1, 2):
            log.record(step, {"reward/total": 1.0})
            log.record(step, {"eval/ndcg@10": 0.5})
    for is_evaluated, kept in ((True, [1, 1, 2, 2]), (False, [1, 1, 2]), (False, [1, 1, 2])):
        with RunLog(tmp_path, PLAIN) as log:
            log.continue_from(2, is_evaluated=is_evaluated)
        assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == kept
    assert "reward/total" in read_metrics(tmp_path / "metrics.jsonl")[-1]


def test_no_step_is_shown_twice_after_a_resume(tmp_path: Path) -> None:
    for done, last in ((0, 5), (3, 6)):
        with RunLog(tmp_path, LogConfig()) as log:
            if done:
                log.continue_from(done)
            for step in range(done + 1, last + 1):
                log.record(step, {"reward/total": step + done / 10})
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.3), (5, 5.3), (6, 6.3)]
    assert [(record["step"], record["reward/total"]) for record in read_metrics(tmp_path / "metrics.jsonl")] == expected
    shown = shown_by_tensorboard(tmp_path / "tensorboard")
    assert shown == [(step, "reward/total", value) for step, value in expected]


def test_a_run_that_was_interrupted_before_its_first_step_can_go_on(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", PLAIN)
    log.continue_from(0)
    log.record(1, {"a": 1.0})
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == [{"step": 1, "a": 1.0}]


def test_another_run_is_not_written_over(tmp_path: Path) -> None:
    RunLog(tmp_path, PLAIN).record(1, {"a": 1.0})
    with pytest.raises(FileExistsError, match=r"metrics\.jsonl is there from another run: resume that run, or choose"):
        RunLog(tmp_path, PLAIN).record(1, {"a": 2.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 1.0}]


@pytest.mark.parametrize("line", ["[1]", "", '{"a": 1}', '{"step": 1, "a": NaN}', "{"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 is no JSON object with a step"):
        read_metrics(path)


@pytest.mark.parametrize(
    ("package", "config", "remedy"),
    [
        ("tensorboardX", LogConfig(), r"pip install 'grace-st\[train\]'.*log.tensorboard=false"),
        ("wandb", LogConfig(tensorboard=False, wandb="project"), "pip install wandb"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, config: LogConfig, remedy: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=remedy):
        RunLog(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_packages_that_are_not_asked_for_are_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    RunLog(tmp_path, PLAIN).record(1, {"a": 1.0})


class FakeWandb:
    """Stands in for the package wandb: what it was asked for, and what it was given."""

    def __init__(self) -> None:
        self.settings: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.finished = 0

    def init(self, **settings: Any) -> FakeWandb:
        self.settings.append(settings)
        return self

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for done in (0, 1):
        with RunLog(tmp_path, LogConfig(tensorboard=False, wandb="embeddings")) as log:
            if done:
                log.continue_from(done)
            log.record(done + 1, {"reward/total": 1.0, "loss/policy": math.nan})
    first, second = fake.settings
    assert first == second and first["project"] == "embeddings" and first["resume"] == "allow"
    assert fake.logged == [{"step": 1, "reward/total": 1.0}, {"step": 2, "reward/total": 1.0}]
    assert fake.finished == 2
