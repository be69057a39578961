from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

import grace_st
from grace_train.config import TrainConfig
from grace_train.local.evaluation import evaluate
from grace_train.local.interruption import Interrupted
from grace_train.local.loading import load_policy
from grace_train.local.policy import Policy
from grace_train.local.resume import check_same_run
from grace_train.local.run_folder import RunFolder
from grace_train.local.trainer import Trainer, train
from grace_train.local.update import Learner
from grace_train.report.health import TrainingStopped
from grace_train.report.jsonl import StepFile
from grace_train.report.log import read_metrics
from tests.conftest import GraceFolder
from tests.train.local.conftest import MakeConfig

TERMS = ("positive", "negative", "consistency", "hard")


def metrics(config: TrainConfig) -> list[dict[str, float]]:
    """The log, without what depends on the clock."""
    records = read_metrics(Path(config.output) / "training" / "metrics.jsonl")
    return [
        {name: value for name, value in record.items() if not name.startswith("time/") and "per_second" not in name}
        for record in records
    ]


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    return load_file(Path(config.output) / "model.safetensors")


def same_weights(one: TrainConfig, other: TrainConfig) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_leaves_a_model_and_its_story(make_config: MakeConfig) -> None:
    config = make_config("save_dtype=float32", "eval.keep=last", "log.tensorboard=true", "log.curves=true")
    outcome = train(config, quiet=True)
    output = Path(config.output)

    stock = SentenceTransformer(str(output), trust_remote_code=True, device="cpu")
    texts = ["cats", "rivers"]
    vectors = stock.encode(texts)
    assert vectors.shape == (2, grace_st.load(output).get_embedding_dimension())
    start = grace_st.load(config.model).encode(texts, max_new_tokens=6)
    assert np.abs(vectors - start).max() > 1e-4

    training = output / "training"
    assert TrainConfig.from_dict(yaml.safe_load((training / "config.yaml").read_text())) == config
    assert (training / "curves.png").stat().st_size > 1000
    assert list((training / "tensorboard").iterdir())
    assert "torch" in json.loads((training / "environment.json").read_text())["packages"]
    samples = [json.loads(line) for line in (training / "rationales.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in samples} == {0, 2, 3}
    assert len({sample["text"] for sample in samples}) == 4

    records = metrics(config)
    steps = [record for record in records if "loss/policy" in record]
    assert [record["step"] for record in steps] == [1, 2, 3]
    for record in steps:
        for term in ("total", *TERMS):
            assert f"reward/{term}" in record
            assert record[f"reward/{term}_std"] > 0
    evaluations = [record for record in records if "eval/ndcg@10" in record]
    assert [record["step"] for record in evaluations] == [0, 2, 3]
    assert evaluations[1]["kl/start"] > 0
    summary = outcome.summary
    assert summary == json.loads((training / "summary.json").read_text())
    assert summary["kept_step"] == summary["steps"] == 3
    assert summary["before"]["dev"]["ndcg@10"]["mean"] == evaluations[0]["eval/ndcg@10"]
    assert summary["after"]["dev"]["ndcg@10"]["mean"] == evaluations[2]["eval/ndcg@10"]


@pytest.mark.parametrize(
    "changes",
    [
        ["mode=unsupervised", "data.text_field=positive", "eval.mode=supervised"],
        ["reward.variant=paper"],
        ["reward.variant=symmetric", "rollout.query_group_size=2", "algorithm.name=remax"],
        ["reward.variant=infonce", "algorithm.name=rloo", "algorithm.aggregation=seq-sum"],
        ["algorithm.name=dapo", "algorithm.updates_per_batch=3", "reward.length_penalty=soft"],
        ["algorithm.name=reinforce++", "algorithm.kl=0.1", "algorithm.entropy=0.01", "rollout.temperature=0.8"],
        ["lora.rank=4", "compute.gradient_checkpointing=true", "algorithm.kl=0.1"],
        ["compute.precision=bf16", "lora.rank=4"],
        ["data.negatives=0", "optimizer.schedule=cosine", "optimizer.warmup_steps=1"],
    ],
    ids=lambda changes: changes[0],
)
def test_every_way_to_train(make_config: MakeConfig, changes: list[str]) -> None:
    config = make_config(*changes, "steps=2", "eval.keep=last")
    train(config, quiet=True)
    start = load_file(Path(config.model) / "model.safetensors")
    moved = [name for name, value in weights(config).items() if not torch.equal(value.float(), start[name].float())]
    assert moved
    steps = [record for record in metrics(config) if "loss/policy" in record]
    assert all(np.isfinite(list(record.values())).all() for record in steps)


@pytest.mark.parametrize(("architecture", "crash_before"), [("qwen2", 1), ("llama", 4), ("qwen2", 6)])
def test_a_crashed_run_goes_on_bit_equal(
    make_config: MakeConfig,
    grace_folder: GraceFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    crash_before: int,
) -> None:
    model = str(grace_folder(architecture))
    settings = ["steps=6", "save_dtype=float32", "algorithm.updates_per_batch=2"]
    whole = make_config(*settings, model=model, output=str(tmp_path / "whole"))
    broken = make_config(*settings, model=model, output=str(tmp_path / "broken"))
    train(whole, quiet=True)

    step = Trainer._step

    def crash(self: Trainer, number: int) -> Any:
        if number == crash_before:
            raise ZeroDivisionError("power cut")
        return step(self, number)

    monkeypatch.setattr(Trainer, "_step", crash)
    with pytest.raises(ZeroDivisionError):
        train(broken, quiet=True)
    monkeypatch.setattr(Trainer, "_step", step)
    train(broken, resume=True, quiet=True)
    assert metrics(broken) == metrics(whole)
    assert same_weights(broken, whole)
    for name in ("rationales.jsonl", "rationales.md"):
        assert (tmp_path / "broken/training" / name).read_text() == (tmp_path / "whole/training" / name).read_text()


def test_a_run_that_is_killed_goes_on_bit_equal(make_config: MakeConfig, tmp_path: Path) -> None:
    """A real process, a real SIGKILL in the middle of whatever it does."""
    settings = ["steps=20", "save_dtype=float32", "eval.every=10", "checkpoint.every=4", "compute.threads=1"]
    whole = make_config(*settings, output=str(tmp_path / "whole"))
    killed = make_config(*settings, output=str(tmp_path / "killed"))
    train(whole, quiet=True)
    path = tmp_path / "killed.yaml"
    path.write_text(yaml.safe_dump(killed.to_dict()), encoding="utf-8")
    program = "import sys; from grace_st.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "train", str(path), "--quiet", "--resume"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    log = tmp_path / "killed/training/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.read_text().count("loss/policy") >= 6):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/modules.json").exists()
    train(killed, resume=True, quiet=True)
    assert metrics(killed) == metrics(whole)
    assert same_weights(killed, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    whole = make_config("steps=5", "checkpoint.every=100", output=str(tmp_path / "whole"))
    asked = make_config("steps=5", "checkpoint.every=100", output=str(tmp_path / "asked"))
    train(whole, quiet=True)
    step = Trainer._step

    def interrupt(self: Trainer, current: int) -> Any:
        if current == 3:
            os.kill(os.getpid(), number)
        return step(self, current)

    monkeypatch.setattr(Trainer, "_step", interrupt)
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        train(asked, quiet=True)
    assert f"({number.name}) after step 3 of 5" in caught.value.__notes__[0]
    assert signal.getsignal(number) == handler
    assert (tmp_path / "asked/training/checkpoints/step-000003.pt").is_file()
    monkeypatch.setattr(Trainer, "_step", step)
    train(asked, resume=True, quiet=True)
    assert metrics(asked) == metrics(whole)
    assert same_weights(asked, whole)


@pytest.mark.parametrize(
    ("which", "told"),
    [
        pytest.param(
            0, "before the first step: there is no checkpoint yet, and --resume begins anew", id="dev-at-start"
        ),
        pytest.param(3, "after step 4 of 5; a checkpoint is in", id="dev"),
        pytest.param(4, "after step 5 of 5; a checkpoint is in", id="dev-at-the-end"),
        pytest.param(5, "after step 5 of 5; a checkpoint is in", id="test-at-the-end"),
    ],
)
def test_a_signal_ends_an_evaluation_which_is_made_again(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int, told: str
) -> None:
    test_file = make_config().eval.dev
    changes = ("steps=5", "checkpoint.every=100", "rollout.slots=2", f"eval.test={test_file}")
    whole = make_config(*changes, output=str(tmp_path / "whole"))
    asked = make_config(*changes, output=str(tmp_path / "asked"))
    summary = train(whole, quiet=True).summary
    evaluations: list[int] = []  # the texts that each has encoded

    def interrupt(policy: Policy, data: Any, *, budget: int | None, progress: Any) -> Any:
        evaluations.append(0)

        def tell(texts: int) -> None:
            evaluations[-1] += texts
            if len(evaluations) == which + 1 and evaluations[-1] == texts:
                os.kill(os.getpid(), signal.SIGTERM)
            progress(texts)

        return evaluate(policy, data, budget=budget, progress=tell)

    with monkeypatch.context() as patch:
        patch.setattr("grace_train.local.trainer.evaluate", interrupt)
        with pytest.raises(Interrupted) as caught:
            train(asked, quiet=True)
    assert len(evaluations) == which + 1
    assert evaluations[-1] < 3, "the evaluation went on after the signal"
    assert f"(SIGTERM) {told}" in caught.value.__notes__[0]
    again = train(asked, resume=True, quiet=True).summary
    assert metrics(asked) == metrics(whole)
    assert same_weights(asked, whole)
    assert {**again, "output": None, "recipe": None} == {**summary, "output": None, "recipe": None}


def test_a_signal_during_a_step_leaves_its_evaluation_for_later(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_config("steps=5", "checkpoint.every=100", output=str(tmp_path / "whole"))
    asked = make_config("steps=5", "checkpoint.every=100", output=str(tmp_path / "asked"))
    train(whole, quiet=True)
    step = Trainer._step

    def interrupt(self: Trainer, current: int) -> Any:
        if current == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, current)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupt)
        with pytest.raises(Interrupted, match="SIGTERM"):
            train(asked, quiet=True)
    assert [record["step"] for record in metrics(asked)] == [0, 1, 2]  # step 2 as it was trained, not evaluated
    train(asked, resume=True, quiet=True)
    assert metrics(asked) == metrics(whole)
    assert same_weights(asked, whole)


def test_a_run_killed_before_its_evaluation_is_in_a_checkpoint_logs_it_once(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ("steps=4", "checkpoint.every=100", "log.samples_every=2")
    whole = make_config(*changes, output=str(tmp_path / "whole"))
    asked = make_config(*changes, output=str(tmp_path / "asked"))
    train(whole, quiet=True)
    step, save = Trainer._step, Trainer._save_checkpoint

    def interrupt(self: Trainer, current: int) -> Any:
        if current == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, current)

    def killed(self: Trainer) -> None:
        if self.step == 2 and self.progress.unevaluated is None:  # evaluated, logged, not yet kept
            raise MemoryError("killed")
        save(self)

    for name, instead, error in (("_step", interrupt, Interrupted), ("_save_checkpoint", killed, MemoryError)):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, name, instead)
            with pytest.raises(error):
                train(asked, resume=True, quiet=True)
    train(asked, resume=True, quiet=True)
    assert metrics(asked) == metrics(whole)
    samples = [
        (Path(config.output) / "training" / "rationales.jsonl").read_text(encoding="utf-8") for config in (asked, whole)
    ]
    assert samples[0] == samples[1] != ""
    assert same_weights(asked, whole)


