from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer

import grace_st
from grace_st.engines.base import Sampling
from grace_train.local.packing import Response, pack
from grace_train.local.policy import Policy, load_policy
from grace_train.options import ConfigError
from tests.conftest import GraceFolder
from tests.train.local.conftest import MakeConfig

TEXTS = ["cats and dogs", "a walk in Paris", ""]


def vectors(policy: Policy, texts: list[str]) -> np.ndarray:
    module = policy.module
    rollouts = module.rollouts(module.prompts_of(texts), Sampling(max_new_tokens=6))
    return np.stack([rollout.vector.numpy() for rollout in rollouts])


def changed(policy: Policy) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.02 * torch.randn_like(parameter))


def test_what_is_trained_is_what_is_served(make_config: MakeConfig, grace_folder: GraceFolder) -> None:
    policy = load_policy(make_config(), keep_reference=False)
    served = grace_st.load(grace_folder("qwen2")).encode(TEXTS, max_new_tokens=6)
    np.testing.assert_allclose(vectors(policy, TEXTS), served, atol=1e-6)


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
@pytest.mark.parametrize("rank", [0, 4])
def test_a_saved_folder_gives_the_vectors_of_the_policy(
    make_config: MakeConfig, grace_folder: GraceFolder, tmp_path: Path, architecture: str, rank: int
) -> None:
    policy = load_policy(make_config(f"lora.rank={rank}", model=str(grace_folder(architecture))), keep_reference=False)
    start = vectors(policy, TEXTS)
    changed(policy)
    before = vectors(policy, TEXTS)
    assert np.abs(before - start).max() > 1e-2
    weights = policy.state_dict()
    folder = tmp_path / "saved"
    folder.mkdir()
    policy.save(folder, name="saved", dtype=torch.float32)

    np.testing.assert_array_equal(vectors(policy, TEXTS), before)  # adapters are merged into a copy
    assert all(torch.equal(value, weights[name]) for name, value in policy.state_dict().items())
    model = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), before, atol=1e-4)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "lora" in name or "base_layer" in name]  # noqa: SIM118


def test_a_saved_folder_can_hold_other_weights_and_another_dtype(make_config: MakeConfig, tmp_path: Path) -> None:
    policy = load_policy(make_config(), keep_reference=False)
    start, state = vectors(policy, TEXTS), policy.state_dict()
    changed(policy)
    for name, dtype in (("wide", torch.float32), ("narrow", torch.bfloat16)):
        (tmp_path / name).mkdir()
        policy.save(tmp_path / name, name=name, dtype=dtype, state=state)
    np.testing.assert_allclose(grace_st.load(tmp_path / "wide").encode(TEXTS), start, atol=1e-6)
    with safe_open(tmp_path / "narrow" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_a_causal_lm_needs_no_conversion_first(
    make_config: MakeConfig, checkpoints: Callable[..., Path], grace_folder: GraceFolder
) -> None:
    policy = load_policy(
        make_config("prompt.max_seq_length=128", model=str(checkpoints("qwen2"))), keep_reference=False
    )
    converted = grace_st.load(grace_folder("qwen2")).encode(TEXTS, max_new_tokens=6)
    np.testing.assert_allclose(vectors(policy, TEXTS), converted, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 4])
def test_reference_scores_are_those_of_the_start(make_config: MakeConfig, rank: int) -> None:
    policy = load_policy(make_config(f"lora.rank={rank}"), keep_reference=True)
    (batch,) = pack([Response(0, (5, 6, 7), (8, 9))], max_tokens=100, pad_token_id=0, share_prompts=True)
    with torch.no_grad():
        start = policy.scores(batch, temperature=1.0).logprobs
        changed(policy)
        now = policy.scores(batch, temperature=1.0).logprobs
    torch.testing.assert_close(policy.reference_scores(batch, temperature=1.0).logprobs, start)
    assert not torch.allclose(now, start, atol=1e-3)


def test_gradient_checkpointing_changes_nothing(make_config: MakeConfig) -> None:
    (batch,) = pack([Response(0, (5, 6, 7), (8, 9))], max_tokens=100, pad_token_id=0, share_prompts=True)
    found = []
    for setting in ("true", "false"):
        policy = load_policy(make_config(f"compute.gradient_checkpointing={setting}"), keep_reference=False)
        policy.scores(batch, temperature=1.0).logprobs.sum().backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in policy.trainable().values()]))  # type: ignore[union-attr]
        assert not policy.model.training
    torch.testing.assert_close(found[0], found[1])


def test_all_trained_weights_are_float32(make_config: MakeConfig) -> None:
    for rank in (0, 4):
        policy = load_policy(make_config(f"lora.rank={rank}", "compute.precision=bf16"), keep_reference=False)
        assert {parameter.dtype for parameter in policy.trainable().values()} == {torch.float32}


def test_a_fingerprint_knows_the_start_model(make_config: MakeConfig, grace_folder: GraceFolder) -> None:
    full, lora = (load_policy(make_config(f"lora.rank={rank}"), keep_reference=False) for rank in (0, 4))
    other = load_policy(make_config(model=str(grace_folder("llama"))), keep_reference=False)
    assert full.fingerprint() == lora.fingerprint() != other.fingerprint()
    changed(full)
    assert full.fingerprint() != lora.fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("compute.device=gpu7", "compute.device='gpu7' cannot be used here"),
        ("lora.target_modules=[nothing]", "lora.target_modules="),
        ("prompt.system_prompt=Think.", "a GRACE model folder already"),
        ("prompt.max_new_tokens=100000", "exceed the model's context"),
    ],
)
def test_what_the_model_cannot_do_is_refused(make_config: MakeConfig, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_policy(make_config("lora.rank=2", change), keep_reference=False)
    assert isinstance(caught.value, ConfigError) or "context" in message
