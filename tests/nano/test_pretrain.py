from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast

from grace_train.nano.corpus import Corpus, Sample
from grace_train.nano.pretrain import (
    BatchSource,
    PretrainConfig,
    build_model,
    learning_rate,
    pretrain,
    shared_head_states,
    weighted_loss,
)
from grace_train.nano.prompt import template_ids, text_ids
from grace_train.nano.tokenizer import train_tokenizer

TINY = {
    "batch_size": 4,
    "hidden_size": 16,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "intermediate_size": 32,
    "warmup_steps": 2,
    "chunk_batches": 2,
    "log_every": 1,
}


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """A small tokenizer, trained as the real one is."""
    return train_tokenizer(corpus, vocab_size=600, samples=500)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_resumed_run_ends_with_exactly_the_same_weights(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, bf16: bool
) -> None:
    config = PretrainConfig(steps=3, checkpoint_every=1, bf16=bf16, **TINY)
    whole = pretrain(corpus, tokenizer, tmp_path / "whole", config)
    pretrain(corpus, tokenizer, tmp_path / "parts", config, stop_after=1)
    resumed = pretrain(corpus, tokenizer, tmp_path / "parts", config, resume=True)
    start = build_model(tokenizer, config)
    for (name, expected), actual, initial in zip(
        whole.named_parameters(), resumed.parameters(), start.parameters(), strict=True
    ):
        assert torch.equal(expected, actual), name
        if "norm" not in name and "bias" not in name:
            assert not torch.equal(expected, initial), name
    lines = [json.loads(line) for line in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert not list((tmp_path / "parts").glob("*.tmp"))


class OtherTexts:
    """A corpus of other texts than this one."""

    vague = True

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def samples(self, count: int, seed: str | int) -> Iterator[Sample]:
        return self._corpus.samples(count, f"other/{seed}")


def test_resuming_what_does_not_exist_or_differs_is_refused(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = PretrainConfig(steps=1, **TINY)
    with pytest.raises(FileNotFoundError, match="Nothing to resume"):
        pretrain(corpus, tokenizer, tmp_path, config, resume=True)
    pretrain(corpus, tokenizer, tmp_path, config)
    with pytest.raises(ValueError, match="other texts or another tokenizer"):
        pretrain(OtherTexts(corpus), tokenizer, tmp_path, config, resume=True)
    with pytest.raises(ValueError, match=r"other settings \(learning_rate\)"):
        changed = PretrainConfig(steps=1, learning_rate=1e-4, **TINY)
        pretrain(corpus, tokenizer, tmp_path, changed, resume=True)
    with pytest.raises(ValueError, match="vague is False in the settings and True in the corpus"):
        pretrain(corpus, tokenizer, tmp_path, PretrainConfig(steps=1, vague=False, **TINY), resume=True)


def test_sharing_the_head_gives_the_states_and_gradients_of_full_sequences(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = PretrainConfig(steps=1, bf16=False, **TINY)
    model = build_model(tokenizer, config)
    head = torch.tensor(template_ids(tokenizer)[0])
    batch = next(BatchSource(corpus, tokenizer, config).batches(0, 1))

    loss, _ = weighted_loss(model, head, batch)
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()

    full = torch.cat([head.expand(len(batch.ids), -1), batch.ids], dim=1)
    states = model.model(input_ids=full, use_cache=False).last_hidden_state[:, len(head) - 1 :]
    torch.testing.assert_close(shared_head_states(model, head, batch.ids), states, rtol=0, atol=1e-5)
    losses = F.cross_entropy(model.lm_head(states[:, :-1]).transpose(1, 2), batch.ids, reduction="none")
    expected = (losses * batch.weights).sum() / batch.weights.sum()
    torch.testing.assert_close(loss, expected)
    expected.backward()
    for actual, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(actual, parameter.grad, rtol=1e-4, atol=1e-6)


def test_batches_are_prompts_as_the_encoder_builds_them(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    config = PretrainConfig(steps=4, **TINY)
    _, tail = template_ids(tokenizer)
    samples = list(corpus.samples(8, "pretrain/0/0"))
    expected = {
        (*text_ids(tokenizer, [s.text])[0], *tail, *text_ids(tokenizer, [s.rationale])[0], tokenizer.eos_token_id)
        for s in samples
    }
    batches = list(BatchSource(corpus, tokenizer, config).batches(0, 2))
    rows = [row for batch in batches for row in batch.ids.tolist()]
    weights = [row for batch in batches for row in batch.weights.tolist()]
    seen = set()
    for row, weight in zip(rows, weights, strict=True):
        length = max(index for index, value in enumerate(weight) if value > 0) + 1
        seen.add(tuple(row[:length]))
        assert row[length - 1] == tokenizer.eos_token_id
        assert weight[:length].count(0.0) == len(tail)
    assert seen == expected


def test_a_batch_depends_on_the_step_alone(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    source = BatchSource(corpus, tokenizer, PretrainConfig(steps=6, **TINY))
    together = list(source.batches(0, 6))
    for step in (0, 3, 5):
        (alone,) = source.batches(step, step + 1)
        assert torch.equal(alone.ids, together[step].ids)


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = PretrainConfig(steps=100, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(10, config) == pytest.approx(1.0)
    assert learning_rate(99, config) < 0.02


@pytest.mark.parametrize(("change", "message"), [({"steps": 0}, "steps must be"), ({"heads": 3}, "multiple of heads")])
def test_impossible_settings_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainConfig(**change)