def test_a_finished_run_can_be_made_longer(make_config: MakeConfig, tmp_path: Path) -> None:
    long = make_config("steps=4", output=str(tmp_path / "long"))
    train(long, quiet=True)
    short = make_config("steps=2", output=str(tmp_path / "short"))
    first = train(short, quiet=True)
    assert train(short, resume=True, quiet=True).summary == first.summary  # nothing to do
    train(make_config("steps=4", output=str(tmp_path / "short")), resume=True, quiet=True)
    assert same_weights(long, short)


def test_the_best_weights_are_kept(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.2, 0.9, 0.4, 0.3])
    _fake_results(monkeypatch, values)
    config = make_config("steps=4", "eval.every=1", "eval.patience=2", "save_dtype=float32")
    at_best: dict[str, torch.Tensor] = {}
    note = Trainer._note_result

    def remember(self: Trainer, found: Any) -> bool:
        if self.step == 1:
            at_best.update(self.policy.state_dict())
        return note(self, found)

    monkeypatch.setattr(Trainer, "_note_result", remember)
    summary = train(config, quiet=True).summary
    assert summary["kept_step"] == 1
    assert summary["steps"] == 3
    assert summary["stopped"] == "2 evaluations in a row without a better ndcg@10 on dev"
    written = weights(config)
    assert all(torch.equal(value, written[name]) for name, value in at_best.items() if name in written)


