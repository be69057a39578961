"""Forward passes of a causal LM: what to feed, which hidden states come back, and the logits when they are wanted."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel

from grace_st.config import Pooling
from grace_st.engines import kv_cache

FEED_TOKENS = 16384
"""Tokens of one forward pass over prompts, padding included: bounds the memory of its activations."""


def context_length(config: PreTrainedConfig) -> int | None:
    """The longest sequence, in tokens, whose states depend on nothing but itself; None without a limit.

    Models with "longrope" positions (Phi-3 with 128 k) compute a whole batch with other frequencies once one of its
    rows is longer than the original context. Then a text's vector would depend on its neighbours, so the original
    context is their limit here.
    """
    text_config = config.get_text_config(decoder=True)
    # Not from `to_dict`: older configs have another name for it, which only attribute access maps.
    limits = [getattr(text_config, "max_position_embeddings", None)]
    rope = getattr(text_config, "rope_parameters", None) or {}
    for entry in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if entry.get("rope_type") == "longrope":
            limits.append(entry.get("original_max_position_embeddings"))
            limits.append(getattr(text_config, "original_max_position_embeddings", None))
    return min((int(limit) for limit in limits if limit), default=None)


class CausalForward:
    """A causal LM as the engine sees it. Knows nothing about prompts, sampling or rows.

    Args:
        model: A causal LM with a standard key/value cache.
        pooling: Decides which layer's hidden states are returned.
        pad_token_id: Fills unused positions.

    Attributes:
        can_repack: Whether rows of the cache can be selected, joined and aligned.

    Raises:
        ValueError: The model keeps no key/value cache.
    """

    def __init__(self, model: PreTrainedModel, pooling: Pooling, pad_token_id: int) -> None:
        self.model = model
        self.pooling: Pooling = pooling
        self.pad_token_id = pad_token_id
        self.text_config = model.config.get_text_config(decoder=True)
        self.decoder = model.get_decoder()
        accepted = inspect.signature(self.decoder.forward).parameters
        # transformers has renamed it: from 5.24 on models take ``cache``.
        names = [name for name in ("cache", "past_key_values") if name in accepted]
        if not names:
            raise ValueError(
                f"{type(model).__name__} keeps no key/value cache (past_key_values), which one-pass encoding needs: "
                "choose an attention-based or hybrid causal LM"
            )
        self._cache_name = names[0]
        self._takes_positions = "position_ids" in accepted
        self.can_repack = kv_cache.can_repack(model.config)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.model.device

    @property
    def hidden_size(self) -> int:
        """``d`` of the hidden states."""
        return int(self.text_config.hidden_size)

    @property
    def vocabulary_size(self) -> int:
        """How many token ids have an embedding."""
        embedding: Any = self.model.get_input_embeddings()
        return int(embedding.weight.shape[0])

    @property
    def cache_bytes_per_token(self) -> int:
        """Memory of the keys and values of one token, as far as the config tells: an estimate."""
        config = self.text_config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or self.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * width * self.model.dtype.itemsize)

    @property
    def context_length(self) -> int | None:
        """See `context_length`."""
        return context_length(self.model.config)

    def feed(
        self,
        ids: Tensor,
        mask: Tensor,
        first_position: Tensor | int,
        cache: Cache | None,
        *,
        want_logits: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """One forward pass over ``ids`` behind what is cached.

        Args:
            ids: ``[B, T]`` token ids.
            mask: ``[B, L + T]`` bool, True for real tokens among the cached and the fed.
            first_position: Position of the first fed token, one for all rows or ``[B]``.
            cache: Extended in place; None keeps nothing.
            want_logits: Also return the logits of the last fed token.

        Returns:
            The states to pool, ``[B, T, d]``, and ``[B, V]`` float32 logits or None.
        """
        steps = torch.arange(ids.shape[1], device=ids.device)
        start = torch.as_tensor(first_position, device=ids.device).reshape(-1, 1)
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask.long(),
            self._cache_name: cache,
            "use_cache": cache is not None,
            "return_dict": True,
            "output_hidden_states": self.pooling == "mean_penultimate",
        }
        if self._takes_positions:
            inputs["position_ids"] = (start + steps).expand(ids.shape[0], -1)
        if not want_logits:
            return self._states(self.decoder(**inputs)).to(ids.device), None
        # The logits come from the model's own forward, since heads differ (scaling, soft-capping); the states
        # are caught on the way.
        outputs: list[Any] = []
        handle = self.decoder.register_forward_hook(lambda _module, _args, output: outputs.append(output))
        try:
            logits = self.model(**inputs).logits[:, -1]
        finally:
            handle.remove()
        return self._states(outputs[-1]).to(ids.device), logits.to(ids.device).float()

    def _states(self, output: Any) -> Tensor:
        if self.pooling == "mean_penultimate":
            # Index 0 is the embeddings, so this is what the last decoder layer receives.
            return output.hidden_states[self.text_config.num_hidden_layers - 1]
        return output.last_hidden_state

    def right_padded(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids ``[B, T]`` padded on the right, and lengths ``[B]``."""
        width = max(len(sequence) for sequence in sequences)
        ids = torch.full((len(sequences), width), self.pad_token_id, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        return ids.to(self.device), torch.tensor([len(sequence) for sequence in sequences], device=self.device)

    def new_cache(self) -> Cache:
        """An empty cache."""
        return kv_cache.GrowingCache() if self.can_repack else DynamicCache(config=self.text_config)
