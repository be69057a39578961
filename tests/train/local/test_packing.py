from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from grace_train.local.logprobs import token_scores
from grace_train.local.packing import Response, pack

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=["qwen2", "llama", "gemma2", "gpt2"])
def model(request: pytest.FixtureRequest, checkpoints: Callable[..., Path]) -> PreTrainedModel:
    if request.param == "gpt2":  # its forward looks at more of what its decoder returns than the others'
        torch.manual_seed(0)
        sizes = {"vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
        return GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    loaded = AutoModelForCausalLM.from_pretrained(checkpoints(request.param))
    if loaded.config._attn_implementation != "sdpa":  # Gemma 2 from transformers 5.24 on; it is not packed
        pytest.skip(f"{request.param} has no attention that takes a mask of rows")
    return loaded.float().eval()


def responses(vocabulary: int = 60) -> list[Response]:
    torch.manual_seed(0)
    lengths = [(5, [3, 7, 1]), (9, [4]), (2, [6, 6])]
    made = []
    for prompt_length, response_lengths in lengths:
        prompt = tuple(torch.randint(5, vocabulary, (prompt_length,)).tolist())
        for length in response_lengths:
            made.append(Response(len(made), prompt, tuple(torch.randint(5, vocabulary, (length,)).tolist())))
    return made


def alone(model: PreTrainedModel, response: Response, temperature: float = 1.0) -> torch.Tensor:
    """The oracle: a plain forward over prompt and response, in float64."""
    wide = model.double()
    try:
        ids = torch.tensor([[*response.prompt, *response.ids]])
        logits = wide(input_ids=ids, use_cache=False).logits[0, len(response.prompt) - 1 : -1] / temperature
        return logits.log_softmax(-1).gather(1, torch.tensor(response.ids)[:, None])[:, 0]
    finally:
        model.float()


@pytest.mark.parametrize(("share", "max_tokens"), list(itertools.product([True, False], [10_000, 16, 1])))
def test_packed_logprobs_are_those_of_each_response_alone(model: PreTrainedModel, share: bool, max_tokens: int) -> None:
    everything = responses()
    seen = set()
    for batch in pack(everything, max_tokens=max_tokens, pad_token_id=0, share_prompts=share):
        scores = token_scores(model, batch, temperature=0.7, entropy=True)
        assert bool((scores.logprobs[~batch.valid] == 0).all())
        for row, index in enumerate(batch.indices.tolist()):
            expected = alone(model, everything[index], temperature=0.7).float()
            actual = scores.logprobs[row][batch.valid[row]]
            torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)
            seen.add(index)
    assert seen == set(range(len(everything)))


@pytest.mark.parametrize("architecture", ["mixture of experts", "gpt2"])
def test_heads_that_look_at_more_than_the_states(architecture: str) -> None:
    torch.manual_seed(0)
    made: PreTrainedModel
    if architecture == "gpt2":
        made = GPT2LMHeadModel(
            GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None)
        )
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
        experts = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
        made = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=60, head_dim=16, **sizes, **experts))
        made.set_experts_implementation("eager")  # the others know no float64, which the oracle computes in
    everything = responses()
    (batch,) = pack(everything, max_tokens=10_000, pad_token_id=0, share_prompts=True)
    scores = token_scores(made.eval(), batch)
    for row, index in enumerate(batch.indices.tolist()):
        actual = scores.logprobs[row][batch.valid[row]]
        torch.testing.assert_close(actual, alone(made, everything[index]).float(), rtol=0, atol=TOLERANCE)


def test_gradients_do_not_depend_on_the_packing(model: PreTrainedModel) -> None:
    everything = responses()
    found = []
    for share, max_tokens in itertools.product([True, False], [10_000, 12]):
        model.zero_grad()
        for batch in pack(everything, max_tokens=max_tokens, pad_token_id=0, share_prompts=share):
            weights = (batch.indices + 1.0)[:, None]
            (token_scores(model, batch).logprobs * weights).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-5 * float(found[0].abs().max()))


def test_logits_in_pieces_give_the_same(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = responses()
    (batch,) = pack(everything, max_tokens=10_000, pad_token_id=0, share_prompts=True)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        logprobs = token_scores(model, batch).logprobs
        logprobs.sum().backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return logprobs.detach(), torch.cat(grads)

    whole = run()
    monkeypatch.setattr("grace_train.local.logprobs.LOGITS_AT_ONCE", 1000)
    pieces = run()
    torch.testing.assert_close(pieces[0], whole[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(pieces[1], whole[1], rtol=1e-4, atol=1e-5)
    assert "forward" not in model.get_decoder().__dict__


@given(
    groups=st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(1, 5), min_size=1, max_size=4)), max_size=6),
    max_tokens=st.integers(1, 40),
    share=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_token_is_packed_once_and_memory_is_bounded(
    groups: list[tuple[int, list[int]]], max_tokens: int, share: bool
) -> None:
    everything = []
    for number, (prompt_length, lengths) in enumerate(groups):
        for length in lengths:
            ids = tuple(100 * len(everything) + position for position in range(length))
            everything.append(Response(len(everything), (7 + number,) * prompt_length, ids))
    packed: dict[int, tuple[int, ...]] = {}
    for batch in pack(everything, max_tokens=max_tokens, pad_token_id=0, share_prompts=share):
        rows, width = batch.ids.shape
        assert rows * width <= max_tokens or rows == 1
        for row, index in enumerate(batch.indices.tolist()):
            assert index not in packed
            packed[index] = tuple(batch.targets[row][batch.valid[row]].tolist())
            # The first token is predicted from the prompt's last one.
            first = batch.ids.flatten()[batch.sources[row, 0]].item()
            assert first == everything[index].prompt[-1]
    assert packed == {response.index: response.ids for response in everything}
