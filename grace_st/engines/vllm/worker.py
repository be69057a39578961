"""What is added to vLLM's workers: it pools the hidden states that a step computes, before vLLM forgets them.

vLLM mixes this class into its own worker (``worker_extension_cls``), and calls its methods by name with
``collective_rpc``. Between a worker and its caller only numbers, strings and bytes travel.

Two ways to know whose a state is. `RequestPool` reads vLLM's own books of a step (``input_batch``,
``query_start_loc``), so it works in any step: prompts in pieces, texts that are put off and read again, tokens
generated beside prompts being read. `SequencePool` looks at nothing but the model's inputs, token ids and positions; it
needs each sequence whole in one step, and is the reference that the other one is checked with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grace_st.engines.vllm.sums import Ints, RunningTable


class PoolingWorker:
    """Methods of a vLLM worker. Their names must not be among its own."""

    def grace_install(self, pooling: str) -> dict[str, Any]:
        """Begin to look at what the model returns.

        Returns:
            ``dimension``, ``architecture``, and ``cause``: why `RequestPool` cannot work here, or None.
        """
        runner = self.model_runner  # type: ignore[attr-defined]
        dimension = int(runner.model_config.get_hidden_size())
        self.grace_pools: dict[str, Any] = {
            "requests": RequestPool(runner, RunningTable(pooling, dimension, runner.device)),
            "sequences": SequencePool(pooling),
        }
        self.grace_pool: Any = None
        cause = _missing(runner)
        if not hasattr(runner, "_model_forward"):
            raise RuntimeError(f"{type(runner).__name__} has no _model_forward, where hidden states could be taken")
        forward: Callable[..., Any] = runner._model_forward

        # Around the forward pass, not a hook inside of it: what is replayed from a CUDA graph runs no hooks.
        def looked_at(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            if self.grace_pool is not None:
                states = output[0] if isinstance(output, tuple) else output
                if isinstance(states, Tensor):
                    self.grace_pool.step(states, *args, **kwargs)
            return output

        runner._model_forward = looked_at
        return {"dimension": dimension, "architecture": type(runner.get_model()).__name__, "cause": cause}

    def grace_begin(self, pooled: str | None) -> None:
        """Forget everything, and pool as the next batch of requests needs it."""
        for pool in self.grace_pools.values():
            pool.clear()
        self.grace_pool = None if pooled is None else self.grace_pools[pooled]

    def grace_expect(self, names: list[str], ids: list[list[int]], starts: list[int]) -> None:
        """Announce requests."""
        self.grace_pool.expect(names, ids, starts)

    def grace_take(self, names: list[str], expected: list[int]) -> tuple[bytes, list[int]]:
        """``[len(names), d]`` float32 of finished requests, and how many states each has pooled (``expected``)."""
        values, counts = self.grace_pool.take(names, expected)
        return np.ascontiguousarray(values, dtype=np.float32).tobytes(), counts


def _missing(runner: Any) -> str | None:
    """What `RequestPool` needs and a model runner lacks."""
    batch = getattr(runner, "input_batch", None)
    if batch is None:
        return f"{type(runner).__name__} keeps no input_batch"
    for name in ("req_ids", "num_computed_tokens_cpu"):
        if not hasattr(batch, name):
            return f"{type(batch).__name__} keeps no {name}"
    if not hasattr(getattr(runner, "query_start_loc", None), "np"):
        return f"{type(runner).__name__} keeps no query_start_loc on the CPU"
    return None


def _own_name(request_id: str) -> str:
    # vLLM appends a hyphen and random digits.
    return request_id.split("-", 1)[0]


class RequestPool:
    """Pools by vLLM's requests.

    A position is pooled when it is first computed: a text that was put off (preempted) is computed again from its
    beginning, and then its positions are passed over up to where it was.
    """

    def __init__(self, runner: Any, table: RunningTable) -> None:
        self.runner = runner
        self.table = table
        self._nobody = table.new_row()  # for requests that are over, of which a last step was under way
        self._rows: dict[str, int] = {}
        self.clear()

    def clear(self) -> None:
        """Forget all requests."""
        if self._rows:
            left = list(self._rows.values())
            self.table.take(left, self.table.count[left])
        self._rows = {}
        self._starts: dict[str, int] = {}
        self._seen: Ints = np.zeros(len(self.table.count), dtype=np.int64)  # [R] positions below it are done
        self._begin: Ints = np.zeros_like(self._seen)  # [R] positions below it are not pooled
        self._step_ids: list[str] = []
        self._step_rows: Ints = np.zeros(0, dtype=np.int64)
        self._step_index: Tensor | None = None

    def expect(self, names: list[str], ids: list[list[int]], starts: list[int]) -> None:
        """Note where pooling begins in each request."""
        del ids
        self._starts.update(zip(names, starts, strict=True))

    def take(self, names: list[str], expected: list[int]) -> tuple[np.ndarray, list[int]]:
        """Vectors of finished requests, which are then forgotten."""
        rows = [self._rows.pop(name) for name in names]
        for name in names:
            del self._starts[name]
        self._step_ids = []  # a row may have another owner from now on
        values, counts = self.table.take(rows, np.array(expected, dtype=np.int64))
        return values, counts.tolist()

    def step(self, states: Tensor, *args: Any, **kwargs: Any) -> None:
        """Pool what one step computed: ``states`` is ``[T, d]``, padded behind."""
        del args, kwargs
        batch = self.runner.input_batch
        ids = batch.req_ids
        count = len(ids)
        bounds = self.runner.query_start_loc.np[: count + 1].astype(np.int64)
        computed = batch.num_computed_tokens_cpu[:count].astype(np.int64)
        if ids != self._step_ids:
            self._step_rows = np.array([self._row(_own_name(name)) for name in ids], dtype=np.int64)
            self._step_ids = list(ids)
            self._step_index = None
        rows = self._step_rows
        lengths = np.diff(bounds)
        ends = computed + lengths
        # What is new and inside the span.
        low = np.maximum(np.maximum(self._seen[rows], self._begin[rows]), computed)
        fresh = np.maximum(ends - low, 0)
        self._seen[rows] = np.maximum(self._seen[rows], ends)
        if int(bounds[-1]) == count and bool((fresh == 1).all()):
            if self._step_index is None:
                self._step_index = self.table.on_device(rows)
            self.table.add_one_each(states[:count], self._step_index, rows)
        else:
            self.table.add_spans(states, bounds[:-1] + (low - computed), fresh, rows)

    def _row(self, name: str) -> int:
        row = self._rows.get(name)
        if row is None and name not in self._starts:
            return self._nobody
        if row is None:
            row = self._rows[name] = self.table.new_row()
            if row >= len(self._seen):
                more = np.zeros(len(self.table.count) - len(self._seen), dtype=np.int64)
                self._seen = np.concatenate([self._seen, more])
                self._begin = np.concatenate([self._begin, more])
            self._seen[row] = 0
            self._begin[row] = self._starts[name]
        return row


class SequencePool:
    """Pools whole sequences, told apart by where positions begin again. A slow and simple way."""

    def __init__(self, pooling: str) -> None:
        self.pooling = pooling
        self.clear()

    def clear(self) -> None:
        """Forget all sequences."""
        self._wanted: dict[tuple[int, ...], set[int]] = {}
        self._of: dict[str, tuple[tuple[int, ...], int]] = {}
        self._found: dict[tuple[tuple[int, ...], int], Tensor] = {}

    def expect(self, names: list[str], ids: list[list[int]], starts: list[int]) -> None:
        """Note which sequences will come."""
        for name, sequence, start in zip(names, ids, starts, strict=True):
            key = tuple(sequence)
            self._of[name] = (key, start)
            self._wanted.setdefault(key, set()).add(start)

    def take(self, names: list[str], expected: list[int]) -> tuple[np.ndarray, list[int]]:
        """Vectors; a sequence that was not found in any step has pooled nothing."""
        del expected
        vectors, counts = [], []
        for name in names:
            key, start = self._of.pop(name)
            vector = self._found.get((key, start))
            counts.append(0 if vector is None else len(key) - start)
            vectors.append(None if vector is None else vector.cpu().numpy())
        width = next((len(vector) for vector in vectors if vector is not None), 0)
        return np.stack([np.zeros(width, np.float32) if vector is None else vector for vector in vectors]), counts

    def step(
        self,
        states: Tensor,
        input_ids: Tensor | None = None,
        positions: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Pool the sequences that one step read."""
        del args, kwargs
        if input_ids is None or positions is None:
            raise RuntimeError("vLLM runs this model on embeddings, so its sequences cannot be told apart")
        flat = positions[0] if positions.dim() == 2 else positions  # some models count in three dimensions
        tokens, places = torch.stack([input_ids.long(), flat.long()]).tolist()
        first = 0
        for index in range(1, len(tokens) + 1):
            if index < len(tokens) and places[index] == places[index - 1] + 1:
                continue
            if places[first] == 0:
                self._sequence(tuple(tokens[first:index]), states[first:index])
            first = index

    def _sequence(self, key: tuple[int, ...], states: Tensor) -> None:
        for start in self._wanted.get(key, ()):
            # What stands behind the step's own tokens may look like a sequence of an earlier step: the first counts.
            if (key, start) not in self._found:
                span = states[start:].float()
                self._found[key, start] = (
                    span.sum(dim=0)
                    if self.pooling == "mean"
                    else span.amax(dim=0)
                    if self.pooling == "max"
                    else span[-1].clone()
                )
