from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import grace_st
from grace_st.fingerprint import folder_revision
from grace_train.config_files import load_config
from grace_train.nano.corpus import Corpus
from grace_train.nano.pretrain import PretrainConfig
from harness import precision, recorded
from harness.experiment import Experiment
from harness.start_models import StartError
from reward_choice import markdown, start_models
from reward_choice.cli import HERE, RECORDS, main, planned, write_table
from reward_choice.measure import facts, perplexity
from reward_choice.rows import HEADLINE, ROWS, Row, Run, choose, runs_of
from reward_choice.settings import Settings, changes_of, digest
from reward_choice.table import choices, lines_of

# ---------------------------------------------------------------- rows


def test_every_row_is_a_configuration_of_its_own() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)
    seen = Counter()
    for row in ROWS:
        if row.is_trained:
            config = load_config("nano", changes_of(Run(row, 3), Settings(), model="m", output="o"))
            assert (config.seed, config.compute.threads) == (3, 1)
            is_chosen_step = config.eval.keep == "best"
            assert config.eval.every == (10 if is_chosen_step else 0)
            assert not (is_chosen_step and row.is_option)
            assert (config.method == "grace") == (not any("method=" in change for change in row.changes or ()))
            assert (row.budget == 0) == (config.method != "grace")
            assert row.budget in (0, config.prompt.max_new_tokens)
            assert (config.prompt.pooling_span or "text_and_rationale") == row.span
            assert not config.ignored
            values = config.to_dict()
            seen[json.dumps([row.start, values], sort_keys=True)] += 1
    assert set(seen.values()) == {1}


def test_the_records_are_of_the_runs_that_are_planned(tmp_path: Path) -> None:
    """A default that changes must not make finished runs somebody else's unnoticed."""
    runs = runs_of([row for row in ROWS if row.start == "vague"])
    records = recorded.read(RECORDS)
    there = [plan for plan in planned(tmp_path, Settings(), runs) if plan.name in records]
    assert len(there) > 100
    assert [plan.name for plan in there if plan.digest != records[plan.name]["digest"]] == []


def test_headline_runs_come_first_and_seed_by_seed() -> None:
    runs = runs_of(ROWS)
    headline = [run for run in runs if run.row.section == HEADLINE]
    assert runs[: len(headline)] == headline
    assert [run.seed for run in headline] == sorted(run.seed for run in headline)
    assert {run.row.start for run in headline} == {"vague", "plain"}
    assert Counter(run.row.key for run in runs) == {row.key: row.seeds for row in ROWS}
    assert max(Counter(run.row.key for run in runs_of(ROWS, 2)).values()) == 2


def test_rows_are_chosen_by_key_name_or_section() -> None:
    assert [row.key for row in choose(["vague-paper"])] == ["vague-paper"]
    assert [row.key for row in choose(["paper"])] == ["vague-paper", "plain-paper"]
    assert {row.section for row in choose(["algorithms", "remedies"])} == {"algorithms", "remedies"}
    assert choose([]) == ROWS
    with pytest.raises(ValueError, match="there is no row 'papper'; there are "):
        choose(["papper"])
    with pytest.raises(ValueError, match="nothing is random without training"):
        Row(name="x", label="x", section="x", changes=None, seeds=2)


def test_a_digest_tells_what_figures_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = folder_revision(grace_st.nano_path())
    rows = {row.key: row for row in ROWS}
    run = Run(rows["vague-paper"], 0)
    same = digest(run, Settings(), start, "facts")
    assert same == digest(Run(replace(run.row, label="another"), 0), Settings(), start, "facts")
    other = tmp_path / "other"
    shutil.copytree(grace_st.nano_path(), other)
    config = json.loads((other / "grace_config.json").read_text(encoding="utf-8"))
    (other / "grace_config.json").write_text(json.dumps({**config, "pooling": "last"}), encoding="utf-8")
    others = [
        digest(Run(run.row, 1), Settings(), start, "facts"),
        digest(Run(rows["vague-infonce"], 0), Settings(), start, "facts"),
        digest(Run(replace(run.row, budget=24), 0), Settings(), start, "facts"),
        digest(run, Settings(steps=41), start, "facts"),
        digest(run, Settings(), folder_revision(other), "facts"),
        digest(run, Settings(), start, "other facts"),
    ]
    monkeypatch.setattr("harness.training.NO_STOP", ())  # a default that the runs do not name
    assert len({same, *others, digest(run, Settings(), start, "facts")}) == 8


