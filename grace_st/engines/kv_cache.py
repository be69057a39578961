"""Re-packing key/value caches: select rows, drop padding columns, join, align to the right.

All functions treat a cache of plain full layers ``[B, heads, L, head_dim]`` beside a mask ``[B, L]`` (True where
a real token is cached). Rows are aligned to the right and have no gaps, so distances between columns are distances
between tokens: sliding-window masks, which count columns, stay exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class _Layer(Protocol):
    """A cache layer once it holds something."""

    keys: Tensor
    values: Tensor


def can_repack(config: PreTrainedConfig) -> bool:
    """Whether a model of this config keeps a cache that the functions here can take apart.

    False for recurrent states, for layers that share caches, and for chunked attention, whose mask depends on
    absolute columns.
    """
    text_config = config.get_text_config(decoder=True)
    values = text_config.to_dict()
    if values.get("attention_chunk_size") or values.get("num_kv_shared_layers"):
        return False
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return all(type(layer) in plain for layer in DynamicCache(config=text_config).layers)


def replicate(cache: Cache, rows: int) -> DynamicCache:
    """A new cache of ``rows`` equal rows from one of a single row."""
    result = DynamicCache()
    for index, layer in enumerate(_layers(cache)):
        result.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index)
    return result


def _layers(cache: Cache) -> list[_Layer]:
    return cast("list[_Layer]", cache.layers)


def _change(cache: Cache, change: Callable[[Tensor], Tensor]) -> None:
    for layer in _layers(cache):
        layer.keys, layer.values = change(layer.keys), change(layer.values)


def select_rows(cache: Cache, rows: Tensor, trim: int = 0) -> None:
    """Keep some rows of a cache (``[R]`` indices, repeats allowed), without its first ``trim`` columns."""
    _change(cache, lambda states: states[:, :, trim:].index_select(0, rows.to(states.device)))


def leading_padding(mask: Tensor) -> int:
    """How many leading columns of ``[B, L]`` are padding in every row."""
    used = mask.any(dim=0)
    return int(used.int().argmax()) if bool(used.any()) else mask.shape[1]


def join(cache: Cache, mask: Tensor, other: Cache, other_mask: Tensor) -> Tensor:
    """Append another cache's rows to a cache, padding the shorter ones on the left.

    Returns:
        The mask ``[B1 + B2, max(L1, L2)]`` of the joined rows.
    """
    length = max(mask.shape[1], other_mask.shape[1])

    def appended(first: Tensor, second: Tensor) -> Tensor:
        parts = (F.pad(states, (0, 0, length - states.shape[2], 0)) for states in (first, second))
        return torch.cat(list(parts))

    for layer, other_layer in zip(_layers(cache), _layers(other), strict=True):
        layer.keys = appended(layer.keys, other_layer.keys)
        layer.values = appended(layer.values, other_layer.values)
    return torch.cat([F.pad(part, (length - part.shape[1], 0)) for part in (mask, other_mask)])


def align_right(cache: Cache, lengths: Tensor) -> Tensor:
    """Move padding from the end of each row to its start.

    Args:
        cache: Layers ``[B, heads, L, head_dim]`` whose row ``b`` holds real tokens in its first ``lengths[b]``
            columns. Afterwards rows are aligned to the right, with zeros before them.
        lengths: ``[B]`` int64.

    Returns:
        The mask ``[B, L]`` of the aligned rows.
    """
    total = cache.get_seq_length()
    source = torch.arange(total, device=lengths.device) - (total - lengths).unsqueeze(-1)
    mask = source >= 0
    if bool(mask.all()):
        return mask
    source = source.clamp(min=0)

    def shifted(states: Tensor) -> Tensor:
        index = source.to(states.device)[:, None, :, None].expand_as(states)
        return states.gather(2, index).masked_fill(~mask.to(states.device)[:, None, :, None], 0)

    _change(cache, shifted)
    return mask