def test_a_run_that_was_stopped_goes_on_with_more_patience(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_results(monkeypatch, iter([0.9, 0.4, 0.3, 0.2]))
    assert train(make_config("eval.every=1", "eval.patience=1"), quiet=True).summary["steps"] == 1
    longer = make_config("eval.every=1", "eval.patience=5")
    summary = train(longer, resume=True, quiet=True).summary
    assert (summary["steps"], summary["stopped"]) == (3, None)
    written = yaml.safe_load((Path(longer.output) / "training/config.yaml").read_text())
    assert written["eval"]["patience"] == 5


def _fake_results(monkeypatch: pytest.MonkeyPatch, values: Any) -> None:
    from grace_train.local import trainer
    from grace_train.retrieval import RetrievalScores

    evaluate = trainer.evaluate

    def fake(policy: Any, data: Any, **options: Any) -> Any:
        found = evaluate(policy, data, **options)
        scores = RetrievalScores(np.full(2, next(values)), found.scores.recall_at_1[:2], found.scores.mrr[:2])
        return type(found)(scores, found.length, found.eos_rate, found.similarity)

    monkeypatch.setattr(trainer, "evaluate", fake)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["stop.max_unrelated_similarity=1e-6", "stop.collapse_steps=2"], "all texts have nearly the same vector"),
        (["prompt.max_new_tokens=1", "stop.eos_rate_zero_steps=2"], "no rollout has ended by itself for 2 steps"),
    ],
)
def test_a_run_that_makes_no_sense_stops_and_says_why(
    make_config: MakeConfig, changes: list[str], message: str
) -> None:
    config = make_config("steps=9", "log.curves=true", *changes)
    with pytest.raises(TrainingStopped, match=message) as caught:
        train(config, quiet=True)
    assert "the last checkpoint is of step 0" in caught.value.__notes__[0]
    assert (Path(config.output) / "training/curves.png").is_file()
    assert not (Path(config.output) / "modules.json").exists()