# ---------------------------------------------------------------- arithmetic


def content(row: str, seed: int, dev: float, test: float = 0.5, **more: Any) -> dict[str, Any]:
    """A run's file."""

    def split(value: float) -> dict[str, Any]:
        figures = {"ndcg@10": value, "recall@1": value / 2, "unrelated_similarity": 0.1, "swapped_ndcg@10": 0.2}
        return {**figures, "right_name": 0.9, "per_query": [value, value / 2]}

    rationales = {"length": 20.0, "eos_rate": 1.0, "right_name": 0.9, "attributes": 1.5, "repeated": 0.1}
    return {
        "status": "done",
        "row": row,
        "start": "vague",
        "seed": seed,
        "figures": {
            "dev": split(dev),
            "test": split(test),
            "perplexity": 2.0,
            "distinct": 0.8,
            "rationales": rationales,
        },
        "training": {"reward/positive_std": {"first": 0.03, "mean": 0.02, "last": 0.01}},
        "seconds": {"training": 60.0, "measuring": 20.0},
        **more,
    }


def test_lines_differences_and_the_choice() -> None:
    contents = [
        content("reasoning", 0, 0.6, 0.6),
        *(content("paper", seed, 0.9, 0.5) for seed in range(4)),  # a seed is missing: not to be chosen
        *(content("per-rollout", seed, 0.8 + seed / 100, 0.7 + seed / 100) for seed in range(5)),
        *(content("infonce", seed, 0.7) for seed in range(5)),
        *(content("cl", seed, 0.95) for seed in range(5)),
        {"status": "failed", "row": "infonce", "start": "vague", "seed": 7, "cause": "exit code 1: out of paper"},
    ]
    lines = lines_of(ROWS, contents)
    by_key = {line.key: line for line in lines}
    assert [line.key for line in lines] == [
        "vague-reasoning",
        "vague-cl",
        "vague-paper",
        "vague-per-rollout",
        "vague-infonce",
    ]
    gain = by_key["vague-per-rollout"].differences["test"]
    assert gain.mean == pytest.approx(0.12)
    assert gain.std == pytest.approx(math.sqrt(0.00025))
    assert by_key["vague-infonce"].failures == {7: "exit code 1: out of paper"}
    assert by_key["vague-paper"].perplexity_change == 0.0
    assert choices(lines) == {"vague supervised": "vague-per-rollout", "vague baseline": "vague-cl"}
    assert by_key["vague-cl"].differences == {}  # there is no untrained run that is read like it
    shown = markdown.page(lines)
    assert "| GRACE `per_rollout` | 5 of 5 | 0.820 ± 0.016 | 0.720 ± 0.016 | +0.120 | +7.6 |" in shown
    assert "- vague supervised: GRACE `per_rollout`, test nDCG@10 0.720 ± 0.016, +0.120" in shown
    assert "- vague-infonce, seed 7: exit code 1: out of paper" in shown
    table = markdown.deviations(lines)
    assert "| GRACE `paper` (vague) | positives | 0.0300 | 0.0200 |" in table


# ---------------------------------------------------------------- columns


def test_facts_of_rationales() -> None:
    entity = next(entity for entity in Corpus().entities if entity.bare_name == "France")
    first, second = entity.values[0], entity.values[1]
    written = [
        f"This points to France, known for {first} and {second}.",
        f"A country: {first}, and again {first}.",
        "Francesca wrote this.",
    ]
    found = facts([entity] * 3, written)
    assert found.right_name == pytest.approx(1 / 3)
    assert found.attributes == pytest.approx(3 / 3)
    assert found.repeated == pytest.approx(1 / 3)


def test_perplexity_is_of_the_texts_tokens_alone() -> None:
    module = grace_st.load(grace_st.nano_path(), device="cpu")[0]
    texts = ["I like Mozart.", "Which country is governed from Lisbon, and by whom?"]
    losses = []
    for prompt in module.prompts_of(texts):
        with torch.no_grad():
            logits = module.model(input_ids=torch.tensor([prompt.ids])).logits[0].double()
        end = len(prompt.ids) - len(module.prompt.tail_ids)
        for place in range(prompt.pool_start, end):
            losses.append(-torch.log_softmax(logits[place - 1], dim=0)[prompt.ids[place]].item())
    assert perplexity(module, texts) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


