"""What users really pass: wrong types, odd and enormous texts, interruptions, threads."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

import grace_st
from grace_st.engines.torch_engine import WINDOW
from grace_st.truncation import TruncationLog
from tests import tiny
from tests.conftest import GraceFolder

WRONG = [None, 3, 2.5, ("a", "b"), ["a", "b"], {"text": "a"}, b"a", np.zeros(2)]
ODD = [
    *("", " ", "\n\t", "a\x00b", "\ud800", "x\udfff y", "e\u0301" * 5, "\u202eabc", "\ufeff"),
    *("שלום עולם", "مرحبا بالعالم", "👩‍👩‍👧‍👦 🏳️‍🌈"),
]
LONG = "word " * 100  # longer than the 128 tokens that prompts may have


@pytest.fixture(scope="module")
def folder(grace_folder: GraceFolder) -> Path:
    return grace_folder("qwen2", max_new_tokens=6)


@pytest.fixture(scope="module")
def model(folder: Path) -> grace_st.GraceModel:
    return grace_st.load(folder, device="cpu")


@pytest.fixture(scope="module")
def stock(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


# ------------------------------------------------------------------ wrong types


@pytest.mark.parametrize("value", WRONG, ids=lambda value: type(value).__name__)
def test_what_is_not_a_text_is_refused_before_work_starts(
    model: grace_st.GraceModel, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setattr(model[0], "rollouts", lambda *_a, **_k: pytest.fail("started to work"))
    for call in (model.encode, model.encode_query, model.encode_document, model.encode_with_rationales):
        with pytest.raises(ValueError, match=f"text 2 must be a string, got {type(value).__name__}"):
            call(["fine", "a text that is longer", value])


@pytest.mark.parametrize("value", WRONG, ids=lambda value: type(value).__name__)
def test_the_stock_class_says_what_was_wrong(stock: SentenceTransformer, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"string, got {type(value).__name__}|upported modalit"):
        stock.encode(["fine", value])


@pytest.mark.parametrize(
    "value", [None, 3, 2.5, b"a", {"text": "a"}, iter(["a"])], ids=lambda value: type(value).__name__
)
def test_what_is_no_collection_of_texts(model: grace_st.GraceModel, stock: SentenceTransformer, value: Any) -> None:
    for one in (model, stock):
        with pytest.raises(ValueError, match=r"must be a string, got|upported modalit"):
            one.encode(value)


def test_numpy_strings_are_strings(model: grace_st.GraceModel, stock: SentenceTransformer) -> None:
    expected = model.encode(["cats", "dogs"])
    for texts in (np.array(["cats", "dogs"]), [np.str_("cats"), np.str_("dogs")], ("cats", "dogs")):
        np.testing.assert_allclose(model.encode(texts), expected, atol=1e-5)
        np.testing.assert_allclose(stock.encode(texts), expected, atol=1e-5)
        got = [encoding.embedding for encoding in model.encode_with_rationales(texts)]
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_generator_of_texts_with_rationales(model: grace_st.GraceModel) -> None:
    assert len(model.encode_with_rationales(text for text in ["a", "b"])) == 2  # type: ignore[arg-type]


# ------------------------------------------------------------------ odd texts


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_odd_texts_have_vectors_and_rationales(model: grace_st.GraceModel, text: str) -> None:
    (encoding,) = model.encode_with_rationales([text])
    assert encoding.embedding.shape == (32,) and np.isfinite(encoding.embedding).all()
    assert len(encoding.rationale_ids) > 0
    np.testing.assert_allclose(model.encode(["other", text, "cats"])[1], encoding.embedding, atol=1e-5)


def test_blank_texts_are_texts_of_their_own(model: grace_st.GraceModel) -> None:
    empty, blank, lines = model.encode(["", " ", "\n"])
    assert np.abs(empty - blank).max() > 1e-3 and np.abs(blank - lines).max() > 1e-3


def test_a_lone_surrogate_reads_as_the_replacement_character(model: grace_st.GraceModel) -> None:
    lone, replaced = model.encode(["a\ud800b", "a\ufffdb"])
    np.testing.assert_allclose(lone, replaced, atol=1e-6)


# Surrogates included, which st.text() leaves out.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)


@settings(deadline=None, max_examples=30)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=5))
def test_any_unicode_gives_finite_vectors_that_do_not_depend_on_neighbours(
    model: grace_st.GraceModel, texts: list[str]
) -> None:
    together = model.encode(texts, max_new_tokens=3)
    assert together.shape == (len(texts), 32) and np.isfinite(together).all()
    backwards = model.encode(texts[::-1], max_new_tokens=3, batch_size=2)[::-1]
    np.testing.assert_allclose(backwards, together, atol=1e-5)
    np.testing.assert_allclose(model.encode(texts[0], max_new_tokens=3), together[0], atol=1e-5)


# ------------------------------------------------------------------ long texts


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "did not fit" in record.getMessage()]


def test_a_million_characters_are_cut_with_one_warning(
    model: grace_st.GraceModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="grace_st"):
        enormous = model.encode(["word " * 200_000, "short"])
    assert _warnings(caplog) == [
        "1 of 2 texts did not fit into max_seq_length=128 tokens together with the template and were cut at their end"
    ]
    np.testing.assert_allclose(enormous, model.encode([LONG, "short"]), atol=1e-5)


def test_one_warning_counts_the_texts_of_all_batches(
    model: grace_st.GraceModel, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [LONG + str(number) for number in range(5)] + ["a", "b", "c"]
    with caplog.at_level(logging.WARNING, logger="grace_st"):
        for call in (model.encode, model.encode_query, model.encode_document):
            call(texts, batch_size=2)
        encodings = model.encode_with_rationales(texts)
        model.encode(["short"])
    assert len(_warnings(caplog)) == 4
    assert all(message.startswith("5 of 8 texts") for message in _warnings(caplog))
    assert [encoding.truncated for encoding in encodings] == [True] * 5 + [False] * 3


def test_the_stock_class_does_not_warn_for_every_batch(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It cannot know where a call ends, so it warns at the 1st, the 10th, the 100th ... text."""
    stock = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    with caplog.at_level(logging.WARNING, logger="grace_st"):
        stock.encode([LONG] * 12, batch_size=1, max_new_tokens=0)
    assert [message.split(" did")[0] for message in _warnings(caplog)] == ["1 of 1 texts", "10 of 10 texts"]


