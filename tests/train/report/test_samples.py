from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_train.report.samples import SampleLog, rationales_page


def outside_of_blocks(page: str) -> str:
    """What a Markdown reader takes for Markdown: everything that is in no fenced block."""
    kept, fence = [], ""
    for line in page.split("\n"):
        opening = re.match(r"(`{3,})(?!.*`)", line)
        if fence:
            if re.fullmatch(rf" {{0,3}}`{{{len(fence)},}}\s*", line):
                fence = ""
        elif opening:
            fence = opening[1]
        else:
            kept.append(line)
    assert not fence
    return "\n".join(kept)


def test_the_page_shows_the_rationales_of_a_text_over_the_steps(tmp_path: Path) -> None:
    log = SampleLog(tmp_path)
    log.record(0, ["a river", "a dish"], ["water", "food"], [True, False])
    log.record(10, ["a river", "a dish"], ["The Danube.", "food"], [True, False])
    page = (tmp_path / "rationales.md").read_text(encoding="utf-8")
    places = [page.index(part) for part in ("a river", "Step 0", "water", "Step 10", "The Danube.", "a dish")]
    assert places == sorted(places)
    assert "**Steps 0 to 10, unchanged** (cut off at the limit)\n\n```text\nfood\n```" in page
    lines = [json.loads(line) for line in (tmp_path / "rationales.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[2] == {"step": 10, "text": "a river", "rationale": "The Danube.", "finished": True}


def test_going_on_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    log = SampleLog(tmp_path)
    for step in (0, 10, 20):
        log.record(step, ["text"], [f"at {step}"], [True])
    with (tmp_path / "rationales.jsonl").open("ab") as file:
        file.write(b'{"step": 30, "te')
    resumed = SampleLog(tmp_path)
    resumed.continue_from(10)
    page = (tmp_path / "rationales.md").read_text(encoding="utf-8")
    assert "at 10" in page and "at 20" not in page
    resumed.record(20, ["text"], ["anew"], [True])
    lines = (tmp_path / "rationales.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["rationale"] for line in lines] == ["at 0", "at 10", "anew"]
    page = (tmp_path / "rationales.md").read_text(encoding="utf-8")
    assert page.index("at 0") < page.index("at 10") < page.index("anew")


def test_another_run_is_not_written_over(tmp_path: Path) -> None:
    SampleLog(tmp_path).record(0, ["text"], ["one"], [True])
    with pytest.raises(FileExistsError, match="from another run"):
        SampleLog(tmp_path).record(0, ["text"], ["two"], [True])


def test_lengths_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of one length, got 2, 1 and 1"):
        SampleLog(tmp_path).record(0, ["a", "b"], ["x"], [True])


NASTY = "<think>|a|b|</think>\n# no heading\n```\n**bold**\n~~~\n````x\n\x1b[31m\ud800\r\n<script>"


def test_anything_can_be_written(tmp_path: Path) -> None:
    SampleLog(tmp_path).record(0, [NASTY, ""], ["", NASTY], [False, True])
    page = (tmp_path / "rationales.md").read_text(encoding="utf-8")
    assert "\x1b" not in page
    assert "# no heading" in page and "# no heading" not in outside_of_blocks(page)
    lines = (tmp_path / "rationales.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1])["rationale"] == NASTY


@settings(max_examples=100, deadline=None)
@given(text=st.text("`~<>|#* \n\r\t-a", max_size=60), rationale=st.text("`~<>|#* \n\r\t-a\u2028\x0b", max_size=60))
def test_nothing_of_a_text_is_taken_for_markdown(text: str, rationale: str) -> None:
    record = {"step": 3, "text": text, "rationale": rationale, "finished": True}
    rest = outside_of_blocks(rationales_page([record]))
    for allowed in ("# Rationales during training", "## Text 1", "**Step 3**", "*(empty)*"):
        rest = rest.replace(allowed, "")
    assert rest.strip() == ""


def test_long_lines_are_broken() -> None:
    page = rationales_page([{"step": 1, "text": "t", "rationale": "word " * 300, "finished": True}])
    assert max(map(len, page.split("\n"))) <= 100
    assert page.count("word") == 300
