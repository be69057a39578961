"""The engine's side of the protocol, with a fake vLLM in a real process."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from grace_st.engines.base import NonFiniteVectorError, PromptTokens, Rollout, Sampling, rollout_seed
from grace_st.engines.vllm.errors import VllmDiedError, VllmMismatchError, VllmSilentError, VllmStartError
from grace_st.store import RationaleStore
from grace_st.store.generation import generate_with_store
from tests.children import in_child
from tests.vllm.conftest import MakeEngine
from tests.vllm.fake_host import next_id, states

STOPS = (3, 4)
PROMPTS = [
    PromptTokens(tuple((7 * index + place) % 50 for index in range(4 + place)), 2 + place % 3) for place in range(9)
]


def expected(prompt: PromptTokens, sampling: Sampling, sample: int = 0, pooling: str = "mean") -> Rollout:
    """Token by token, as the other engine counts: an EOS after a full budget is not seen."""
    seed = rollout_seed(sampling.seed, prompt.ids, sample) if sampling.do_sample else None
    ids: list[int] = []
    stop = None
    while len(ids) < sampling.max_new_tokens and stop is None:
        token = next_id(prompt.ids + tuple(ids), seed)
        stop, ids = (token, ids) if token in STOPS else (None, [*ids, token])
    fed = states(prompt.ids + tuple(ids))[prompt.pool_start :]
    vector = fed.mean(axis=0) if pooling == "mean" else fed.max(axis=0) if pooling == "max" else fed[-1]
    logprobs = tuple(-float(token) for token in [*ids, *([] if stop is None else [stop])])
    return Rollout(tuple(ids), stop, torch.from_numpy(vector), logprobs if sampling.logprobs else None)


def check(found: Sequence[Rollout], wanted: Sequence[Rollout]) -> None:
    assert [(one.ids, one.stop_id, one.logprobs) for one in found] == [
        (one.ids, one.stop_id, one.logprobs) for one in wanted
    ]
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.vector, two.vector, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("two_pass", [False, True])
def test_rollouts_are_those_of_the_definition(make: MakeEngine, two_pass: bool) -> None:
    engine = make(two_pass=two_pass)
    prompts = [*PROMPTS, PROMPTS[2], PROMPTS[0]]
    for sampling in (
        Sampling(max_new_tokens=12, logprobs=True),
        Sampling(max_new_tokens=1),
        Sampling(max_new_tokens=5, do_sample=True, num_samples=3, seed=11),
    ):
        wanted = [expected(prompt, sampling, sample) for prompt in prompts for sample in range(sampling.num_samples)]
        assert {rollout.finished for rollout in wanted} == {True, False} or sampling.max_new_tokens == 1
        told: dict[int, Rollout] = {}
        counted: list[int] = []

        def tell(place: int, rollout: Rollout, told: dict[int, Rollout] = told) -> None:
            assert place not in told
            told[place] = rollout

        found = engine.generate(prompts, sampling, progress=counted.append, on_rollout=tell)
        check(found, wanted)
        assert [told[place] for place in range(len(found))] == found
        assert sum(counted) == len(prompts)
    assert engine.mode == ("two_pass" if two_pass else "one_pass")


@pytest.mark.parametrize("pooling", ["max", "last"])
def test_other_poolings(make: MakeEngine, pooling: str) -> None:
    sampling = Sampling(max_new_tokens=6)
    wanted = [expected(prompt, sampling, pooling=pooling) for prompt in PROMPTS]
    check(make(pooling=pooling).generate(PROMPTS, sampling), wanted)


def test_given_rationales_and_no_budget(make: MakeEngine) -> None:
    engine = make()
    given = [(1, 2, 9)[: place % 4] for place in range(len(PROMPTS))]
    counted: list[int] = []
    found = engine.embed([*PROMPTS, PROMPTS[0]], [*given, given[0]], progress=counted.append)
    for prompt, ids, rollout in zip(PROMPTS, given, found, strict=False):
        assert rollout.ids == ids and rollout.stop_id is None
        vector = states(prompt.ids + ids)[prompt.pool_start :].mean(axis=0)
        np.testing.assert_allclose(rollout.vector, vector, atol=1e-5)
    assert sum(counted) == len(found) == len(PROMPTS) + 1
    nothing = engine.generate(PROMPTS[:2], Sampling(max_new_tokens=0, logprobs=True))
    assert [rollout.logprobs for rollout in nothing] == [(), ()]
    np.testing.assert_allclose(nothing[0].vector, states(PROMPTS[0].ids)[2:].mean(axis=0), atol=1e-5)
    assert engine.generate([], Sampling(max_new_tokens=3)) == []
    with pytest.raises(ValueError, match="got 1 prompts and 2 rationales"):
        engine.embed(PROMPTS[:1], [(), ()])


def test_what_does_not_fit_is_refused_and_vllm_goes_on(make: MakeEngine) -> None:
    engine = make(max_model_len=60)
    engine.start()
    pid = running(engine)
    with pytest.raises(ValueError, match=r"length of 60 tokens .* engine option max_model_len=66"):
        engine.generate([PROMPTS[2]], Sampling(max_new_tokens=60))
    with pytest.raises(ValueError, match="exceed the model's context of 100"):
        engine.generate([PROMPTS[2]], Sampling(max_new_tokens=200))
    with pytest.raises(ValueError, match="token id 50, but the model has embeddings for 0 to 49"):
        engine.generate([PromptTokens((50,), 0)], Sampling(max_new_tokens=2))
    engine.generate(PROMPTS, Sampling(max_new_tokens=2))
    assert running(engine) == pid


def test_a_vector_that_is_not_finite_names_its_prompt(make: MakeEngine) -> None:
    with pytest.raises(NonFiniteVectorError) as caught:
        make("nan").generate([*PROMPTS[:3], PROMPTS[0], *PROMPTS[3:]], Sampling(max_new_tokens=2))
    assert caught.value.index == 0


# ---------------------------------------------------------------- what goes wrong


def test_a_host_that_dies_keeps_what_is_finished(make: MakeEngine, tmp_path: Path) -> None:
    engine = make("die=5")
    sampling = Sampling(max_new_tokens=6)
    store = RationaleStore(tmp_path / "kept.sqlite")

    def encode() -> list[Rollout]:
        return generate_with_store(
            PROMPTS,
            sampling,
            generate=lambda some, progress, tell: engine.generate(some, sampling, progress=progress, on_rollout=tell),
            store=store,
            settings={"engine": "fake"},
            batch_size=None,
        )

    with pytest.raises(VllmDiedError, match=r"died with 5 of 9 rationales finished: it was killed \(SIGKILL\)"):
        encode()
    assert store.info().entries == 5
    found = encode()  # four are left: it starts again, and lives
    check(found, [expected(prompt, sampling) for prompt in PROMPTS])
    assert store.info().entries == 9


def test_the_cause_of_a_death_is_what_was_written_last(make: MakeEngine) -> None:
    with pytest.raises(VllmDiedError, match="RuntimeError: the disk has left"):
        make("die=2,said=1").generate(PROMPTS, Sampling(max_new_tokens=3))


def test_the_end_of_a_worker_is_noticed_where_vllm_does_not(make: MakeEngine) -> None:
    with pytest.raises(VllmDiedError, match=r"died with 2 of 9 rationales finished: it was killed \(SIGKILL\)"):
        make("die=2,worker=1", step_limit=60).generate(PROMPTS, Sampling(max_new_tokens=3))


def test_nothing_waits_without_a_limit(make: MakeEngine) -> None:
    with pytest.raises(VllmSilentError, match=r"no step for 1 seconds .*; 4 of 9 rationales were finished"):
        make("hang=4", step_limit=1).generate(PROMPTS, Sampling(max_new_tokens=3))
    with pytest.raises(VllmStartError, match="not started within start_limit=1 seconds"):
        make("never", start_limit=1).start()


def test_a_start_that_fails_says_why_and_what_to_do(make: MakeEngine, tmp_path: Path) -> None:
    with pytest.raises(VllmStartError) as caught:
        make("refuse").start()
    said = str(caught.value)
    assert said == (
        f"vLLM cannot be started with {tmp_path}: ValueError: Model architectures ['OddModel'] are not supported for "
        "now. (vLLM does not know this model: use engine='torch', or a newer vLLM)"
    )


def test_vectors_that_are_wrong_are_refused_at_the_start(make: MakeEngine) -> None:
    with pytest.raises(VllmMismatchError, match=r"vectors of vLLM 0.0 \(Fake, float32\) differ by 0.1 from"):
        make("wrong").start()
    make("wrong", two_pass=True).start()  # which does not look at them
    with pytest.raises(VllmMismatchError, match=r"it keeps other books\): use the engine option two_pass=true"):
        make("books").start()
    make("books", two_pass=True).start()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What shells start in the background ignores SIGINT, and so would these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_leaves_no_process(make: MakeEngine) -> None:
    mark = uuid.uuid4().hex
    engine = make(f"hang=4,children={mark}")
    engine.start()
    host = running(engine)
    assert len(alive(mark)) == 1

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def tell(place: int, rollout: Rollout) -> None:
        del rollout
        if place == 3:
            threading.Timer(0.2, interrupt).start()

    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS, Sampling(max_new_tokens=3), on_rollout=tell)
    assert wait_for_end(mark) and not exists(host)


def test_a_process_that_is_killed_takes_its_host_along(tmp_path: Path) -> None:
    """Nobody is left to end it: it notices by itself."""
    mark = uuid.uuid4().hex
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from grace_st.engines.vllm.process import HostProcess\n"
        "from grace_st.engines.vllm.messages import Start\n"
        "process = HostProcess([sys.executable, sys.argv[1]], {})\n"
        "process.send(Start(arguments={}, dtype=None, chunked_prefill=None, pooling='mean'))\n"
        "process.receive(60)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    host = str(Path(__file__).with_name("fake_host.py"))
    environment = {**os.environ, "FAKE_VLLM": f"children={mark}", "PYTHONPATH": os.pathsep.join(map(str, paths()))}
    ended = subprocess.run([sys.executable, "-c", script, host], env=environment, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert wait_for_end(mark)


def paths() -> list[Path]:
    root = Path(__file__).parents[2]
    return [root, root / "train", root / "evaluation"]


def test_it_cannot_be_copied_to_other_processes(make: MakeEngine) -> None:
    with pytest.raises(ValueError, match="tensor_parallel_size"):
        pickle.dumps(make())
    engine = make()
    engine.start()

    def use() -> None:
        with pytest.raises(ValueError, match="tensor_parallel_size"):
            engine.generate(PROMPTS, Sampling(max_new_tokens=2))

    assert in_child(use) == 0
    assert len(engine.generate(PROMPTS, Sampling(max_new_tokens=2))) == len(PROMPTS)


def running(engine: object) -> int:
    process = engine._session.process  # type: ignore[attr-defined]
    assert process is not None and process.is_running
    return int(process.pid)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def alive(mark: str) -> list[str]:
    listed = subprocess.run(["ps", "-eww", "-o", "stat=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if mark in line and not line.startswith("Z") and "ps -eww" not in line]


def wait_for_end(mark: str) -> bool:
    deadline = time.monotonic() + 10
    while alive(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
