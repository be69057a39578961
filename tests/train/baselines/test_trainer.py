from __future__ import annotations

import json
import logging
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

import grace_st
from grace_st.cli import main
from grace_train.baselines import train
from grace_train.baselines.batches import StepBatches
from grace_train.baselines.trainer import BaselineTrainer
from grace_train.config import TrainConfig
from grace_train.config_files import dump
from grace_train.data.batches import BatchSampler
from grace_train.data.loading import load_training_data
from grace_train.local.evaluation import evaluate
from grace_train.local.interruption import Interrupted
from grace_train.local.policy import Policy
from grace_train.report.health import TrainingStopped
from grace_train.report.log import read_metrics
from tests.conftest import GraceFolder
from tests.train.local.conftest import MakeConfig

CL = ("method=cl", "save_dtype=float32", "eval.keep=last")
SIMCSE = ("method=simcse", "save_dtype=float32", "eval.keep=last", "data.text_field=positive", "eval.mode=supervised")


def steps_of(config: TrainConfig) -> list[dict[str, float]]:
    records = read_metrics(Path(config.output) / "training/metrics.jsonl")
    steps = [record for record in records if "loss/contrastive" in record]
    return [{name: value for name, value in record.items() if name != "time/step"} for record in steps]


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    return load_file(Path(config.output) / "model.safetensors")


def info_nce(anchors: np.ndarray, candidates: np.ndarray, temperature: float) -> float:
    anchors = anchors / np.linalg.norm(anchors, axis=1, keepdims=True)
    candidates = candidates / np.linalg.norm(candidates, axis=1, keepdims=True)
    logits = (anchors @ candidates.T).astype(np.float64) / temperature
    return float(np.mean([np.log(np.exp(row).sum()) - row[index] for index, row in enumerate(logits)]))


def test_a_cl_run_leaves_a_model_that_serves_what_was_trained(make_config: MakeConfig) -> None:
    config = make_config(*CL, "steps=12", "eval.every=12", "log.curves=true", f"eval.test={make_config().eval.dev}")
    summary = train(config, quiet=True).summary
    output = Path(config.output)

    stock = SentenceTransformer(str(output), trust_remote_code=True, device="cpu")
    texts = ["cats", "rivers"]
    vectors = stock.encode(texts)
    assert np.abs(vectors - stock.encode(texts, max_new_tokens=0)).max() == 0
    assert np.abs(vectors - stock.encode(texts, max_new_tokens=6)).max() > 1e-4
    assert np.abs(vectors - grace_st.load(config.model).encode(texts, max_new_tokens=0)).max() > 1e-3

    losses = [record["loss/contrastive"] for record in steps_of(config)]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert (output / "training/curves.png").stat().st_size > 1000
    assert (summary["method"], summary["reward"], summary["steps"]) == ("cl", None, 12)
    names = {"dev", "test", "dev_with_rationales", "test_with_rationales"}
    for when in ("before", "after"):
        assert set(summary[when]) == names
        assert summary[when]["dev"]["length"] == 0
        assert summary[when]["dev_with_rationales"]["length"] > 0
    assert summary["after"]["dev"] != summary["before"]["dev"]


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_the_first_loss_is_info_nce_of_the_served_vectors(make_config: MakeConfig, temperature: float) -> None:
    config = make_config(*CL, "steps=1", "eval.every=0", f"contrastive.temperature={temperature}")
    train(config, quiet=True)
    data, _ = load_training_data(config.data, config.mode, seed=config.seed)
    batch: Any = BatchSampler(data, config.batch_size, config.seed).next()
    start = grace_st.load(config.model)
    anchors = start.encode([item.query for item in batch], max_new_tokens=0)
    documents = [item.positive for item in batch] + [text for item in batch for text in item.negatives]
    expected = info_nce(anchors, start.encode(documents, max_new_tokens=0), temperature)
    (step,) = steps_of(config)
    assert step["loss/contrastive"] == pytest.approx(expected, rel=1e-4)
    assert step["loss/learning_rate"] == config.optimizer.learning_rate


def test_simcse_learns_from_texts_alone(make_config: MakeConfig, grace_folder: GraceFolder) -> None:
    config = make_config(*SIMCSE, "steps=3", "eval.every=0", model=str(grace_folder("llama")))
    assert config.mode == "unsupervised"
    train(config, quiet=True)
    start = load_file(Path(config.model) / "model.safetensors")
    assert any(not torch.equal(value.float(), start[name].float()) for name, value in weights(config).items())
    # A text is never exactly its own positive, which would make the loss that of ties alone.
    assert all(record["loss/grad_norm"] > 0 for record in steps_of(config))


