"""The tokenizer: a byte-level BPE trained on the corpus, with a token for every byte."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from grace_train.nano.pretrain import SampleSource
from grace_train.nano.prompt import CHAT_TEMPLATE, HEAD, TAIL

PAD_TOKEN = "<|endoftext|>"
TURN_START_TOKEN = "<|im_start|>"
EOS_TOKEN = "<|im_end|>"


def train_tokenizer(
    corpus: SampleSource,
    *,
    vocab_size: int = 3000,
    samples: int = 40_000,
    seed: int = 0,
    model_max_length: int = 1024,
) -> PreTrainedTokenizerFast:
    """Train the tokenizer.

    Args:
        corpus: where the text comes from.
        vocab_size: number of entries, the 256 bytes and 3 special tokens included.
        samples: how many corpus samples to learn the merges from.
        seed: chooses the samples.
        model_max_length: the context of the model, in tokens.

    Returns:
        A tokenizer with a ChatML chat template; EOS is ``<|im_end|>``, padding ``<|endoftext|>``.

    Raises:
        ValueError: ``vocab_size`` has no room for the bytes and special tokens.
    """
    special = [PAD_TOKEN, TURN_START_TOKEN, EOS_TOKEN]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + len(special):
        raise ValueError(f"vocab_size must be at least {len(alphabet) + len(special)}, got {vocab_size}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )

    lines = [
        part for sample in corpus.samples(samples, f"tokenizer/{seed}") for part in (sample.text, sample.rationale)
    ]
    # The template's own words come often enough to get tokens of their own: the head is in every prompt.
    template = HEAD + TAIL
    for token in special:
        template = template.replace(token, "\0")
    lines += template.split("\0") * (samples // 20)
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        additional_special_tokens=[TURN_START_TOKEN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )
