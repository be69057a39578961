"""The arithmetic of benchmarks/train_step.py, the programs it lets take turns, and what it has TRL compute."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import grace_st
from grace_st.engines.base import PromptTokens, Sampling
from grace_train.rewards import contrastive_rewards

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "benchmarks"

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(FOLDER))
    import grace_steps
    import second_pass
    import step_figures
    import stepping
    import train_step

SPEC = {"seed": 0, "steps": 2, "batch": 2, "group": 3, "tokens": 4, "negatives": 1, "threads": 1, "learning_rate": 1e-5}


def answer(seconds: float, sampled: int = 4, updated: int = 4, **parts: float) -> dict[str, Any]:
    counts = {"sampled": sampled, "updated": updated}
    return {"seconds": seconds, "cpu_seconds": 2 * seconds, **counts, "parts": parts, "peak_bytes": 5_000_000}


# ---------------------------------------------------------------- arithmetic


def test_ratios_are_taken_within_rounds() -> None:
    # The machine is ten times slower in the second round, which must not show.
    answers = {"trained": [answer(1.0), answer(10.0)], "trl_trivial": [answer(2.0), answer(20.0)]}
    found = step_figures.ratios(answers, per=None)
    assert found == {"trained / trl_trivial": {"median": 0.5, "min": 0.5, "max": 0.5}}
    answers["trained"][0]["cpu_seconds"] = answers["trained"][1]["cpu_seconds"] = 40.0
    assert step_figures.ratios(answers, per=None, cost="cpu_seconds")["trained / trl_trivial"]["max"] == 10


def test_ratios_per_rollout_count_what_each_side_sampled() -> None:
    answers = {"whole": [answer(3.0, sampled=6)], "trl_trivial": [answer(2.0, sampled=2)]}
    assert step_figures.ratios(answers, per=None)["whole / trl_trivial"]["median"] == 1.5
    assert step_figures.ratios(answers, per="sampled")["whole / trl_trivial"]["median"] == 0.5


def test_a_comparison_says_what_was_done_in_a_step() -> None:
    found = step_figures.comparison({"whole": [answer(2.0, 8, 4, sampling=1.0, update=0.5)] * 3})
    assert found["rollouts_per_step"] == {"whole": {"sampled": 8, "updated": 4}}
    assert found["milliseconds_per_sampled_rollout"]["whole"]["median"] == 250
    assert found["shares"] == {"whole": {"sampling": 0.5, "update": 0.25, "rest": 0.25}}
    assert found["peak_mb"] == {"whole": 5}
    with pytest.raises(ValueError, match=r"differ in sampled: \[4, 8\]"):
        step_figures.comparison({"whole": [answer(1.0, sampled=8), answer(1.0, sampled=4)]})


def test_growth_is_one_where_cost_is_linear() -> None:
    linear = step_figures.growth({2: [answer(1.0, 4), answer(3.0, 4)], 8: [answer(4.0, 16), answer(12.0, 16)]})
    assert linear["8"]["cost_per_sampled_rollout_over_smallest"] == {"median": 1, "min": 1, "max": 1}
    square = step_figures.growth({2: [answer(1.0, 4)], 8: [answer(16.0, 16)]})
    assert square["8"]["cost_per_sampled_rollout_over_smallest"]["median"] == 4


def test_turns_rotate_and_first_steps_do_not_count() -> None:
    order: list[str] = []

    def taker(name: str) -> Callable[[], dict[str, Any]]:
        def take() -> dict[str, Any]:
            order.append(name)
            return answer(float(len(order)))

        return take

    (*_, last) = train_step.take_turns({"a": taker("a"), "b": taker("b")}, rounds=2, warmup=1)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: [one["seconds"] for one in given] for name, given in last.items()} == {"a": [4, 5], "b": [3, 6]}


def test_the_tables_show_medians() -> None:
    answers = {"trained": [answer(1.0, sampling=0.5)], "trl_trivial": [answer(2.0, sampling=0.5)]}
    text = step_figures.tables(
        {
            "comparison": {"24": step_figures.comparison(answers)},
            "growth": {"batch_size": step_figures.growth({2: [answer(1.0)], 4: [answer(3.0, 8)]})},
        }
    )
    assert "| trained | 1.00 | 4 | 4 | 250.0 (250.0 to 250.0) | 5 |" in text
    assert "| trained / trl_trivial | 0.50 (0.50 to 0.50) | 0.50 (0.50 to 0.50) | 0.50 (0.50 to 0.50) |" in text
    assert "| 4 | 3.00 | 8 | 1.50 (1.50 to 1.50) |" in text
    assert "trl_trivial: sampling 25.0%, rest 75.0%" in text


# ---------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trl-python", "/no/such/python"], "/no/such/python cannot be run. To make it"),
        (["--trl-python", "false"], "false cannot import trl (no reason given)"),
        (["--variants", "trained", "trl_embed"], "trl_embed needs --trl-python"),
        (["--group", "1"], "--group must be at least 2"),
        (["--growth", "1", "2"], "--growth must be at least 2"),
        (["--trl-parts", "3"], "--trl-parts 3 does not divide 8 times 8"),
        (["--output", "/no/such/folder/a.json"], "there is no folder /no/such/folder"),
    ],
)
def test_bad_input_is_refused_at_once(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        train_step.parse(words)
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_without_trl_this_engine_is_measured_and_the_way_to_trl_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_step.parse([]).variants == ["trained", "whole"]
    assert "pip install -r requirements-trl.txt" in capsys.readouterr().err


def test_the_place_of_the_other_environment_is_not_recorded() -> None:
    words = train_step.without_paths(["--trl-python", "/home/me/x/bin/python", "--rounds", "2"])
    assert words == ["--trl-python", "trl-env/bin/python", "--rounds", "2"]
    assert train_step.without_paths(["--trl-python=/home/me"]) == ["--trl-python=trl-env/bin/python"]


def test_both_environments_pin_the_same_torch_and_transformers() -> None:
    def pins(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([\w-]+)==(\S+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE))

    ours, theirs = pins(ROOT / "constraints.txt"), pins(FOLDER / "requirements-trl.txt")
    assert "trl" in theirs
    for package in ("torch", "transformers"):
        assert theirs[package] == ours[package]


# ---------------------------------------------------------------- programs that take turns


PROGRAM = """
import json, sys
from pathlib import Path
from stepping import Channel, peak_bytes
channel = Channel()
spec = json.loads(Path(sys.argv[1]).read_text())
print("noise of a library")
channel.send({"ready": spec["name"]})
while (size := channel.next_size()) is not None:
    print("more noise")
    if size == spec["breaks_at"]:
        raise SystemExit("the reason")
    channel.send({"size": size, "peak_bytes": peak_bytes()})
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(FOLDER)!r})\n{PROGRAM}", encoding="utf-8")
    return path


def test_a_stepper_steps_when_told_whatever_is_printed(program: Path, tmp_path: Path) -> None:
    environment = stepping.child_environment(1, own_packages=False)
    spec = {"name": "x", "breaks_at": 7}
    with stepping.Stepper(sys.executable, program, spec, tmp_path / "files", environment) as stepper:
        assert stepper.ready == {"ready": "x"}
        first = stepper.step(0)
        assert first["size"] == 0
        assert sys.platform != "linux" or 1e6 < first["peak_bytes"] < 1e9
        assert stepper.step(1)["size"] == 1
        with pytest.raises(stepping.StepperError, match=r"program.py ended with exit code 1(.|\n)*the reason"):
            stepper.step(7)
    assert json.loads((tmp_path / "files/spec.json").read_text())["folder"] == str(tmp_path / "files")


def test_a_program_of_another_environment_does_not_see_our_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    assert "PYTHONPATH" not in stepping.child_environment(2, own_packages=False)
    own = stepping.child_environment(2, own_packages=True)
    assert (own["PYTHONPATH"], own["OMP_NUM_THREADS"], own["CUDA_VISIBLE_DEVICES"]) == ("/ours", "2", "")


# ---------------------------------------------------------------- steps of this engine


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return grace_steps.workload(SPEC)


@pytest.mark.parametrize(("anchors", "sampled"), [(True, 10), (False, 6)])
def test_our_steps_train_the_prompts_of_the_workload(
    anchors: bool, sampled: int, work: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = {**SPEC, "sizes": [{}, {"group": 2}], "keep_sizes": False, "folder": str(tmp_path), "anchors": anchors}
    trainers = grace_steps.Trainers(spec)
    trainer = trainers.of(0)
    made = []
    make = trainer.rollouts.make
    monkeypatch.setattr(trainer.rollouts, "make", lambda *given: made.append(make(*given)) or made[-1])
    before = {name: value.clone() for name, value in trainer.policy.trainable().items()}
    for number, step in enumerate(work):
        cost = trainer.advance()
        assert (cost["sampled"], cost["updated"]) == (sampled, 6)
        assert 0 < sum(cost["parts"].values()) <= cost["seconds"]
        assert cost["cpu_seconds"] > 0
        assert [list(group.prompt.ids) for group in made[number].trained] == [one["ids"] for one in step["positives"]]
        if anchors:
            queries = [list(group.prompt.ids) for group in made[number].anchors]
            assert queries == [one["ids"] for one in step["queries"]]
    assert any(not torch.equal(before[name], value) for name, value in trainer.policy.trainable().items())
    if anchors:
        assert trainers.of(1).advance()["updated"] == 4  # another size, which lets go of the first
    trainers.close()


# ---------------------------------------------------------------- what TRL is given to compute


def test_the_second_pass_gives_the_vectors_of_this_engine(work: list[dict[str, Any]]) -> None:
    module = grace_st.load(grace_st.nano_path())[0]
    stepping.never_ends(module.model, module.config.eos_token_ids)
    texts = [*work[0]["positives"], *work[0]["queries"]]
    prompts = [PromptTokens(tuple(prompt["ids"]), prompt["pool_start"]) for prompt in texts]
    rollouts = module.rollouts(prompts, Sampling(max_new_tokens=5))
    assert [len(rollout.ids) for rollout in rollouts] == [5] * 4  # none ended before its budget
    found = second_pass.Embedder(module.model, rows=3).vectors(texts, [rollout.ids for rollout in rollouts])
    assert torch.allclose(found, torch.stack([rollout.vector for rollout in rollouts]), atol=1e-5)

    settings = GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=2, pad_token_id=0)
    written = second_pass.Embedder(module.model, rows=3).rollouts(texts, settings)
    assert written == [list(rollout.ids) for rollout in rollouts]


def test_the_reward_that_trl_is_given_is_ours() -> None:
    generator = torch.Generator().manual_seed(0)
    rollouts, queries = (torch.randn(*shape, 6, generator=generator) for shape in ((3, 4), (3,)))
    negatives = torch.randn(3, 2, 6, generator=generator)
    counts, mask = [2, 1, 2], torch.tensor([[True, True], [True, False], [True, True]])
    ours = contrastive_rewards(queries, rollouts, negatives, mask, variant="per_rollout").total
    theirs = second_pass.contrast(rollouts.flatten(0, 1), queries, negatives[mask], counts, group=4)
    assert torch.allclose(theirs, ours.flatten(), atol=1e-5)