# ---------------------------------------------------------------- going on


def test_runs_of_other_settings_are_not_in_the_table(tmp_path: Path) -> None:
    runs = runs_of(choose(["vague-reasoning", "vague-paper"]), 2)
    experiment = Experiment(tmp_path, planned(tmp_path, Settings(), runs), str)
    stale = planned(tmp_path, Settings(steps=7), runs)
    for run, plan in zip(runs, (experiment.runs[0], experiment.runs[1], stale[2]), strict=True):
        told = {**content(run.row.name, run.seed, 0.5), "digest": plan.digest}
        experiment.path(run.name).write_text(json.dumps(told), encoding="utf-8")
    rows = [runs[0].row, runs[1].row]
    write_table(tmp_path, Settings(), rows, list(experiment.results().values()), publish=False)
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [(row["key"], row["figures"]["dev/ndcg@10"]["n"]) for row in written["rows"]] == [
        ("vague-reasoning", 1),
        ("vague-paper", 1),
    ]


@pytest.mark.parametrize("units", [True, False])  # the machine's, which a folder that is there overrules
@pytest.mark.parametrize("begun", [True, False])
def test_the_second_start_model_goes_on_from_its_checkpoint(
    begun: bool, units: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(precision, "cpu_has_bf16_units", lambda: units)
    monkeypatch.setattr(subprocess, "run", lambda words, check: called.append(words[3:]))
    start_models.make(["vague"], tmp_path, steps=None, threads=1)
    assert called == []
    home = tmp_path / "start-plain"
    (home / "tokenizer").mkdir(parents=True)
    (home / "tokenizer/tokenizer_config.json").touch()
    (home / "run").mkdir()
    torch.save({"config": {"bf16": begun}}, home / "run/checkpoint.pt")
    start_models.make(["plain", "vague"], tmp_path, steps=5, threads=1)
    (words,) = called
    assert ("--fp32" in words) is not begun
    assert "--no-vague" in words and words[-3:] == ["--stage", "train", "--resume"]
    folder = start_models.folder_of("plain", tmp_path)
    for path in (folder, home / "checkpoint"):
        path.mkdir()
    (folder / "README.md").touch()
    recipe = asdict(PretrainConfig(steps=5, vague=False, bf16=begun))
    (home / "checkpoint/recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    start_models.make(["plain"], tmp_path, steps=5, threads=1)
    assert len(called) == 1
    with pytest.raises(StartError, match=r"other settings \(steps=5 instead of 6\): use another --output"):
        start_models.make(["plain"], tmp_path, steps=6, threads=1)


def test_misuse_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "papper"]) == 2
    assert capsys.readouterr().err.startswith("reward_choice: there is no row 'papper'")
    assert main(["--list", "--rows", "vague-paper"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"vague-paper-{seed}" for seed in range(5)]
    assert main(["--publish", "--steps", "3"]) == 2
    assert "--publish is for the sizes that are the defaults" in capsys.readouterr().err


@pytest.mark.slow
def test_the_smoke_run_and_its_second_start(tmp_path: Path) -> None:
    """The command itself: three runs, one of them removed, and again."""
    command = [sys.executable, str(HERE), "--smoke", "--output", str(tmp_path), "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "runs").iterdir())
    assert [path.stem for path in files] == ["vague-cl-0", "vague-per-rollout-0", "vague-reasoning-0"]
    before = {path.name: path.read_text(encoding="utf-8") for path in files}
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    for label in ("reasoning, untrained", "CL", "GRACE `per_rollout`"):
        assert f"| {label} |" in table
    files[1].unlink()
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "3 runs, 2 of them done" in done.stderr
    after = {path.name: path.read_text(encoding="utf-8") for path in sorted((tmp_path / "runs").iterdir())}
    assert after.keys() == before.keys()
    for name in ("vague-cl-0.json", "vague-reasoning-0.json"):
        assert after[name] == before[name]
    again, first = (json.loads(told["vague-per-rollout-0.json"]) for told in (after, before))
    assert again["figures"] == first["figures"]
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").iterdir())
