from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from transformers import GPT2Config, GPT2LMHeadModel, Starcoder2Config, Starcoder2ForCausalLM

import grace_st
from grace_st.engines.base import Sampling
from grace_train.local.loading import load_policy
from grace_train.local.packing import Response, pack
from grace_train.local.policy import Policy
from grace_train.options import ConfigError
from tests import tiny
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


def test_a_saved_folder_can_have_another_dtype(make_config: MakeConfig, tmp_path: Path) -> None:
    policy = load_policy(make_config(), keep_reference=False)
    policy.save(tmp_path, name="narrow", dtype=torch.bfloat16)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_adapters_of_transposed_layers_and_embeddings_are_merged(make_config: MakeConfig, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512, "tie_word_embeddings": False}
    made = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=2, **sizes))
    for part in (made, tokenizer):
        part.save_pretrained(tmp_path / "gpt2")
    changes = ["lora.rank=4", "lora.target_modules=[c_attn, c_fc, c_proj, wte, lm_head]", "prompt.max_seq_length=128"]
    policy = load_policy(make_config(*changes, model=str(tmp_path / "gpt2")), keep_reference=False)
    changed(policy)
    (tmp_path / "saved").mkdir()
    policy.save(tmp_path / "saved", name="saved", dtype=torch.float32)
    np.testing.assert_allclose(grace_st.load(tmp_path / "saved").encode(TEXTS), vectors(policy, TEXTS), atol=1e-4)


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_an_adapter_of_a_tied_layer_is_refused(make_config: MakeConfig, layer: str) -> None:
    with pytest.raises(ConfigError, match=f"names .*{layer}, which shares its weight"):
        load_policy(make_config("lora.rank=2", f"lora.target_modules=[q_proj, {layer}]"), keep_reference=False)


def test_quantized_weights_are_refused(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_policy(make_config(), keep_reference=False).module
    module.model.config.quantization_config = {"quant_method": "fp8"}
    monkeypatch.setattr("grace_train.local.loading._load_module", lambda _config: module)
    with pytest.raises(ConfigError, match="holds quantized weights"):
        load_policy(make_config(), keep_reference=False)


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


def test_no_dropout_while_activations_are_computed_twice(make_config: MakeConfig, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    dropout = {"residual_dropout": 0.5, "embedding_dropout": 0.5, "attention_dropout": 0.5}
    made = Starcoder2ForCausalLM(
        Starcoder2Config(vocab_size=len(tokenizer), num_key_value_heads=1, eos_token_id=2, **sizes, **dropout)
    )
    for part in (made, tokenizer):
        part.save_pretrained(tmp_path / "starcoder2")
    changes = ["compute.gradient_checkpointing=true", "prompt.max_seq_length=128"]
    policy = load_policy(make_config(*changes, model=str(tmp_path / "starcoder2")), keep_reference=False)
    (batch,) = pack([Response(0, (5, 6, 7), (8, 9))], max_tokens=100, pad_token_id=0, share_prompts=True)
    trained = policy.scores(batch, temperature=1.0).logprobs
    with torch.no_grad():
        torch.testing.assert_close(trained, policy.scores(batch, temperature=1.0).logprobs)


def test_prompts_are_shared_only_where_our_mask_is_enough(make_config: MakeConfig) -> None:
    policy = load_policy(make_config(), keep_reference=False)
    assert policy.can_share_prompts(100)
    policy.model.config.alibi = True
    assert not policy.can_share_prompts(100)


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
        ("prompt.system_prompt=Think.", "a GRACE model already"),
        ("prompt.max_new_tokens=100000", "exceed the model's context"),
    ],
)
def test_what_the_model_cannot_do_is_refused(make_config: MakeConfig, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_policy(make_config("lora.rank=2", change), keep_reference=False)
    assert isinstance(caught.value, ConfigError) or "context" in message
