from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import grace_st
from grace_train.config_files import load_config
from grace_train.nano.corpus import Corpus
from reward_choice import markdown, start_models
from reward_choice.cli import HERE, Experiment, main
from reward_choice.jobs import Job, run_all
from reward_choice.measure import facts, perplexity
from reward_choice.one import training_log
from reward_choice.rows import HEADLINE, ROWS, Row, Run, choose, runs_of
from reward_choice.settings import Settings, changes_of, digest
from reward_choice.table import choices, difference, lines_of, spread

# ---------------------------------------------------------------- rows


def test_every_row_is_a_configuration_of_its_own() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)
    seen = Counter()
    for row in ROWS:
        if row.is_trained:
            config = load_config("nano", changes_of(Run(row, 3), Settings(), model="m", output="o"))
            assert (config.seed, config.eval.every, config.compute.threads) == (3, 0, 1)
            assert (config.method == "grace") == (not any("method=" in change for change in row.changes or ()))
            assert (row.budget == 0) == (config.method != "grace")
            assert row.budget in (0, config.prompt.max_new_tokens)
            assert (config.prompt.pooling_span or "text_and_rationale") == row.span
            assert not config.ignored
            values = config.to_dict()
            seen[json.dumps([row.start, values], sort_keys=True)] += 1
    assert set(seen.values()) == {1}


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


def test_a_digest_tells_what_figures_depend_on() -> None:
    run = Run(ROWS[1], 0)
    same = digest(run, Settings(), "hash")
    assert same == digest(run, Settings(), "hash")
    others = [
        digest(Run(ROWS[1], 1), Settings(), "hash"),
        digest(Run(ROWS[2], 0), Settings(), "hash"),
        digest(run, Settings(steps=41), "hash"),
        digest(run, Settings(), "other"),
    ]
    assert len({same, *others}) == 5


# ---------------------------------------------------------------- arithmetic


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
    # What is not trained is not random, and adds nothing.
    assert difference(row, spread([0.5]), own, other[:1]).std == pytest.approx(0.1)
    with pytest.raises(ValueError, match="3 queries cannot be paired with 2"):
        difference(row, reference, own, [[1.0, 2.0]])


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
    assert choices(lines) == {"vague supervised": "vague-per-rollout"}
    shown = markdown.page(lines)
    assert "| GRACE `per_rollout` | 5 of 5 | 0.820 ± 0.016 | 0.720 ± 0.016 | +0.120 | +7.6 |" in shown
    assert "- vague supervised: GRACE `per_rollout`, test nDCG@10 0.720 ± 0.016, +0.120" in shown
    assert "- vague-infonce, seed 7: exit code 1: out of paper" in shown
    table = markdown.deviations(lines)
    assert "| GRACE `paper` (vague) | positives | 0.0300 | 0.0200 |" in table


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
        markdown.fill(page, {"t": content_})
    assert page.read_text(encoding="utf-8") == "before\n<!-- t: begin -->\nnewer\nlines\n<!-- t: end -->\nafter\n"
    with pytest.raises(ValueError, match="needs <!-- x: begin -->"):
        markdown.fill(page, {"x": "new"})


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
    jobs = [job(tmp_path, name, "import time; time.sleep(60)") for name in "ab"]
    jobs.insert(0, job(tmp_path, "first", "pass"))
    running = run_all(jobs, side_by_side=3, limit=100, environment={})
    assert next(running).job.name == "first"
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 10


# ---------------------------------------------------------------- going on


def test_only_what_is_left_is_made_again(tmp_path: Path) -> None:
    runs = runs_of(choose(["vague-reasoning", "vague-paper", "vague-infonce"]), 2)
    experiment = Experiment(tmp_path, Settings(), runs)
    assert experiment.left(retry_failed=False) == runs
    done, failed, stale = runs[0], runs[1], runs[2]
    for run, settings in ((done, Settings()), (stale, Settings(steps=7))):
        told = {
            **content(run.row.name, run.seed, 0.5),
            "digest": Experiment(tmp_path, settings, [run]).digests[run.name],
        }
        experiment.path(run).write_text(json.dumps(told), encoding="utf-8")
    experiment.note_failure(failed, "out of luck")
    assert experiment.left(retry_failed=False) == runs[2:]
    assert experiment.left(retry_failed=True) == runs[1:]
    experiment.table([run.row for run in runs[:1]] + [runs[1].row], publish=False)
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [row["key"] for row in written["rows"]] == ["vague-reasoning", "vague-paper"]
    assert written["rows"][1]["failures"] == {str(failed.seed): "out of luck"}


def test_the_second_start_model_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: called.append(words[3:]))
    start_models.make(["vague"], tmp_path, steps=None, threads=1)
    assert called == []
    (tmp_path / "start-plain/tokenizer").mkdir(parents=True)
    (tmp_path / "start-plain/tokenizer/tokenizer_config.json").touch()
    (tmp_path / "start-plain/run").mkdir()
    (tmp_path / "start-plain/run/checkpoint.pt").touch()
    start_models.make(["plain", "vague"], tmp_path, steps=5, threads=1)
    (words,) = called
    assert words[0] == "--no-vague" and words[-3:] == ["--stage", "train", "--resume"]
    folder = start_models.folder_of("plain", tmp_path)
    folder.mkdir()
    (folder / "README.md").touch()
    start_models.make(["plain"], tmp_path, steps=5, threads=1)
    assert len(called) == 1


def test_misuse_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "papper"]) == 2
    assert capsys.readouterr().err.startswith("reward_choice: there is no row 'papper'")
    assert main(["--list", "--rows", "vague-paper"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"vague-paper-{seed}" for seed in range(5)]


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
