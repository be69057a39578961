"""The vector of a prompt, with gradients: what `encode` gives with ``max_new_tokens=0``, made to be trained.

`GenerateThenPool` refuses gradients, since none flow through generation. Without a rationale there is nothing to
generate, and one forward pass over the prompt is all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from grace_st.config import CONFIG_NAME
from grace_st.engines.forward import CausalForward
from grace_st.pooling import pool
from grace_train.local.loading import set_dropout
from grace_train.local.policy import Policy
from grace_train.options import ConfigError


class PromptPooling(InputModule):
    """Pools the text and the template's tail of a policy's prompts; for the trainer of sentence-transformers.

    Args:
        policy: The model; its weights are trained in place.
    """

    config_file_name = CONFIG_NAME

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.model = policy.model  # registered, so that training mode and device reach it
        self.tokenizer = policy.module.tokenizer
        self._policy = policy
        self._module = [policy.module]  # in a list: its parameters are the model's
        self._config = policy.module.config
        self._forward = CausalForward(policy.model, self._config.pooling, self._config.pad_token_id)

    def get_embedding_dimension(self) -> int:
        """``d`` of the vectors."""
        return self._module[0].get_embedding_dimension()

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Texts to prompts, as `GenerateThenPool.preprocess`."""
        return self._module[0].preprocess(inputs, prompt, **kwargs)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Pool.

        Args:
            features: ``input_ids`` and ``attention_mask`` ``[B, L]``, padded on the right, and ``pool_start`` ``[B]``.
            kwargs: None that means anything.

        Returns:
            The features with ``sentence_embedding`` ``[B, d]`` float32.
        """
        del kwargs
        mask = features["attention_mask"].bool()
        last = mask.sum(dim=1) - 1
        start = last if self._config.pooling_span == "rationale" else torch.minimum(features["pool_start"], last)
        with self._policy.autocast():
            states, _ = self._forward.feed(features["input_ids"], mask, 0, None, want_logits=False)
        places = torch.arange(mask.shape[1], device=mask.device)
        features["sentence_embedding"] = pool(states, mask & (places >= start[:, None]), self._config.pooling)
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """As `GenerateThenPool.save`."""
        self._module[0].save(output_path, *args, safe_serialization=safe_serialization, **kwargs)


def turn_dropout_on(policy: Policy, rate: float) -> None:
    """Give the model's own dropouts a rate, as SimCSE needs.

    Qwen2, Llama and others have one, on attention weights, which their checkpoints set to 0.

    Args:
        policy: The model.
        rate: Above 0.

    Raises:
        ConfigError: The model has none, or its attention implementation ignores it: both vectors of a text would be
            the same, and nothing would be learnt from them.
    """
    pooling = PromptPooling(policy).train()
    places = set_dropout(policy.model, rate)
    vectors = []
    with torch.no_grad():
        for _ in range(2):
            features = pooling.preprocess(["Two vectors of one text."])
            on_device = {name: value.to(policy.device) for name, value in features.items()}
            vectors.append(pooling(on_device)["sentence_embedding"])
    policy.module.eval()
    if not places or torch.equal(vectors[0], vectors[1]):
        why = f"ignores that of its {places} layers that have one" if places else "has no dropout"
        raise ConfigError(
            f"method=simcse tells two vectors of one text apart by dropout, and {type(policy.model).__name__} {why}: "
            "use method=cl with pairs, or a model with dropout"
        )
