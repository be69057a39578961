"""The torch engine against the slow way, and its invariances."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from grace_st.config import DEFAULT_SYSTEM_PROMPT, POOLING_SPANS, POOLINGS
from grace_st.engines.base import NonFiniteVectorError, PromptTokens, Rollout, Sampling, prompt_uniforms
from grace_st.engines.torch_engine import TorchEngine
from grace_st.prompt import RepresentationPrompt
from grace_st.template import render_template
from tests import tiny
from tests.encoder import oracle

ARCHITECTURES = (*tiny.STANDARD, "lfm2")
TOLERANCE = 1e-5  # fp32 against float64
STOPS = tuple(range(0, 400, 9))  # so many that some rationales end early and some reach the cap


def build(architecture: str = "qwen2", **options: Any) -> tuple[TorchEngine, list[PromptTokens]]:
    tokenizer = tiny.tokenizer("chatml")
    rendered = render_template(tokenizer, DEFAULT_SYSTEM_PROMPT)
    prompt = RepresentationPrompt(tokenizer, rendered.head, rendered.tail)
    model = tiny.model(architecture, len(tokenizer))
    engine = TorchEngine(model, **{"eos_token_ids": STOPS, "pad_token_id": 0, **options})
    return engine, prompt.tokenize(tiny.TEXTS, max_seq_length=256)


def same(first: list[Rollout], second: list[Rollout], tolerance: float = TOLERANCE) -> None:
    assert [rollout.ids for rollout in first] == [rollout.ids for rollout in second]
    assert [rollout.stop_id for rollout in first] == [rollout.stop_id for rollout in second]
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one.vector, other.vector, rtol=0, atol=tolerance)


def start_of(prompt: PromptTokens, span: str) -> int:
    return len(prompt.ids) - 1 if span == "rationale" else prompt.pool_start


@pytest.mark.parametrize("budget", [0, 1, 7, 64])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_pass_equals_two_passes(architecture: str, budget: int) -> None:
    engine, prompts = build(architecture, slots=4)
    rollouts = engine.generate(prompts, Sampling(max_new_tokens=budget))
    expected = oracle.greedy(engine.model, prompts, budget, STOPS)
    assert [(list(rollout.ids), rollout.stop_id) for rollout in rollouts] == expected
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        reference = oracle.vector(engine.model, prompt.ids + rollout.ids, prompt.pool_start, "mean")
        torch.testing.assert_close(rollout.vector.double(), reference, rtol=0, atol=TOLERANCE)


def test_the_fixtures_have_both_endings() -> None:
    """Otherwise the tests above would prove less than they say."""
    for architecture in ARCHITECTURES:
        engine, prompts = build(architecture)
        finished = [rollout.finished for rollout in engine.generate(prompts, Sampling(max_new_tokens=7))]
        assert any(finished) and not all(finished), architecture


@pytest.mark.parametrize("span", POOLING_SPANS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "lfm2"])
def test_representations_against_float64(architecture: str, pooling: str, span: str) -> None:
    engine, prompts = build(architecture, pooling=pooling, pooling_span=span, slots=3)
    for budget in (0, 9):
        for prompt, rollout in zip(prompts, engine.generate(prompts, Sampling(max_new_tokens=budget)), strict=True):
            ids = prompt.ids + rollout.ids
            reference = oracle.vector(engine.model, ids, start_of(prompt, span), pooling)
            torch.testing.assert_close(rollout.vector.double(), reference, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("architecture", ["qwen2", "mistral", "gemma3_text", "lfm2"])
def test_a_text_does_not_depend_on_its_neighbours(architecture: str, sampled: bool) -> None:
    sampling = Sampling(max_new_tokens=20, do_sample=sampled, seed=3, temperature=1.3 if sampled else 1.0)
    engine, prompts = build(architecture)
    together = engine.generate(prompts, sampling)
    for slots in (1, 2, 5, 64):
        same(build(architecture, slots=slots)[0].generate(prompts, sampling), together)
    same(list(reversed(engine.generate(list(reversed(prompts)), sampling))), together)
    alone = [engine.generate([prompt], sampling)[0] for prompt in prompts]
    same(alone, together)
    same(build(architecture, share_prefix=False)[0].generate(prompts, sampling), together)


def test_equal_texts_get_equal_rollouts_and_are_counted() -> None:
    engine, prompts = build()
    counted: list[int] = []
    rollouts = engine.generate(prompts + prompts, Sampling(max_new_tokens=5), progress=counted.append)
    same(rollouts[: len(prompts)], rollouts[len(prompts) :], tolerance=0)
    assert sum(counted) == 2 * len(prompts)


def test_another_process_gives_the_same_sample() -> None:
    program = (
        "from tests.encoder.test_engine import build; from grace_st.engines.base import Sampling\n"
        "engine, prompts = build()\n"
        "for r in engine.generate(prompts, Sampling(max_new_tokens=12, do_sample=True, seed=11)):\n"
        "    print(*r.ids, sep=',', end=';')\n"
    )
    engine, prompts = build()
    here = engine.generate(prompts, Sampling(max_new_tokens=12, do_sample=True, seed=11))
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert there == "".join(",".join(map(str, rollout.ids)) + ";" for rollout in here)


def test_seeds() -> None:
    engine, prompts = build()

    def ids(seed: int) -> list[tuple[int, ...]]:
        sampling = Sampling(max_new_tokens=12, do_sample=True, seed=seed)
        return [rollout.ids for rollout in engine.generate(prompts, sampling)]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_a_smaller_budget_is_a_prefix() -> None:
    engine, prompts = build()
    for sampled in (False, True):
        long = engine.generate(prompts, Sampling(max_new_tokens=40, do_sample=sampled))
        short = engine.generate(prompts, Sampling(max_new_tokens=5, do_sample=sampled))
        assert [rollout.ids[:5] for rollout in long] == [rollout.ids for rollout in short]


@pytest.mark.parametrize("architecture", ["qwen2", "lfm2"])
def test_several_samples_of_a_prompt(architecture: str) -> None:
    engine, prompts = build(architecture, slots=7)
    sampling = Sampling(max_new_tokens=8, do_sample=True, num_samples=3)
    rollouts = engine.generate(prompts, sampling)
    assert len(rollouts) == 3 * len(prompts)
    assert len({rollout.ids for rollout in rollouts[:3]}) > 1
    single = engine.generate(prompts, Sampling(max_new_tokens=8, do_sample=True))
    same(rollouts[::3], single)  # the first sample is what a single one gives
    for place, rollout in enumerate(rollouts):
        prompt = prompts[place // 3]
        reference = oracle.vector(engine.model, prompt.ids + rollout.ids, prompt.pool_start, "mean")
        torch.testing.assert_close(rollout.vector.double(), reference, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2"])
def test_log_probabilities(architecture: str) -> None:
    """Of each token and of the EOS, under the model's own distribution, whatever the temperature."""
    engine, prompts = build(architecture)
    sampling = Sampling(max_new_tokens=9, do_sample=True, temperature=1.5, top_k=50, logprobs=True)
    rollouts = engine.generate(prompts, sampling)
    assert any(rollout.finished for rollout in rollouts)
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        actions = [*rollout.ids, *([] if rollout.stop_id is None else [rollout.stop_id])]
        ids = torch.tensor([[*prompt.ids, *actions]])
        with torch.no_grad():
            table = engine.model(input_ids=ids).logits[0].double().log_softmax(-1)
        first = len(prompt.ids) - 1
        reference = [table[first + step, token].item() for step, token in enumerate(actions)]
        assert rollout.logprobs == pytest.approx(reference, abs=1e-4)


