"""The worker's part, without vLLM: steps as its scheduler makes them, of any mixture."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_st.engines.vllm.sums import RunningTable
from grace_st.engines.vllm.worker import PoolingWorker, RequestPool, SequencePool
from grace_st.pooling import pool

DIMENSION = 3


@dataclass
class Request:
    """A request: how many tokens it has, and how far they are computed."""

    name: str
    length: int
    start: int
    computed: int = 0
    ended: bool = field(default=False)

    def state(self, position: int) -> list[float]:
        return np.sin(np.arange(1, DIMENSION + 1) * (position + 1) * (int(self.name) + 1)).tolist()


class Runner:
    """What of vLLM's model runner is looked at."""

    def __init__(self) -> None:
        self.query_start_loc = SimpleNamespace(np=np.zeros(100, dtype=np.int32))
        self.input_batch = SimpleNamespace(req_ids=[], num_computed_tokens_cpu=np.zeros(100, dtype=np.int32))

    def step(self, pooled: RequestPool, work: list[tuple[Request, int]]) -> None:
        """Compute some tokens of some requests, padded behind."""
        rows: list[list[float]] = []
        self.input_batch.req_ids = [f"{request.name}-0a1b" for request, _ in work]
        for place, (request, count) in enumerate(work):
            self.input_batch.num_computed_tokens_cpu[place] = request.computed
            rows += [request.state(request.computed + index) for index in range(count)]
            self.query_start_loc.np[place + 1] = len(rows)
            request.computed += count
        with torch.inference_mode():  # as vLLM's steps are
            states = torch.tensor([*rows, *[[float("nan")] * DIMENSION] * 3])
            pooled.step(states, None, positions=None)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), pooling=st.sampled_from(["mean", "max", "last"]))
def test_any_schedule_gives_the_vectors_of_whole_sequences(data: Any, pooling: str) -> None:
    """Prompts in pieces, texts put off and begun again, and a last step that should not have been."""
    runner = Runner()
    pooled = RequestPool(runner, RunningTable(pooling, DIMENSION, "cpu", rows=2))
    requests = [
        Request(str(number), length, data.draw(st.integers(0, length - 1)))
        for number, length in enumerate(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6)))
    ]
    pooled.expect([request.name for request in requests], [], [request.start for request in requests])
    waiting = list(requests)
    ended: list[Request] = []
    left_to_put_off = 3
    while waiting:
        chosen = data.draw(st.lists(st.sampled_from(waiting), min_size=1, max_size=3, unique_by=id))
        if left_to_put_off and data.draw(st.booleans()):
            left_to_put_off -= 1
            chosen[0].computed = 0  # put off: its cache is gone
        work = [(request, data.draw(st.integers(1, request.length - request.computed))) for request in chosen]
        runner.step(pooled, work)
        for request in chosen:
            if request.computed == request.length:
                waiting.remove(request)
                ended.append(request)
                if pooling != "last" or request.length - request.start > 1:
                    request.ended = data.draw(st.booleans())
                if request.ended:
                    runner.step(pooled, [(request, 1)])  # of the EOS, under way when it was seen
        if ended and data.draw(st.booleans()):
            _check(pooled, ended, pooling)
            late = ended[-1]
            runner.step(pooled, [(late, 1)])  # even after it was taken
            ended = []
    _check(pooled, ended, pooling)


def _check(pooled: RequestPool, ended: list[Request], pooling: Any) -> None:
    if not ended:
        return
    vectors, counts = pooled.take([one.name for one in ended], [one.length - one.start for one in ended])
    assert counts == [request.length - request.start for request in ended]
    for request, vector in zip(ended, vectors, strict=True):
        whole = torch.tensor([[request.state(position) for position in range(request.length)]])
        mask = torch.arange(request.length)[None] >= request.start
        wanted = pool(whole, mask, pooling)[0].numpy()
        got = vector / (request.length - request.start) if pooling == "mean" else vector
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_missing_states_are_counted() -> None:
    runner = Runner()
    pooled = RequestPool(runner, RunningTable("mean", DIMENSION, "cpu"))
    request = Request("7", 6, 2, computed=4)  # four come from a cache, and were never computed
    pooled.expect(["7"], [], [2])
    runner.step(pooled, [(request, 2)])
    assert pooled.take(["7"], [4])[1] == [2]


def test_what_is_left_is_forgotten_with_a_new_batch() -> None:
    runner = Runner()
    table = RunningTable("mean", DIMENSION, "cpu", rows=4)
    pooled = RequestPool(runner, table)
    for _ in range(10):
        pooled.expect(["0", "1"], [], [0, 0])
        runner.step(pooled, [(Request("0", 5, 0), 2), (Request("1", 5, 0), 1)])
        pooled.clear()
    assert len(table.count) == 4 and table.count.sum() == 0


def test_sequences_are_found_by_their_ids() -> None:
    pooled = SequencePool("mean")
    pooled.expect(["0", "1", "2", "3"], [[5, 6, 7], [5, 6, 7], [8], [9, 9]], [1, 2, 0, 0])
    states = torch.arange(12.0).reshape(6, 2)
    ids, positions = torch.tensor([5, 6, 7, 8, 9, 9]), torch.tensor([0, 1, 2, 0, 5, 6])  # the last two are padding
    pooled.step(states, input_ids=ids, positions=positions)
    vectors, counts = pooled.take(["0", "1", "2", "3"], [0] * 4)
    assert counts == [2, 1, 1, 0]
    np.testing.assert_array_equal(vectors[:3], [[2 + 4, 3 + 5], [4, 5], [6, 7]])


def test_a_worker_looks_around_the_forward_pass() -> None:
    class Model:
        pass

    class OldRunner(Runner):
        device = torch.device("cpu")
        model_config = SimpleNamespace(get_hidden_size=lambda: DIMENSION)

        def get_model(self) -> Model:
            return Model()

        def _model_forward(self, input_ids: Any, positions: Any) -> Any:
            return torch.ones(len(input_ids), DIMENSION), "something else"

    worker = PoolingWorker()
    runner = worker.model_runner = OldRunner()  # type: ignore[attr-defined]
    assert worker.grace_install("mean") == {"dimension": DIMENSION, "architecture": "Model", "cause": None}
    worker.grace_begin("sequences")
    worker.grace_expect(["0"], [[4, 2]], [0])
    output = runner._model_forward(input_ids=torch.tensor([4, 2]), positions=torch.tensor([0, 1]))
    assert output[1] == "something else"
    raw, counts = worker.grace_take(["0"], [2])
    assert counts == [2]
    np.testing.assert_array_equal(np.frombuffer(raw, np.float32), [2.0] * DIMENSION)
    worker.grace_begin(None)  # pools nothing
    runner._model_forward(input_ids=torch.tensor([4, 2]), positions=torch.tensor([0, 1]))
    del runner.input_batch
    assert worker.grace_install("mean")["cause"] == "OldRunner keeps no input_batch"


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="pooling must be one of mean, max, last"):
        RunningTable("mean_penultimate", 2, "cpu")