@pytest.mark.parametrize("settings", [CL, SIMCSE], ids=["cl", "simcse"])
def test_a_crashed_run_goes_on_bit_equal(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    more = ("steps=5", "eval.every=0", "optimizer.schedule=cosine", "optimizer.warmup_steps=2")
    whole = make_config(*settings, *more, output=str(tmp_path / "whole"))
    broken = make_config(*settings, *more, output=str(tmp_path / "broken"))
    train(whole, quiet=True)
    finish = BaselineTrainer.finish_step

    def crash(self: BaselineTrainer, *arguments: Any) -> bool:
        if self.step == 3:
            raise ZeroDivisionError("power cut")
        return finish(self, *arguments)

    monkeypatch.setattr(BaselineTrainer, "finish_step", crash)
    with pytest.raises(ZeroDivisionError):
        train(broken, quiet=True)
    monkeypatch.setattr(BaselineTrainer, "finish_step", finish)
    train(broken, resume=True, quiet=True)
    assert steps_of(broken) == steps_of(whole)
    first, second = weights(whole), weights(broken)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_signal_ends_the_run_after_the_step(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(*CL, "steps=4", "checkpoint.every=100", "eval.every=0")
    drawn = StepBatches.__getitem__

    def send(self: StepBatches, index: int) -> dict[str, torch.Tensor]:
        if index == 1:
            signal.raise_signal(signal.SIGTERM)
        return drawn(self, index)

    monkeypatch.setattr(StepBatches, "__getitem__", send)
    with pytest.raises(Interrupted) as caught:
        train(config, quiet=True)
    assert "after step 2 of 4" in caught.value.__notes__[0]
    monkeypatch.setattr(StepBatches, "__getitem__", drawn)
    assert train(config, resume=True, quiet=True).summary["steps"] == 4


def test_a_signal_ends_an_evaluation_which_is_made_again(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_config(*CL, "steps=3", "checkpoint.every=100", output=str(tmp_path / "whole"))
    asked = make_config(*CL, "steps=3", "checkpoint.every=100", output=str(tmp_path / "asked"))
    train(whole, quiet=True)

    budgets: list[int | None] = []

    def interrupt(policy: Policy, data: Any, *, budget: int | None, progress: Any) -> Any:
        budgets.append(budget)
        if budgets == [0, 6, 0]:  # before training, on the prompt alone and with rationales; then at step 2
            signal.raise_signal(signal.SIGTERM)
        return evaluate(policy, data, budget=budget, progress=progress)

    with monkeypatch.context() as patch:
        patch.setattr("grace_train.local.trainer.evaluate", interrupt)
        with pytest.raises(Interrupted) as caught:
            train(asked, quiet=True)
    assert "(SIGTERM) after step 2 of 3; a checkpoint is in" in caught.value.__notes__[0]
    train(asked, resume=True, quiet=True)
    assert steps_of(asked) == steps_of(whole)
    first, second = weights(asked), weights(whole)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_mini_batches_give_the_same_gradients(make_config: MakeConfig, tmp_path: Path) -> None:
    whole = make_config(*CL, "steps=2", "eval.every=0", output=str(tmp_path / "whole"))
    parts = make_config(*CL, "steps=2", "eval.every=0", "contrastive.mini_batch_size=2", output=str(tmp_path / "parts"))
    train(whole, quiet=True)
    train(parts, quiet=True)
    for one, other in zip(steps_of(whole), steps_of(parts), strict=True):
        assert other["loss/grad_norm"] == pytest.approx(one["loss/grad_norm"], rel=1e-3)


def test_adapters_are_merged(make_config: MakeConfig) -> None:
    config = make_config(*CL, "lora.rank=4", "steps=2", "eval.every=0")
    train(config, quiet=True)
    start = load_file(Path(config.model) / "model.safetensors")
    found = weights(config)
    assert found.keys() == start.keys()
    assert any(not torch.equal(value, start[name].float()) for name, value in found.items())


def test_patience_ends_a_run(make_config: MakeConfig) -> None:
    config = make_config(*CL, "steps=20", "eval.every=1", "eval.patience=2", "optimizer.learning_rate=1e-9")
    summary = train(config, quiet=True).summary
    assert summary["steps"] == 2
    assert summary["stopped"] == "2 evaluations in a row without a better ndcg@10 on dev"


def test_a_loss_that_is_not_finite_stops_the_run(make_config: MakeConfig) -> None:
    config = make_config(*CL, "steps=5", "eval.every=0", "optimizer.learning_rate=1e9", "optimizer.max_grad_norm=1e9")
    with pytest.raises(TrainingStopped, match="is nan"):
        train(config, quiet=True)
    assert not (Path(config.output) / "modules.json").exists()


def test_what_means_nothing_to_a_baseline_is_named(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config(*CL, "steps=1", "eval.every=0", "algorithm.name=rloo", "compute.tokens_per_microbatch=100")
    with caplog.at_level(logging.WARNING, logger="grace_train"):
        train(config, quiet=True)
    (told,) = [record.getMessage() for record in caplog.records if "ignores" in record.getMessage()]
    named = told.removeprefix("method=cl has no rollouts, so it ignores ").split(", ")
    assert {"algorithm.name", "rollout.group_size", "compute.tokens_per_microbatch"} <= set(named)
    assert "compute.device" not in named


def test_the_command_trains_a_baseline(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(dump(make_config("steps=1", "eval.every=1")), encoding="utf-8")
    assert main(["train", str(path), "method=cl"]) == 0
    captured = capsys.readouterr()
    assert "Trained 1 of 1 steps (method cl)." in captured.out
    assert "dev_with_rationales" in captured.out
    assert "step 1/1  loss " in captured.err
    assert main(["train", str(path), "method=cl", "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "cl"