def test_sampling_follows_the_model_distribution() -> None:
    """3,000 first tokens of one prompt against its probabilities: total variation within noise."""
    engine, prompts = build(slots=64)
    draws = 3000
    sampling = Sampling(max_new_tokens=1, do_sample=True, num_samples=draws, temperature=0.7, top_k=20)
    rollouts = engine.generate(prompts[:1], sampling)
    counts = torch.zeros(len(tiny.tokenizer()))
    for rollout in rollouts:
        counts[rollout.ids[0] if rollout.ids else rollout.stop_id] += 1
    with torch.no_grad():
        logits = engine.model(input_ids=torch.tensor([prompts[0].ids])).logits[0, -1] / 0.7
    kept = logits >= logits.topk(20).values[-1]
    probabilities = logits.masked_fill(~kept, float("-inf")).softmax(-1)
    assert counts[~kept].sum() == 0
    distance = (counts / draws - probabilities).abs().sum().item() / 2
    assert distance < 0.06  # its expectation is about 0.03


def test_top_p_and_repetition_penalty() -> None:
    engine, prompts = build()
    greedy = engine.generate(prompts, Sampling(max_new_tokens=8))
    narrow = engine.generate(prompts, Sampling(max_new_tokens=8, do_sample=True, top_p=1e-6))
    assert [rollout.ids for rollout in narrow] == [rollout.ids for rollout in greedy]
    penalised = engine.generate(prompts, Sampling(max_new_tokens=8, repetition_penalty=100))
    for prompt, rollout in zip(prompts, penalised, strict=True):
        assert not set(rollout.ids) & set(prompt.ids)
        assert len(set(rollout.ids)) == len(rollout.ids)


