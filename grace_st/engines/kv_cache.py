"""A key/value cache that can be re-packed: replace rows, select rows, drop padding columns, join, align to the right.

All functions treat a cache of plain full layers ``[B, heads, L, head_dim]`` beside a mask ``[B, L]`` (True where
a real token is cached). Rows are aligned to the right and have no gaps, so distances between columns are distances
between tokens: sliding-window masks, which count columns, stay exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

SPARE_COLUMNS = 128
"""Room that a layer takes at once: everything cached is copied once in so many steps, not at each."""


class GrowingLayer(DynamicLayer):
    """A full layer with room behind its columns, so that a step writes one column and a refill writes the new rows.

    Its base class concatenates instead, which copies everything cached at every step. ``keys`` and ``values`` are what
    the base class has there, as views of larger stores.
    """

    keys: Tensor  # the base class has None here before the first update
    values: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A configuration, by position or by name as transformers has it, says nothing that a full layer needs.
        del args, kwargs
        super().__init__()
        self._stores: tuple[Tensor, Tensor] | None = None
        self._start = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns ``[B, heads, T, head_dim]``; returns all keys and values."""
        del args, kwargs
        length, new = self.get_seq_length(), key_states.shape[2]
        if length == 0:
            self.lazy_initialization(key_states, value_states)
            self.assign(key_states, value_states)
            return self.keys, self.values
        stores = self._stores
        if stores is None or self._start + length + new > stores[0].shape[2]:
            # More room only while decoding: what is fed in one piece is mostly copied elsewhere next.
            stores = self._move(new + SPARE_COLUMNS if new == 1 else new)
        end = self._start + length
        for store, states in zip(stores, (key_states, value_states), strict=True):
            store[:, :, end : end + new] = states
        self._show(length + new)
        return self.keys, self.values

    def assign(self, keys: Tensor, values: Tensor) -> None:
        """Hold other states. They are not written to, so they may belong to somebody else."""
        self.keys, self.values = keys, values
        self._stores, self._start = None, 0

    def drop_columns(self, count: int) -> None:
        """Forget the first columns, without a copy."""
        if self._stores is None:
            self.keys, self.values = self.keys[:, :, count:], self.values[:, :, count:]
        else:
            self._start += count
            self._show(self.keys.shape[2] - count)

    def write_rows(self, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Overwrite the last columns of some rows: indices ``[R]``, states ``[R, heads, T, head_dim]``."""
        if self._stores is None:
            self._move(SPARE_COLUMNS)
        first = self.keys.shape[2] - keys.shape[2]
        rows = rows.to(self.keys.device)
        self.keys[rows, :, first:] = keys
        self.values[rows, :, first:] = values

    def _move(self, room: int) -> tuple[Tensor, Tensor]:
        """Copy what is held into stores of our own with room for more columns."""
        length = self.keys.shape[2]

        def moved(states: Tensor) -> Tensor:
            rows, heads, _, width = states.shape
            store = states.new_empty(rows, heads, length + room, width)
            store[:, :, :length] = states
            return store

        self._stores, self._start = (moved(self.keys), moved(self.values)), 0
        self._show(length)
        return self._stores

    def _show(self, length: int) -> None:
        assert self._stores is not None
        window = slice(self._start, self._start + length)
        self.keys, self.values = (store[:, :, window] for store in self._stores)


class GrowingCache(DynamicCache):
    """A cache of `GrowingLayer`, made as they are first used.

    All layers keep everything, also those with a sliding window, whose mask does the rest: exact, and possible to
    re-pack.
    """

    def __init__(self) -> None:
        Cache.__init__(self, layer_class_to_replicate=GrowingLayer)


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


def replicate(cache: Cache, rows: int) -> GrowingCache:
    """A new cache of ``rows`` equal rows from one of a single row, without a copy."""
    result = GrowingCache()
    for index, layer in enumerate(_layers(cache)):
        result.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index)
    return result


def _layers(cache: Cache) -> list[GrowingLayer]:
    return cast("list[GrowingLayer]", cache.layers)


def _change(cache: Cache, change: Callable[[Tensor], Tensor]) -> None:
    for layer in _layers(cache):
        layer.assign(change(layer.keys), change(layer.values))


def select_rows(cache: Cache, rows: Tensor) -> None:
    """Keep some rows of a cache (``[R]`` indices, repeats allowed)."""
    _change(cache, lambda states: states.index_select(0, rows.to(states.device)))


def drop_leading_padding(cache: Cache, mask: Tensor) -> Tensor:
    """Drop the leading columns that are padding in every row.

    Returns:
        The mask without them.
    """
    used = mask.any(dim=0)
    count = int(used.int().argmax()) if bool(used.any()) else mask.shape[1]
    if count:
        for layer in _layers(cache):
            layer.drop_columns(count)
    return mask[:, count:]


def replace_rows(cache: Cache, mask: Tensor, rows: Tensor, other: Cache, other_mask: Tensor) -> Tensor:
    """Put another cache's rows in the place of some rows, in place: the other rows are not touched.

    Args:
        cache: Changed in place.
        mask: ``[B, L]``.
        rows: ``[R]`` indices of the rows to overwrite.
        other: ``R`` rows of at most ``L`` columns.
        other_mask: ``[R, L2]``.

    Returns:
        The mask ``[B, L]``.
    """
    for layer, new in zip(_layers(cache), _layers(other), strict=True):
        layer.write_rows(rows, new.keys, new.values)
    return mask.index_copy(0, rows, F.pad(other_mask, (mask.shape[1] - other_mask.shape[1], 0)))


def join(cache: Cache, mask: Tensor, other: Cache, other_mask: Tensor) -> Tensor:
    """Append another cache's rows to a cache, padding the shorter ones on the left.

    Returns:
        The mask ``[B1 + B2, max(L1, L2)]`` of the joined rows.
    """
    length = max(mask.shape[1], other_mask.shape[1])

    def appended(first: Tensor, second: Tensor) -> Tensor:
        parts = (F.pad(states, (0, 0, length - states.shape[2], 0)) for states in (first, second))
        return torch.cat(list(parts))

    for layer, new in zip(_layers(cache), _layers(other), strict=True):
        layer.assign(appended(layer.keys, new.keys), appended(layer.values, new.values))
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
