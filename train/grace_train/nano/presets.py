"""What ``python -m grace_train.nano`` can make: sizes, corpora, and what the result is called."""

from __future__ import annotations

from dataclasses import dataclass, field

from grace_train.nano.pretrain import PretrainConfig

_DEMONSTRATION = (
    "**A demonstration model, not a useful embedder:** it knows one small knowledge base of facts. It was trained from "
    "scratch on texts about them, without reinforcement learning."
)
_REAL_TEXT = (
    "**A model for experiments, not a useful embedder:** it was trained from scratch on MedQuAD, SNIPS and WikiText-2, "
    "with rationales that were written from their labels, without reinforcement learning."
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One model that can be made.

    Attributes:
        model_name: Of the model folder.
        notice: First paragraph of its README.
        real_text: Trained on real texts (a folder is needed), not on the bundled knowledge base.
        training: Settings of training, the architecture among them.
        vocab_size: Entries of the tokenizer.
        tokenizer_samples: How many samples it is learnt from.
        max_seq_length: Tokens of a prompt that are accepted, the head included.
        max_new_tokens: Default budget of a rationale.
    """

    model_name: str
    notice: str
    real_text: bool = False
    training: PretrainConfig = field(default_factory=PretrainConfig)
    vocab_size: int = 3000
    tokenizer_samples: int = 40_000
    max_seq_length: int = 320
    max_new_tokens: int = 112


PRESETS = {
    "nano": Preset(model_name="grace-nano", notice=_DEMONSTRATION),
    # As small as nano, so that two CPU cores can train it and then run experiments on it.
    "nano-text": Preset(
        model_name="grace-nano-text",
        notice=_REAL_TEXT,
        real_text=True,
        training=PretrainConfig(steps=1500, warmup_steps=100),
        vocab_size=6000,
        max_new_tokens=64,
    ),
    # 30 million parameters, for a GPU.
    "micro": Preset(
        model_name="grace-micro",
        notice=_REAL_TEXT,
        real_text=True,
        training=PretrainConfig(
            steps=12_000,
            batch_size=64,
            learning_rate=1e-3,
            warmup_steps=500,
            hidden_size=512,
            layers=9,
            heads=8,
            kv_heads=4,
            intermediate_size=1408,
        ),
        vocab_size=8000,
        max_new_tokens=64,
    ),
}
