from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace_train.report.live import LiveView, format_line

VALUES = {
    "reward/total": 6.832,
    "reward/total_std": 0.41,
    "reward/positive": 0.8124,
    "reward/positive_std": 0.0312,
    "reward/negative": -0.34,
    "reward/negative_std": 3e-9,
    "rollout/length": 33.8,
    "rollout/eos_rate": 0.984,
    "rollout/tokens_per_second": 1240.3,
}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "20")
    yield Terminal()


def visible(text: str) -> list[str]:
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")]


def test_a_line_has_all_there_is_to_know() -> None:
    assert format_line(12, 100, VALUES, 185.4) == (
        "step 12/100  3:05 left  reward 6.83 (0.410)  positive 0.812 (0.031)  negative -0.340 (0)  length 34  EOS 98%  "
        "1240 tokens/s"
    )


def test_only_a_deviation_of_nothing_is_shown_as_zero() -> None:
    shown = {value: format_line(1, 2, {"reward/hard": -0.5, "reward/hard_std": value}, None) for value in (0.0, 4e-4)}
    assert shown[0.0].endswith("hard -0.500 (0)")
    assert shown[4e-4].endswith("hard -0.500 (4e-04)")


def test_what_is_missing_is_left_out() -> None:
    assert format_line(3, 9, {}, None) == "step 3/9"
    assert format_line(9, 9, {"query_reward/total": 1.5}, 0.0) == "step 9/9  query reward 1.50"
    assert format_line(1, 9, {"eval/ndcg@10": 0.75}, 7322.0) == "step 1/9  2:02:02 left  nDCG@10 0.750"


@given(
    values=st.dictionaries(st.sampled_from(sorted(VALUES)), st.floats(allow_nan=True, allow_infinity=True)),
    seconds=st.floats(0, 1e9) | st.none(),
)
def test_any_values_make_one_line(values: dict[str, float], seconds: float | None) -> None:
    line = format_line(1, 10, values, seconds)
    assert line.startswith("step 1/10") and "\n" not in line


def test_without_a_terminal_there_are_plain_lines_every_few_steps() -> None:
    stream = io.StringIO()
    with LiveView(10, every=4, stream=stream) as view:
        for step in range(1, 11):
            view.update(step, {"reward/total": float(step)})
        view.message("done")
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == [
        "step 1/10",
        "step 4/10",
        "step 8/10",
        "step 10/10",
        "done",
    ]
    assert "\x1b" not in stream.getvalue()


def test_an_evaluation_is_a_line_of_its_own_whatever_its_step() -> None:
    stream = io.StringIO()
    view = LiveView(10, every=5, stream=stream)
    for step in (1, 2, 3):
        view.update(step, {})
    view.update(3, {"eval/ndcg@10": 0.5})
    assert stream.getvalue().splitlines()[1:] == ["step 3/10  0:00 left  nDCG@10 0.500"]


def test_time_left_follows_recent_steps_and_forgives_a_pause() -> None:
    clock, stream = Clock(), io.StringIO()
    view = LiveView(1000, stream=stream, clock=clock)

    def left_after(seconds: float, step: int) -> str:
        clock.now += seconds
        view.update(step, {})
        return stream.getvalue().splitlines()[-1]

    assert left_after(500.0, 1) == "step 1/1000"  # loading is no step
    assert left_after(2.0, 2) == "step 2/1000  33:16 left"
    for step in range(3, 101):
        left_after(2.0, step)
    assert left_after(2.0, 101).endswith(" 29:58 left")
    minutes = int(left_after(7200.0, 102).rsplit("  ", 1)[1].split(":")[0])
    assert 29 <= minutes < 45
    for step in range(103, 140):
        left_after(1.0, step)
    assert left_after(1.0, 140).endswith(" 14:20 left")


def test_time_left_of_a_resumed_run_counts_its_own_steps_only() -> None:
    clock, stream = Clock(), io.StringIO()
    view = LiveView(100, stream=stream, clock=clock)
    for step in (90, 91):
        view.update(step, {})
        clock.now += 10.0
    assert stream.getvalue().splitlines()[-1] == "step 91/100  1:30 left"


def test_quiet_shows_nothing() -> None:
    for stream in (io.StringIO(), Terminal()):
        with LiveView(3, quiet=True, stream=stream) as view:
            view.update(1, VALUES)
            view.message("hello")
        assert stream.getvalue() == ""


def test_a_narrow_terminal_shows_everything_on_more_lines(terminal: Terminal) -> None:
    with LiveView(100, stream=terminal) as view:
        view.update(7, VALUES)
        view.message("checkpoint written")
        view.update(8, VALUES)
    lines = visible(terminal.getvalue())
    assert "checkpoint written" in lines
    final = lines[max(index for index, line in enumerate(lines) if line.startswith("step 8/100")) :]
    shown = " ".join(line for line in final if line)
    for part in ("reward 6.83 (0.410)", "negative -0.340 (0)", "EOS 98%", "1240 tokens/s"):
        assert part in shown
    assert max(map(len, final)) <= 60


def test_a_tiny_terminal_is_survived(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "5")
    monkeypatch.setenv("LINES", "2")
    with LiveView(100, stream=terminal) as view:
        view.update(7, VALUES)
    assert any(line.startswith("step") for line in visible(terminal.getvalue()))


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with LiveView(3, stream=terminal) as view:
        view.update(1, {})
    assert terminal.getvalue() == "step 1/3\n"


def test_a_live_line_keeps_the_last_evaluation(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with LiveView(9, stream=terminal) as view:
        view.update(1, VALUES)
        view.update(1, {"eval/ndcg@10": 0.61})
        assert "reward 6.83 (0.410)" in visible(terminal.getvalue())[-1]
        view.update(2, {"reward/total": 7.0})
    last = [line for line in visible(terminal.getvalue()) if line][-1]
    assert last.startswith("step 2/9") and "reward 7.00" in last and last.endswith("nDCG@10 0.610")


def test_log_records_appear_above_the_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    stderr, handler, logger = sys.stderr, logging.StreamHandler(), logging.getLogger("tests.live")
    monkeypatch.setattr(logger, "handlers", [handler])
    with LiveView(3) as view:
        view.update(1, {})
        logger.warning("look here")
    assert visible(capsys.readouterr().err).count("look here") == 1
    assert handler.stream is stderr and sys.stderr is stderr


def test_stdout_stays_clean(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda answer=is_terminal: answer, raising=False)
        with LiveView(3) as view:
            view.update(1, VALUES)
            view.message("hello")
            sys.stdout.write("{}\n")
        out, err = capsys.readouterr()
        assert out == "{}\n"
        assert "step 1/3" in err and "hello" in err
