"""The cache that can be re-packed: the same states as plain concatenation, whatever is done in between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from grace_st.engines import kv_cache
from grace_st.engines.base import Rollout, Sampling
from grace_st.engines.decoding import Decoding, Job
from grace_st.engines.torch_engine import CPU_CACHE_BYTES, CPU_SLOTS
from tests.encoder.test_engine import STOPS, build, same


def states(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Keys and values ``[rows, 2, columns, 4]``."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, 2, columns, 4, generator=generator)
    return keys, values


def test_growing_is_concatenating() -> None:
    """Across several times the room that is taken at once."""
    layer, expected = kv_cache.GrowingLayer(), None
    for step in range(2 * kv_cache.SPARE_COLUMNS + 40):
        new = states(3, 7 if step == 0 else 1, seed=step)
        returned = layer.update(*new)
        expected = (
            new if expected is None else tuple(torch.cat(pair, dim=2) for pair in zip(expected, new, strict=True))
        )
        if step == 30:
            layer.drop_columns(5)
            expected = tuple(part[:, :, 5:] for part in expected)
        assert layer.get_seq_length() == expected[0].shape[2]
    for got, part in zip(returned, expected, strict=True):
        assert torch.equal(got, part)


def test_a_step_copies_nothing() -> None:
    layer = kv_cache.GrowingLayer()
    layer.update(*states(3, 7))
    layer.update(*states(3, 1))
    before = layer.keys.untyped_storage().data_ptr()
    for step in range(kv_cache.SPARE_COLUMNS // 2):
        layer.update(*states(3, 1, seed=step))
    layer.drop_columns(3)
    layer.write_rows(torch.tensor([1]), *states(1, 5))
    assert layer.keys.untyped_storage().data_ptr() == before


def test_what_is_assigned_is_never_written_to() -> None:
    """The prefix of all prompts is shared by rows and calls."""
    prefix = states(1, 6)
    copies = [part.clone() for part in prefix]
    layer = kv_cache.GrowingLayer()
    layer.assign(*(part.expand(3, -1, -1, -1) for part in prefix))
    layer.write_rows(torch.tensor([0, 2]), *states(2, 4, seed=1))
    layer.update(*states(3, 1, seed=2))
    for part, copy in zip(prefix, copies, strict=True):
        assert torch.equal(part, copy)


def cache_of(keys: Tensor, values: Tensor) -> kv_cache.GrowingCache:
    cache = kv_cache.GrowingCache()
    cache.update(keys, values, 0)
    return cache


def test_rows_are_replaced_in_place() -> None:
    old, new = states(4, 9), states(2, 5, seed=1)
    cache = cache_of(*old)
    mask = torch.ones(4, 9, dtype=torch.bool)
    new_mask = torch.tensor([[True] * 5, [False] + [True] * 4])
    mask = kv_cache.replace_rows(cache, mask, torch.tensor([3, 1]), cache_of(*new), new_mask)
    layer = cache.layers[0]
    for got, before, put in zip((layer.keys, layer.values), old, new, strict=True):
        assert torch.equal(got[[0, 2]], before[[0, 2]])
        assert torch.equal(got[[3, 1], :, 4:], put)
    assert mask.sum(dim=1).tolist() == [9, 4, 9, 5]
    assert not mask[3, :4].any() and not mask[1, :5].any()


def test_leading_padding_goes() -> None:
    cache = cache_of(*states(2, 6))
    keys = cache.layers[0].keys
    mask = torch.tensor([[False, False, True, True, True, True], [False, False, False, True, True, True]])
    trimmed = kv_cache.drop_leading_padding(cache, mask)
    assert trimmed.shape == (2, 4) and torch.equal(cache.layers[0].keys, keys[:, :, 2:])
    assert torch.equal(kv_cache.drop_leading_padding(cache, trimmed), trimmed)


@pytest.mark.parametrize("architecture", ["qwen2", "gemma3_text"])
@pytest.mark.parametrize("sampled", [False, True])
def test_prompts_in_any_order(architecture: str, sampled: bool) -> None:
    """The engine sends the longest first; the loop itself does not rely on it, so a long one may come late."""
    engine, prompts = build(architecture)
    sampling = Sampling(max_new_tokens=12, do_sample=sampled, repetition_penalty=1.2)
    expected = engine.generate(prompts, sampling)
    done: dict[Job, Rollout] = {}
    decoding = Decoding(
        engine.forward,
        prompts,
        sampling,
        starts=[prompt.pool_start for prompt in prompts],
        eos_token_ids=frozenset(STOPS),
        slots=3,
        share_prefix=False,
        finish=done.__setitem__,
    )
    jobs = sorted((Job(index, 0) for index in range(len(prompts))), key=lambda job: len(prompts[job.prompt].ids))
    with torch.no_grad():
        decoding.run(jobs)
    same([done[Job(index, 0)] for index in range(len(prompts))], expected)


def test_one_forward_pass_is_fed_a_bounded_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    import grace_st.engines.decoding as decoding
    import grace_st.engines.torch_engine as torch_engine

    engine, prompts = build(slots=8)
    expected = engine.generate(prompts, Sampling(max_new_tokens=9))
    longest = max(len(prompt.ids) for prompt in prompts)
    for module in (decoding, torch_engine):
        monkeypatch.setattr(module, "FEED_TOKENS", 2 * longest)
    sizes: list[int] = []
    engine.model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, inputs: sizes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    same(engine.generate(prompts, Sampling(max_new_tokens=9)), expected)
    engine.embed(prompts, [rollout.ids[:1] for rollout in expected])
    assert max(sizes) <= 2 * longest


def test_slots_follow_the_memory_that_a_row_needs() -> None:
    engine, _ = build()
    per_token = engine.forward.cache_bytes_per_token
    assert per_token == 2 * 3 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes
    assert engine.slots_for(100) == CPU_SLOTS
    tokens = CPU_CACHE_BYTES // per_token // 10
    assert engine.slots_for(tokens) == 10
    assert engine.slots_for(1000 * tokens) == 1
    assert build(slots=7)[0].slots_for(1000 * tokens) == 7
