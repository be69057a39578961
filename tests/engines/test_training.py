from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors.torch import load_file

from tests.engines.conftest import MakeFile, Run, check_steps, encodes, output

Train = Callable[..., Run]


def test_unsupervised_on_two_workers(config_file: MakeFile, train: Train) -> None:
    """With several updates of a batch, a divergence and an entropy that count."""
    algorithm = {"name": "rloo", "updates_per_batch": 3, "kl": 0.1, "entropy": 0.01, "aggregation": "seq-sum"}
    path = config_file("unsupervised", mode="unsupervised", gpus=2, algorithm=algorithm)
    train(path).ok()
    found = check_steps(path, 3)
    for record in found:
        assert record["cluster/vector_bytes"] == 3 * 4 * 128 * 4
        assert record["loss/entropy"] > 0
        assert record["loss/kl"] >= 0
        assert "loss/clip_fraction" in record
    assert found[-1]["loss/kl"] > 0
    encodes(output(path))


def test_adapters_symmetric(config_file: MakeFile, train: Train) -> None:
    """With the best weights taken at the end, and rows packed into one sequence."""
    path = config_file(
        "adapters",
        reward={"variant": "symmetric"},
        lora={"rank": 8},
        rollout={"query_group_size": 2},
        verl={"actor_rollout_ref.model.use_remove_padding": True},
    )
    train(path).ok()
    assert all("query_reward/total" in record for record in check_steps(path, 3))
    encodes(output(path))
    assert not list(output(path).glob("adapter*"))  # merged
    start = load_file(output(path) / "training" / "start" / "model.safetensors")
    end = load_file(output(path) / "model.safetensors")
    changed = {name for name, value in end.items() if not torch.equal(value, start[name])}
    assert changed
    assert all("_proj" in name for name in changed)
