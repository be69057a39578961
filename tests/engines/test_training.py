from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from tests.engines.conftest import MakeFile, Run, metrics, output

Train = Callable[..., Run]


def encodes(folder: Path) -> None:
    vectors = SentenceTransformer(str(folder), trust_remote_code=True).encode(["cats", "rivers"])
    assert vectors.shape == (2, 128)
    assert np.isfinite(vectors).all()


def check_steps(path: Path, steps: int) -> list[dict[str, float]]:
    found = metrics(path)
    assert [record["step"] for record in found] == list(range(1, steps + 1))
    assert all(record["loss/grad_norm"] > 0 and record["cluster/lost_instances"] == 0 for record in found)
    # What vLLM sampled from is what FSDP trains, also after updates: the newest weights are there.
    assert max(record.get("loss/logprob_gap", 0.0) for record in found) < 1e-4
    return found


@pytest.fixture(scope="module")
def supervised(config_file: MakeFile) -> Path:
    return config_file("supervised")


# The second goes on with what the first left, so they run in one process.
@pytest.mark.xdist_group("resume")
def test_supervised(supervised: Path, train: Train) -> None:
    train(supervised).ok()
    for record in check_steps(supervised, 3):
        # Vectors alone travel: 3 queries, 3 negatives and 9 positives of 128 float32.
        assert record["cluster/vector_bytes"] == 15 * 128 * 4
        assert record["cluster/state_bytes"] > 50 * record["cluster/vector_bytes"]
    encodes(output(supervised))


@pytest.mark.xdist_group("resume")
def test_resume_goes_on_after_the_last_step(supervised: Path, train: Train) -> None:
    train(supervised, "steps=4", "--resume").ok()
    check_steps(supervised, 4)
    encodes(output(supervised))


def test_unsupervised_on_two_workers(config_file: MakeFile, train: Train) -> None:
    path = config_file("unsupervised", mode="unsupervised", gpus=2)
    train(path).ok()
    for record in check_steps(path, 3):
        assert record["cluster/vector_bytes"] == 3 * 4 * 128 * 4
    encodes(output(path))


def test_adapters_symmetric(config_file: MakeFile, train: Train) -> None:
    reward = {"variant": "symmetric"}
    path = config_file("adapters", reward=reward, lora={"rank": 8}, rollout={"query_group_size": 2})
    train(path).ok()
    assert all("query_reward/total" in record for record in check_steps(path, 3))
    encodes(output(path))
    assert not list(output(path).glob("adapter*"))  # merged
    start = load_file(output(path) / "training" / "start" / "model.safetensors")
    end = load_file(output(path) / "model.safetensors")
    changed = {name for name, value in end.items() if not torch.equal(value, start[name])}
    assert changed
    assert all("_proj" in name for name in changed)


def test_several_updates_of_a_batch_with_kl_and_entropy(config_file: MakeFile, train: Train) -> None:
    algorithm = {"name": "rloo", "updates_per_batch": 3, "kl": 0.1, "entropy": 0.01, "aggregation": "seq-sum"}
    path = config_file("updates", algorithm=algorithm)
    train(path).ok()
    for record in check_steps(path, 3):
        assert record["loss/entropy"] > 0
        assert record["loss/kl"] >= 0
        assert "loss/clip_fraction" in record
    assert metrics(path)[-1]["loss/kl"] > 0