def test_a_batch_that_jumps_over_a_power_of_ten_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    log = TruncationLog()
    with caplog.at_level(logging.WARNING, logger="grace_st"):
        for truncated in (0, 500, 499, 1):
            log.report(1000, truncated, 128)
    assert [message.split(" did")[0] for message in _warnings(caplog)] == ["500 of 2000 texts", "1000 of 4000 texts"]


def test_threads_count_their_own_texts(model: grace_st.GraceModel, caplog: pytest.LogCaptureFixture) -> None:
    def encode(count: int) -> None:
        model.encode([LONG] * count, max_new_tokens=0)

    with caplog.at_level(logging.WARNING, logger="grace_st"):
        _in_threads([lambda count=count: encode(count) for count in (1, 2, 3)])
    assert sorted(message[:6] for message in _warnings(caplog)) == ["1 of 1", "2 of 2", "3 of 3"]


# ------------------------------------------------------------------ many texts


def test_more_texts_than_a_window(model: grace_st.GraceModel) -> None:
    """The windows of a call are put together in order."""
    texts = [f"{number % 7} " * (number % 5 + 1) for number in range(WINDOW + 50)]
    encodings = model.encode_with_rationales(texts, max_new_tokens=1)
    few = {text: encoding.embedding for text, encoding in zip(texts[:35], encodings[:35], strict=True)}
    for text, encoding in zip(texts, encodings, strict=True):
        np.testing.assert_allclose(encoding.embedding, few[text], atol=1e-5)


MEMORY = """
import resource, sys
import grace_st
from grace_st.engines.torch_engine import WINDOW
model = grace_st.load(sys.argv[1], device="cpu")
def encode(count):
    vectors = model.encode([f"text {number % 50}" for number in range(count)], max_new_tokens=1)
    assert vectors.shape == (count, 32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
few, many = 3 * WINDOW, int(sys.argv[2])
before = encode(few)
print((encode(many) - before) / (many - few))
"""


@pytest.mark.parametrize("count", [40_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_memory_is_flat(folder: Path, count: int) -> None:
    """Beyond text and vector (about 250 bytes here), each further text costs what sentence-transformers keeps of it."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder), str(count)], capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1500  # a prompt of 90 tokens kept as Python integers would be 3,000


# ------------------------------------------------------------------ interruption


def test_an_interrupted_model_goes_on(model: grace_st.GraceModel) -> None:
    expected = model.encode(tiny.TEXTS)
    calls = 0

    def interrupt(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt

    handle = model[0].model.get_decoder().register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.encode(tiny.TEXTS)
    handle.remove()
    assert np.array_equal(model.encode(tiny.TEXTS), expected)
    _in_threads([lambda: model.encode(["another thread may encode now"])])


POOL = """
import signal, sys
import grace_st
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    model = grace_st.load(sys.argv[1], device="cpu")
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    model.encode(["warm"] * 8, pool=pool, chunk_size=4)
    print("ready", flush=True)
    model.encode([f"text {n}" for n in range(100_000)], pool=pool, chunk_size=5000, batch_size=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
def test_an_interrupted_pool_leaves_no_process(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "pool.py"
    program.write_text(POOL)
    process = subprocess.Popen(
        [sys.executable, str(program), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(1)  # the workers compute, and more work waits than a pipe holds
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        assert process.wait(timeout=60) != 0
        deadline = time.monotonic() + 30
        while _group_lives(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _group_lives(process.pid)
    finally:
        if _group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# ------------------------------------------------------------------ threads


def test_threads_share_a_model(model: grace_st.GraceModel) -> None:
    """Different texts, prompts and options at once: each gets what it would get alone."""
    calls: list[Callable[[], np.ndarray]] = [
        lambda: model.encode(tiny.TEXTS),
        lambda: model.encode(tiny.TEXTS[::-1], batch_size=2),
        lambda: model.encode(["<|im_end|> covid19", *tiny.TEXTS[:3]], prompt="Find: "),
        lambda: model.encode(tiny.TEXTS, do_sample=True, seed=7),
        lambda: model.encode(tiny.TEXTS, max_new_tokens=0),
        lambda: np.stack([encoding.embedding for encoding in model.encode_with_rationales(tiny.TEXTS[4:])]),
    ]
    alone = [call() for call in calls]
    results = _in_threads(calls)
    for expected, got in zip(alone, results, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def _in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []

    def run(place: int) -> None:
        try:
            results[place] = calls[place]()
        except BaseException as error:  # shown below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not errors and not any(thread.is_alive() for thread in threads), errors
    return results