def test_given_rationales() -> None:
    engine, prompts = build()
    rollouts = engine.generate(prompts, Sampling(max_new_tokens=15))
    given = engine.embed(prompts, [rollout.ids for rollout in rollouts])
    assert not any(rollout.finished for rollout in given)
    for rollout, other in zip(rollouts, given, strict=True):
        torch.testing.assert_close(rollout.vector, other.vector, rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match="one of each"):
        engine.embed(prompts, [()])


@pytest.mark.parametrize("architecture", ["qwen2", "lfm2"])
def test_prompts_of_one_token(architecture: str) -> None:
    """Such as an empty text after an empty template; alone and among longer ones."""
    engine, _ = build(architecture, slots=2)
    prompts = [PromptTokens((5,), 0), PromptTokens((5, 9, 3), 0), PromptTokens((7,), 1)]
    rollouts = engine.generate(prompts, Sampling(max_new_tokens=6))
    expected = oracle.greedy(engine.model, prompts, 6, STOPS)
    assert [list(rollout.ids) for rollout in rollouts] == [ids for ids, _ in expected]
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        reference = oracle.vector(engine.model, prompt.ids + rollout.ids, 0, "mean")
        torch.testing.assert_close(rollout.vector.double(), reference, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("sampled", [False, True])
def test_rows_that_have_ended_stay_inside_the_context(sampled: bool) -> None:
    """A position table just as long as prompt and budget: GPT-2 fails on any position behind it."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_positions=48, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    )
    engine = TorchEngine(model.eval(), eos_token_ids=range(5, 25), pad_token_id=0, slots=8)
    generator = torch.Generator().manual_seed(1)
    prompts = [PromptTokens(tuple(torch.randint(97, (32,), generator=generator).tolist()), 4) for _ in range(40)]
    rollouts = engine.generate(prompts, Sampling(max_new_tokens=16, do_sample=sampled))
    assert len({len(rollout.ids) for rollout in rollouts}) > 1
    again = engine.embed(prompts, [rollout.ids for rollout in rollouts])
    for one, other in zip(rollouts, again, strict=True):
        torch.testing.assert_close(one.vector, other.vector, rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match="context of 48"):
        engine.generate(prompts, Sampling(max_new_tokens=17))


def test_longrope_is_limited_to_where_rows_do_not_depend_on_each_other() -> None:
    """Beyond its original context the frequencies of all rows change with the longest."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 160,
    }
    tokenizer = tiny.tokenizer()
    model = tiny.model("phi3", len(tokenizer), rope_parameters=rope, original_max_position_embeddings=160)
    engine = TorchEngine(model, eos_token_ids=STOPS, pad_token_id=0)
    assert engine.forward.context_length == 160
    prompts = [prompt for prompt in build()[1] if len(prompt.ids) < 140]
    sampling = Sampling(max_new_tokens=20)
    together = engine.generate(prompts, sampling)
    same([engine.generate([prompt], sampling)[0] for prompt in prompts], together)
    with pytest.raises(ValueError, match="context of 160"):
        engine.generate([PromptTokens((1,) * 150, 0)], sampling)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_and_stays_close(dtype: torch.dtype) -> None:
    """Tokens may flip there; the vectors of given rationales may not move far, and are float32."""
    engine, prompts = build()
    rationales = [rollout.ids for rollout in engine.generate(prompts, Sampling(max_new_tokens=6))]
    wide = engine.embed(prompts, rationales)
    engine.model.to(dtype)
    for one, other in zip(engine.embed(prompts, rationales), wide, strict=True):
        assert one.vector.dtype == torch.float32
        assert torch.cosine_similarity(one.vector, other.vector, dim=0) > 0.99
    assert len(engine.generate(prompts, Sampling(max_new_tokens=6))) == len(prompts)


def test_a_cache_that_cannot_be_repacked_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="grace_st"):
        build("qwen2")
        assert not caplog.records
        build("lfm2")
    assert "without refill" in caplog.text


def _limit_rows(model: PreTrainedModel, most: int) -> Callable[[], None]:
    """Make a forward of more than ``most`` rows fail like an accelerator without memory."""

    def check(_module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].shape[0] > most:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    return model.get_decoder().register_forward_pre_hook(check, with_kwargs=True).remove