def test_weights_that_become_nan_stop_the_run(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer._step

    def spoil(self: Trainer, number: int) -> Any:
        if number == 2:
            with torch.no_grad():
                next(iter(self.policy.trainable().values())).fill_(float("nan"))
        return step(self, number)

    monkeypatch.setattr(Trainer, "_step", spoil)
    with pytest.raises(TrainingStopped, match=r"step 2: .*NaN or infinity"):
        train(make_config(), quiet=True)


def test_weights_that_an_update_made_nan_stop_the_run(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Learner.update

    def spoil(self: Learner, *arguments: Any) -> Any:
        values = update(self, *arguments)
        with torch.no_grad():
            self.parameters[0].fill_(float("nan"))
        return values

    monkeypatch.setattr(Learner, "update", spoil)
    with pytest.raises(TrainingStopped, match=r"step 1: .*NaN or infinity") as caught:
        train(make_config("eval.every=1"), quiet=True)
    assert "the last checkpoint is of step 0" in caught.value.__notes__[0]


def test_an_update_that_does_not_fit_into_memory(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Policy, "scores", Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory")))
        with pytest.raises(TrainingStopped, match=r"step 1: .* lower compute.tokens_per_microbatch"):
            train(make_config(), quiet=True)
    changes = ["compute.tokens_per_microbatch=64", "compute.gradient_checkpointing=true"]
    assert train(make_config(*changes), resume=True, quiet=True).summary["steps"] == 3


def test_a_term_without_deviation_is_warned_about(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    train(make_config("reward.variant=paper"), quiet=True)
    warned = [record.getMessage() for record in caplog.records if "trains nothing" in record.getMessage()]
    assert len(warned) == 2
    assert "'negative'" in warned[0]
    assert "'hard'" in warned[1]


def test_as_many_queries_of_the_hold_out_as_asked(make_config: MakeConfig) -> None:
    config = make_config("eval.dev=null", "data.holdout=4", "eval.max_queries=2", "steps=1", "batch_size=2")
    assert train(config, quiet=True).summary["after"]["dev"]["queries"] == 2


def test_start_weights_are_kept_only_where_they_are_compared_with(make_config: MakeConfig) -> None:
    for every, kept in ((0, False), (1, True)):
        config = make_config(f"eval.every={every}", output=f"{make_config().output}-{every}")
        folder = RunFolder(config, resume=False, overwrite=False)
        try:
            assert (Trainer(config, folder, Mock()).policy.reference is not None) is kept
        finally:
            folder.release()


# -------------------------------------------------------------------- what is refused


def test_an_output_that_is_not_ours_is_left_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / "thesis.txt").write_text("precious")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(FileExistsError, match="is not empty and holds no training run"):
            train(make_config(), quiet=True, **options)  # type: ignore[arg-type]
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]
    with pytest.raises(FileExistsError, match="is a file"):
        train(make_config(output=str(output / "thesis.txt")), quiet=True)


def test_the_start_model_is_never_written_over(make_config: MakeConfig, grace_folder: GraceFolder) -> None:
    folder = grace_folder("qwen2")
    for output in (folder, folder.parent):
        with pytest.raises(FileExistsError, match="is or holds the start model"):
            train(make_config(output=str(output)), overwrite=True, quiet=True)


def test_an_earlier_run_is_replaced_only_when_told(make_config: MakeConfig) -> None:
    config = make_config("steps=1")
    train(config, quiet=True)
    before = metrics(config)
    with pytest.raises(FileExistsError, match="holds a run already: go on with it with --resume"):
        train(config, quiet=True)
    notes = Path(config.output) / "notes"
    notes.mkdir()
    train(make_config("steps=1", "seed=1"), overwrite=True, quiet=True)
    assert metrics(config) != before
    assert notes.is_dir()


def test_an_earlier_run_is_not_replaced_by_one_that_cannot_start(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("steps=1")
    train(config, quiet=True)
    before = metrics(config)
    for change in ("data.train=/no/such/file", "model=/no/such/model"):
        with pytest.raises((OSError, ValueError), match="/no/such"):
            train(make_config("steps=1", change), overwrite=True, quiet=True)
    assert metrics(config) == before
    assert grace_st.load(config.output).encode(["cats"]).shape[0] == 1


def test_a_model_whose_checkpoints_were_removed_stays(make_config: MakeConfig) -> None:
    config = make_config("steps=1")
    train(config, quiet=True)
    shutil.rmtree(Path(config.output) / "training/checkpoints")
    for steps in (1, 2):
        with pytest.raises(FileExistsError, match="holds a trained model, whose checkpoints are gone"):
            train(make_config(f"steps={steps}"), resume=True, quiet=True)
    assert weights(config)


def test_a_folder_called_training_is_not_taken_for_a_run(make_config: MakeConfig) -> None:
    data = Path(make_config().output) / "training" / "pairs.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text("precious")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(FileExistsError, match="holds no training run"):
            train(make_config(), quiet=True, **options)  # type: ignore[arg-type]
    assert data.read_text() == "precious"


def test_a_run_that_is_refused_leaves_what_is_there(make_config: MakeConfig) -> None:
    config = make_config("steps=1")
    missing = make_config("steps=1", "data.train=missing.jsonl")
    with pytest.raises(ValueError, match="there is no file"):
        train(missing, quiet=True)
    train(config, quiet=True)  # nothing to overwrite
    before = metrics(config)
    with pytest.raises(ValueError, match="there is no file"):
        train(missing, overwrite=True, quiet=True)
    assert metrics(config) == before
    assert (Path(config.output) / "model.safetensors").is_file()


def test_an_output_below_a_file(make_config: MakeConfig, train_file: Path) -> None:
    with pytest.raises(FileExistsError, match=r"is inside .*train.jsonl, which is a file"):
        train(make_config(output=str(train_file / "run")), quiet=True)


def test_the_best_weights_that_were_not_kept_are_asked_for_before_training(make_config: MakeConfig) -> None:
    train(make_config("steps=2", "eval.keep=last"), quiet=True)
    with pytest.raises(ValueError, match=r"eval.keep was 'last' and is 'best'"):
        train(make_config("steps=3", "eval.keep=best"), resume=True, quiet=True)
    train(make_config("steps=3", "eval.keep=last"), resume=True, quiet=True)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_adapters_that_cannot_be_merged_are_refused(make_config: MakeConfig, target: str) -> None:
    with pytest.raises(ValueError, match=rf"lora.target_modules=.*names .*{target}, which shares its weight"):
        train(make_config("lora.rank=2", f"lora.target_modules=[{target}]"), quiet=True)


def test_a_device_that_computes_nothing(make_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"compute.device='meta' computes nothing"):
        train(make_config("compute.device=meta"), quiet=True)


def test_a_soft_buffer_beyond_the_budget_is_refused_before_training(make_config: MakeConfig) -> None:
    config = make_config("reward.length_penalty=soft", "reward.soft_buffer=7")
    with pytest.raises(ValueError, match=r"reward.soft_buffer=7 is more than the budget of 6 tokens"):
        train(config, quiet=True)
    assert not (Path(config.output) / "training/metrics.jsonl").exists()


def test_weights_too_large_for_the_dtype_are_not_written(make_config: MakeConfig) -> None:
    settings = ["steps=1", "optimizer.learning_rate=1e6", "eval.every=0", "log.sample_texts=0"]
    with pytest.raises(ArithmeticError, match=r"in torch.float16, so they are not written: .*save_dtype=float32"):
        train(make_config(*settings, "save_dtype=float16"), quiet=True)
    config = make_config(*settings, "save_dtype=float32")
    assert not (Path(config.output) / "modules.json").exists()
    train(config, resume=True, quiet=True)


def test_an_evaluation_that_gives_nan_stops_the_run(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Trainer._advance

    def spoil(self: Trainer) -> Any:
        sides = advance(self)
        if self.step == 2:
            with torch.no_grad():
                next(iter(self.policy.trainable().values())).fill_(float("nan"))
        return sides

    monkeypatch.setattr(Trainer, "_advance", spoil)
    with pytest.raises(TrainingStopped, match=r"step 2: .*NaN or infinity") as caught:
        train(make_config("checkpoint.every=1"), quiet=True)
    assert "the last checkpoint is of step 1" in caught.value.__notes__[0]


def test_a_rollout_alone_trains_and_groups_that_are_dropped_do_not(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    alone = ["algorithm.name=remax", "rollout.group_size=1", "reward.lambda_consistency=0", "steps=1"]
    train(make_config(*alone), quiet=True)
    assert "trained" not in caplog.text
    train(make_config("algorithm.min_spread=1e9", "steps=1"), overwrite=True, quiet=True)
    assert "every group was dropped, so nothing is trained" in caplog.text


def test_a_dev_file_that_is_trained_on_is_warned_about(
    make_config: MakeConfig, train_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(train_file.read_text(encoding="utf-8"), encoding="utf-8")
    train(make_config("steps=1", f"eval.dev={other}"), quiet=True)
    assert "not held out" not in caplog.text
    train(make_config("steps=1"), overwrite=True, quiet=True)
    assert "is training data as well: what it measures is not held out" in caplog.text


def test_a_process_killed_while_it_wrote_the_model(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config("steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(Policy, "save", Mock(side_effect=ZeroDivisionError("killed")))
        patch.setattr(shutil, "rmtree", Mock())  # it does not get to clean up
        with pytest.raises(ZeroDivisionError):
            train(config, quiet=True)
    assert list(Path(config.output).glob(".model*"))
    train(config, resume=True, quiet=True)
    assert not list(Path(config.output).glob(".model*"))
    assert weights(config)


def test_two_runs_in_one_folder(make_config: MakeConfig) -> None:
    config = make_config()
    folder = RunFolder(config, resume=False, overwrite=False)
    try:
        with pytest.raises(OSError, match=r"another process .* is at work"):
            train(config, resume=True, quiet=True)
    finally:
        folder.release()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("reward.variant=infonce", "reward.variant was 'per_rollout' and is 'infonce'"),
        ("optimizer.learning_rate=2e-3", "optimizer.learning_rate was 0.001 and is 0.002"),
        ("steps=2", "steps was 3 and is 2"),
        ("seed=4", "seed was 0 and is 4"),
    ],
)
def test_a_checkpoint_of_another_configuration(make_config: MakeConfig, change: str, message: str) -> None:
    train(make_config(), quiet=True)
    with pytest.raises(ValueError, match=message):
        train(make_config(change), resume=True, quiet=True)


def test_a_checkpoint_of_an_older_version_has_the_defaults_of_new_settings(make_config: MakeConfig) -> None:
    config = make_config()
    before = config.to_dict()
    del before["engine"], before["verl"], before["cluster"]
    check_same_run(config, before)
    del before["seed"]
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        check_same_run(dataclasses.replace(config, seed=1), before)


def test_settings_that_only_show_or_keep_may_change(make_config: MakeConfig) -> None:
    train(make_config("steps=2"), quiet=True)
    train(make_config("steps=3", "log.samples_every=1", "checkpoint.keep=5"), resume=True, quiet=True)


def test_a_checkpoint_of_another_model(make_config: MakeConfig, tmp_path: Path) -> None:
    model = tmp_path / "model"
    policy = load_policy(make_config(), keep_reference=False)
    model.mkdir()
    policy.save(model, name="model", dtype=torch.float32)
    train(make_config("steps=1", model=str(model)), quiet=True)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.mul_(1.5)
    policy.save(model, name="model", dtype=torch.float32)
    with pytest.raises(ValueError, match="began with another model"):
        train(make_config("steps=2", model=str(model)), resume=True, quiet=True)


def test_a_full_disk_while_training(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    save, count = torch.save, iter(range(100))

    def full(values: Any, path: Any) -> None:
        if next(count) == 3:
            Path(path).write_bytes(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        save(values, path)

    monkeypatch.setattr(torch, "save", full)
    config = make_config("steps=6", "eval.keep=last")
    with pytest.raises(OSError, match=r"No space left on device\): the checkpoint of step 4 is intact"):
        train(config, quiet=True)
    monkeypatch.setattr(torch, "save", save)
    whole = make_config("steps=6", "eval.keep=last", output=f"{config.output}-whole")
    train(whole, quiet=True)
    train(config, resume=True, quiet=True)
    assert same_weights(config, whole)


def test_a_full_disk_while_the_model_is_written(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from grace_train.local import policy

    def full(*values: Any, **options: Any) -> None:
        raise SafetensorError("No space left on device")

    config = make_config("steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(policy, "write_folder", full)
        with pytest.raises(OSError, match=r"cannot be written to .*No space left on device") as caught:
            train(config, quiet=True)
    assert caught.value.__notes__ == ["(the last checkpoint is of step 1: go on with --resume)"]
    train(config, resume=True, quiet=True)
    assert (Path(config.output) / "modules.json").is_file()


def test_a_full_disk_under_the_log_names_the_file(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    append, count = StepFile.append, iter(range(100))

    def full(self: StepFile, records: Any) -> None:
        if self.path.name == "metrics.jsonl" and next(count) == 2:
            self.path.unlink()
            self.path.symlink_to("/dev/full")
        append(self, records)

    monkeypatch.setattr(StepFile, "append", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics.jsonl'") as caught:
        train(make_config(), quiet=True)
    assert caught.value.__notes__ == ["(the last checkpoint is of step 0: go on with --resume)"]


def test_a_second_signal_says_how_to_go_on(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Trainer, current: int) -> Any:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "_step", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(make_config(), quiet=True)
    assert caught.value.__notes__ == ["(the last checkpoint is of step 0: go on with --resume)"]


def test_data_are_checked_before_the_model_is_loaded(make_config: MakeConfig, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    rows = [json.dumps({"query": f"q{index}", "positive": f"p{index}"}) for index in range(50)]
    bad.write_text("\n".join([*rows, '{"query": "q", "positive": 3}']) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad.jsonl.*row 50 \(line 51\)"):
        train(make_config(f"data.train={bad}", model="/there/is/no/such/model"), quiet=True)
    train(make_config(f"data.train={bad}", "data.on_bad_row=skip", "steps=1"), quiet=True)  # nothing in the way


def test_a_longer_buffer_than_the_budget_is_refused(make_config: MakeConfig) -> None:
    changes = ["reward.length_penalty=soft", "reward.soft_buffer=7"]
    with pytest.raises(ValueError, match="soft_buffer=7 is more than the budget of 6 tokens"):
        train(make_config(*changes), quiet=True)
    assert not (Path(make_config().output) / "training/metrics.jsonl").exists()


def test_another_method_is_not_silently_trained_as_grace(make_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"method=cl is not trained here: call grace_train\.training\.train"):
        train(make_config("method=cl"), quiet=True)
    assert not Path(make_config().output).exists()


def test_more_context_than_the_model_has_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="exceed the model's context"):
        train(make_config("prompt.max_seq_length=100000"), quiet=True)


@pytest.mark.data
def test_medquad(data_dir: Path, tmp_path: Path) -> None:
    from grace_train.config_files import load_config

    config = load_config(
        "nano",
        [
            f"data.train={data_dir}/medquad/medquad_qa.jsonl.gz",
            "data.query_field=question",
            "data.positive_field=answer",
            f"data.cache={tmp_path / 'cache'}",
            f"output={tmp_path / 'medquad'}",
            "data.holdout=20",
            "eval.dev=null",
            "eval.test=null",
            "eval.every=1",
            "steps=1",
            "batch_size=2",
            "rollout.group_size=2",
            "prompt.max_new_tokens=8",
            "compute.threads=1",
        ],
    )
    summary = train(config, quiet=True).summary
    assert summary["after"]["dev"]["queries"] > 0
