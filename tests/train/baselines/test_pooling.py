from __future__ import annotations

import pytest
import torch

from grace_st.config import POOLING_SPANS, POOLINGS
from grace_st.engines.base import Sampling
from grace_train.baselines.pooling import PromptPooling, turn_dropout_on
from grace_train.local.loading import load_policy
from grace_train.options import ConfigError
from tests import tiny
from tests.conftest import GraceFolder
from tests.train.local.conftest import MakeConfig

TEXTS = [text for text in tiny.TEXTS if text]


@pytest.mark.parametrize("span", POOLING_SPANS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "lfm2"])
def test_a_vector_is_that_of_encoding_without_a_rationale(
    make_config: MakeConfig, grace_folder: GraceFolder, architecture: str, pooling: str, span: str
) -> None:
    prompt = {"pooling": pooling, "pooling_span": span, "max_new_tokens": 6}
    policy = load_policy(make_config(model=str(grace_folder(architecture)), prompt=prompt), keep_reference=False)
    module = PromptPooling(policy).train()
    with torch.no_grad():
        vectors = module(module.preprocess(TEXTS, "instruction: "))["sentence_embedding"]
    prompts = policy.module.prompts_of(TEXTS, "instruction: ")
    served = policy.module.rollouts(prompts, Sampling(max_new_tokens=0))
    torch.testing.assert_close(vectors, torch.stack([rollout.vector for rollout in served]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_gradients_reach_every_layer(make_config: MakeConfig, checkpointing: str) -> None:
    config = make_config(f"compute.gradient_checkpointing={checkpointing}")
    policy = load_policy(config, keep_reference=False)
    module = PromptPooling(policy).train()
    module(module.preprocess(TEXTS))["sentence_embedding"].square().sum().backward()
    for name, parameter in policy.trainable().items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "phi3"])
def test_dropout_gives_a_text_two_vectors_and_evaluation_one(
    make_config: MakeConfig, grace_folder: GraceFolder, architecture: str
) -> None:
    policy = load_policy(make_config(model=str(grace_folder(architecture))), keep_reference=False)
    turn_dropout_on(policy, 0.3)
    module = PromptPooling(policy)
    features = module.preprocess(TEXTS)

    def vectors() -> torch.Tensor:
        with torch.no_grad():
            return module(dict(features))["sentence_embedding"]

    module.train()
    assert (vectors() - vectors()).abs().max() > 1e-3
    module.eval()
    assert torch.equal(vectors(), vectors())


def test_a_model_without_dropout_is_refused(make_config: MakeConfig, grace_folder: GraceFolder) -> None:
    policy = load_policy(make_config(model=str(grace_folder("lfm2"))), keep_reference=False)
    with pytest.raises(ConfigError, match="by dropout, and Lfm2ForCausalLM has no dropout: use method=cl"):
        turn_dropout_on(policy, 0.1)
