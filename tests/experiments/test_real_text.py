from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import grace_st
from grace_st.fingerprint import folder_revision
from grace_train.config_files import load_config
from real_text.cli import HERE, main
from real_text.data import banking77, stsb
from real_text.measure import says
from real_text.rows import ROWS, SMOKE, Run, Settings, changes_of, choose, digest, runs_of
from real_text.table import lines_of, page


def test_every_row_is_a_configuration_of_its_own() -> None:
    seen = Counter()
    for row in ROWS:
        if row.changes is not None:
            config = load_config("nano", changes_of(Run(row, 3), Settings(), model="m", data="d", output="o"))
            assert (config.seed, config.steps > 0, config.prompt.max_new_tokens) == (3, True, row.budget)
            assert (config.method == "grace") == row.rationales
            assert (config.mode == "unsupervised") == (config.data.train == "d/texts.txt")
            assert not config.ignored
            seen[str(config.to_dict())] += 1
    assert set(seen.values()) == {1}
    smoke = load_config("nano", changes_of(Run(choose(["cl"])[0], 0), SMOKE, model="m", data="d", output="o"))
    assert smoke.steps == SMOKE.steps


def test_runs_go_seed_by_seed() -> None:
    runs = runs_of(ROWS, None)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert Counter(run.row.name for run in runs) == {row.name: row.seeds for row in ROWS}
    start = folder_revision(grace_st.nano_path())
    found = digest(runs[2], Settings(), start, "a")
    assert found == digest(runs[2], Settings(), start, "a")
    assert found != digest(runs[2], Settings(steps=31), start, "a")
    assert found != digest(runs[2], Settings(), start, "b")
    with pytest.raises(ValueError, match="there is no row 'papper'; there are prompt, reasoning"):
        choose(["papper"])


def content(row: str, seed: int, test: float, **figures: Any) -> dict[str, Any]:
    """A run's file."""
    split = {"ndcg@10": test, "unrelated_similarity": 0.5, "per_query": [test, test / 2]}
    found = {"dev": split, "test": split, "snips": 0.9, "banking77": 0.4, "stsb": 0.3, "perplexity": 20.0}
    return {
        "status": "done",
        "row": row,
        "seed": seed,
        "figures": found | {"length": None, "eos_rate": None} | figures,
    }


def test_a_row_is_compared_with_the_untrained_model_that_is_read_the_same_way() -> None:
    contents = [
        content("prompt", 0, 0.2),
        content("reasoning", 0, 0.4, length=20.0, eos_rate=1.0),
        content("cl", 0, 0.5),
        content("per-rollout", 0, 0.6, perplexity=21.0),
        content("per-rollout", 1, 0.8, perplexity=21.0, subject=0.25),  # the first one has no such figure yet
        {"status": "failed", "row": "paper", "seed": 0, "cause": "exit code 1: no luck"},
    ]
    lines = {line.name: line for line in lines_of(ROWS, contents)}
    assert list(lines) == ["prompt", "reasoning", "cl", "paper", "per-rollout"]
    assert lines["reasoning"].gain is None
    assert lines["cl"].gain is not None and lines["cl"].gain.mean == pytest.approx(0.3)
    gain = lines["per-rollout"].gain
    assert gain is not None and (gain.mean, gain.std) == (pytest.approx(0.3), pytest.approx(0.02**0.5))
    assert lines["per-rollout"].perplexity_change == pytest.approx(0.05)
    shown = page(list(lines.values()))
    assert "| GRACE `per_rollout` | 2 of 3 | 0.700 ± 0.141 |" in shown
    assert lines["per-rollout"].figures["subject"].mean == 0.25
    assert "- paper, seed 0: exit code 1: no luck" in shown


def test_what_rationales_say() -> None:
    rationales = ["<think>The subject is Gout, and its causes. It answers: What causes gout?</think>", "about gouty"]
    assert says(["gout", "Flu"], rationales) == {"subject": 0.5, "question": 0.5}


def test_missing_data_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--texts", str(tmp_path)]) == 2
    assert "medquad_qa.jsonl.gz: put it there; it is from" in capsys.readouterr().err
    monkeypatch.delenv("GRACE_ST_DATA", raising=False)
    assert main([]) == 2
    assert "--texts DIR" in capsys.readouterr().err
    assert main(["--smoke", "--publish", "--texts", str(tmp_path)]) == 2
    assert "--smoke measures nothing" in capsys.readouterr().err


@pytest.mark.data
def test_classes_are_drawn_evenly(data_dir: Path) -> None:
    data = banking77(data_dir, 4)
    assert set(Counter(name for _, name in data.train).values()) == {4}
    assert set(Counter(name for _, name in data.test).values()) == {2}
    assert len({name for _, name in data.train}) == 77
    assert len(stsb(data_dir, 50)) == 50


@pytest.mark.data
@pytest.mark.slow
def test_the_smoke_run(data_dir: Path, tmp_path: Path) -> None:
    """The command itself: the start model, three runs, the table, and nothing again."""
    command = [sys.executable, str(HERE), "--smoke", "--texts", str(data_dir), "--output", str(tmp_path)]
    command += ["--rows", "prompt", "simcse", "unsupervised"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for expected in ("3 runs, 0 of them done", "3 runs, 3 of them done"):  # again: the same data, the same start
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
        assert done.returncode == 0, done.stderr
        assert expected in done.stderr
    assert "| GRACE unsupervised | 1 of 3 |" in (tmp_path / "results.md").read_text(encoding="utf-8")