@pytest.mark.parametrize("budget", [0, 12])
def test_out_of_memory_halves_the_slots_and_goes_on(budget: int, caplog: pytest.LogCaptureFixture) -> None:
    engine, prompts = build()
    expected = engine.generate(prompts, Sampling(max_new_tokens=budget))
    engine, _ = build(slots=8)
    counted: list[int] = []
    _limit_rows(engine.model, 3)
    with caplog.at_level(logging.WARNING, logger="grace_st"):
        rollouts = engine.generate(prompts, Sampling(max_new_tokens=budget), progress=counted.append)
    same(rollouts, expected)
    assert engine.slots == 2
    assert sum(counted) == len(prompts)
    assert "going on with 2 slots" in caplog.text


def test_out_of_memory_in_the_middle_keeps_what_is_finished() -> None:
    engine, prompts = build(slots=4)
    expected = engine.generate(prompts, Sampling(max_new_tokens=12))
    calls = 0

    def fail_once(_module: Any, _args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    engine.model.get_decoder().register_forward_pre_hook(fail_once)
    counted: list[int] = []
    same(engine.generate(prompts, Sampling(max_new_tokens=12), progress=counted.append), expected)
    assert calls > 20 and engine.slots == 2 and sum(counted) == len(prompts)


@pytest.mark.parametrize("budget", [0, 12])
def test_what_a_callback_raises_is_not_the_engines(budget: int) -> None:
    """Not even where a caller's own work runs out of memory: trying again would leave out that rollout."""
    engine, prompts = build(slots=4)
    ours = torch.OutOfMemoryError("CUDA out of memory (the caller's)")

    def tell(place: int, rollout: Rollout) -> None:
        raise ours

    def count(number: int) -> None:
        raise ours

    for options in ({"on_rollout": tell}, {"progress": count}):
        with pytest.raises(torch.OutOfMemoryError) as caught:
            engine.generate(prompts, Sampling(max_new_tokens=budget), **options)  # type: ignore[arg-type]
        assert caught.value is ours
    assert engine.slots == 4


def test_out_of_memory_with_one_slot_says_what_to_do() -> None:
    engine, prompts = build(slots=2)
    _limit_rows(engine.model, 0)
    with pytest.raises(RuntimeError, match=r"single slot.*lower max_seq_length"):
        engine.generate(prompts, Sampling(max_new_tokens=2))


def test_other_errors_are_not_taken_for_memory() -> None:
    engine, prompts = build()

    def fail(_module: Any, _args: Any) -> None:
        raise RuntimeError("something else")

    engine.model.get_decoder().register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        engine.generate(prompts, Sampling(max_new_tokens=2))


@pytest.mark.parametrize("budget", [0, 3])
def test_non_finite_vectors_are_refused_and_named(budget: int) -> None:
    engine, prompts = build("llama")  # whose output head is not the embedding
    with torch.no_grad():
        engine.model.get_decoder().embed_tokens.weight[prompts[4].ids[prompts[4].pool_start]] = float("nan")
    with pytest.raises(NonFiniteVectorError) as caught:
        engine.generate(prompts, Sampling(max_new_tokens=budget))
    bad = prompts[4].ids[prompts[4].pool_start]
    assert bad in prompts[caught.value.index].ids
    assert pickle.loads(pickle.dumps(caught.value)).index == caught.value.index


def test_non_finite_logits_are_refused() -> None:
    """Finite states, but an output head that is broken: the tokens would be nonsense."""
    engine, prompts = build("llama")
    with torch.no_grad():
        engine.model.get_output_embeddings().weight[3] = float("nan")
    with pytest.raises(NonFiniteVectorError, match="logits"):
        engine.generate(prompts, Sampling(max_new_tokens=3))


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "logprobs": True}, {"repetition_penalty": 2.0}])
def test_non_finite_logits_are_refused_however_tokens_are_chosen(options: dict[str, Any]) -> None:
    engine, prompts = build("llama")
    with torch.no_grad():
        engine.model.get_decoder().norm.weight[3] = float("nan")
    with pytest.raises(NonFiniteVectorError):
        engine.generate(prompts, Sampling(max_new_tokens=3, **options))


def test_a_tiny_temperature_is_greedy() -> None:
    engine, prompts = build()
    greedy = engine.generate(prompts, Sampling(max_new_tokens=8))
    cold = engine.generate(prompts, Sampling(max_new_tokens=8, do_sample=True, temperature=1e-45))
    assert [rollout.ids for rollout in cold] == [rollout.ids for rollout in greedy]


