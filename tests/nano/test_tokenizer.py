from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from grace_st import DEFAULT_SYSTEM_PROMPT
from grace_train.nano.corpus import Corpus
from grace_train.nano.prompt import HEAD, TAIL, template_ids, text_ids
from grace_train.nano.tokenizer import EOS_TOKEN, PAD_TOKEN, TURN_START_TOKEN, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """A small tokenizer, trained as the real one is."""
    return train_tokenizer(corpus, vocab_size=800, samples=1000)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_survives_the_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    (ids,) = text_ids(tokenizer, [text])
    assert tokenizer.decode(ids) == text


@given(text=st.text(max_size=20), special=st.sampled_from([EOS_TOKEN, PAD_TOKEN, TURN_START_TOKEN]))
def test_special_tokens_in_texts_stay_text(tokenizer: PreTrainedTokenizerFast, text: str, special: str) -> None:
    (ids,) = text_ids(tokenizer, [text + special + text])
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text + special + text


def test_the_chat_template_renders_the_training_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "system", "content": DEFAULT_SYSTEM_PROMPT}, {"role": "user", "content": "Paris"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == f"{HEAD}Paris{TAIL}"


def test_special_tokens_are_single_tokens_of_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    head, tail = template_ids(tokenizer)
    assert head[0] == tokenizer.convert_tokens_to_ids(TURN_START_TOKEN)
    assert tail[0] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids(EOS_TOKEN)
    assert tokenizer.pad_token_id not in head + tail
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, head[0]}) == 3


def test_the_same_corpus_gives_the_same_tokenizer(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    again = train_tokenizer(corpus, vocab_size=800, samples=1000)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_saving_keeps_it_whole(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    loaded = PreTrainedTokenizerFast.from_pretrained(folder)
    assert template_ids(loaded) == template_ids(tokenizer)
    assert text_ids(loaded, ["Zürich \u2603 <|im_end|>"]) == text_ids(tokenizer, ["Zürich \u2603 <|im_end|>"])
    assert loaded.chat_template == tokenizer.chat_template


def test_a_vocabulary_without_room_for_the_bytes_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="at least 259"):
        train_tokenizer(corpus, vocab_size=200)