def test_ids_without_an_embedding_are_refused() -> None:
    engine, prompts = build()
    last = engine.forward.vocabulary_size - 1
    with pytest.raises(ValueError, match=rf"prompt 1 has the token id 9999, .* embeddings for 0 to {last} only"):
        engine.generate([prompts[0], PromptTokens((1, 9999), 0)], Sampling(max_new_tokens=1))
    with pytest.raises(ValueError, match="rationale 0 has the token id -1"):
        engine.embed(prompts[:1], [(3, -1)])


def test_no_budget_with_log_probabilities() -> None:
    engine, prompts = build()
    (rollout,) = engine.generate(prompts[:1], Sampling(max_new_tokens=0, logprobs=True))
    assert (rollout.ids, rollout.logprobs) == ((), ())


def test_lengths_are_checked_before_work_starts() -> None:
    engine, prompts = build()
    _limit_rows(engine.model, 0)  # any forward would fail
    length = len(prompts[0].ids)
    with pytest.raises(ValueError, match=rf"prompt of {length} tokens and 500 for its rationale.*context of 512"):
        engine.generate(prompts, Sampling(max_new_tokens=500))
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        engine.generate([prompts[0], PromptTokens((), 0)], Sampling(max_new_tokens=1))


def test_training_mode_is_restored_and_gradients_are_off() -> None:
    engine, prompts = build()
    engine.model.train()
    rollout = engine.generate(prompts[:1], Sampling(max_new_tokens=2))[0]
    assert engine.model.training and not rollout.vector.requires_grad


def test_threads_on_one_engine() -> None:
    engine, prompts = build()
    expected = engine.generate(prompts, Sampling(max_new_tokens=10))
    results: dict[int, list[Rollout]] = {}

    def work(number: int) -> None:
        results[number] = engine.generate(prompts[number:], Sampling(max_new_tokens=10))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, rollouts in results.items():
        same(rollouts, expected[number:])
    assert len(results) == 4


def test_an_engine_can_be_pickled() -> None:
    engine, prompts = build()
    copied = pickle.loads(pickle.dumps(engine))
    sampling = Sampling(max_new_tokens=4)
    same(copied.generate(prompts, sampling), engine.generate(prompts, sampling), tolerance=0)


def test_uniforms_depend_on_seed_prompt_and_sample() -> None:
    base = prompt_uniforms(0, (1, 2, 3), 0, 8)
    assert base.dtype == torch.float64 and bool(((base >= 0) & (base < 1)).all())
    assert torch.equal(base, prompt_uniforms(0, (1, 2, 3), 0, 8))
    for other in (
        prompt_uniforms(1, (1, 2, 3), 0, 8),
        prompt_uniforms(0, (1, 2, 4), 0, 8),
        prompt_uniforms(0, (1, 2, 3), 1, 8),
    ):
        assert not torch.equal(base, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens must be an integer >= 0"),
        ({"max_new_tokens": 2.0}, "max_new_tokens must be an integer"),
        ({"max_new_tokens": True}, "max_new_tokens must be an integer"),
        ({"max_new_tokens": 2, "temperature": 0.5}, "no effect in greedy decoding: add do_sample=True"),
        ({"max_new_tokens": 2, "do_sample": True, "temperature": 0.0}, "temperature must be a finite number > 0"),
        ({"max_new_tokens": 2, "do_sample": True, "temperature": float("nan")}, "temperature must be a finite"),
        ({"max_new_tokens": 2, "do_sample": True, "top_p": 1.5}, "top_p must be at most 1"),
        ({"max_new_tokens": 2, "do_sample": True, "top_k": -1}, "top_k must be an integer >= 0"),
        ({"max_new_tokens": 2, "do_sample": 1}, "do_sample must be True or False"),
        ({"max_new_tokens": 2, "seed": "a"}, "seed must be an integer"),
        ({"max_new_tokens": 2, "num_samples": 2}, "are all the same: add do_sample=True"),
        ({"max_new_tokens": 2, "repetition_penalty": 1e-9}, "repetition_penalty must be between 0.01 and 100"),
        ({"max_new_tokens": 2, "repetition_penalty": 0}, "repetition_penalty must be a finite number > 0"),
    ],
)
def test_bad_sampling_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("slots", [0, -1, 1.5, True])
def test_bad_slots(slots: Any) -> None:
    with pytest.raises(ValueError, match="slots must be an integer >= 1"):
        build(slots=slots)
