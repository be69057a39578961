"""The queue: turns, sharing, cancelling, limits."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace_st.engines.base import PromptTokens, Sampling
from grace_st.serve.batcher import Batcher, Ticket, Work
from grace_st.serve.errors import ApiError, BusyError, ShuttingDownError

GREEDY = Sampling(max_new_tokens=8)
SHORT = Sampling(max_new_tokens=2)


def prompts(text: str) -> list[PromptTokens]:
    """A prompt for each letter."""
    return [PromptTokens((ord(letter),), 0) for letter in text]


def letters(works: list[Work[str]] | None) -> str:
    assert works is not None
    return "".join(chr(work.prompt.ids[0]) for work in works)


def finish(queue: Batcher[str], works: list[Work[str]] | None) -> None:
    for work in works or ():
        queue.finish(work, chr(work.prompt.ids[0]).upper())


def compute_all(queue: Batcher[str], most: int = 3) -> None:
    while queue.waiting:
        finish(queue, queue.take(most))


async def test_answers_are_in_the_order_of_the_texts() -> None:
    queue: Batcher[str] = Batcher(100)
    ticket = queue.submit(prompts("edcba"), GREEDY)
    compute_all(queue)
    assert await ticket.wait() == list("EDCBA")


async def test_requests_take_turns() -> None:
    """One of many texts does not keep one of a single text waiting, and nobody is starved."""
    queue: Batcher[str] = Batcher(100)
    for text in ("abcdefg", "x", "mno"):
        queue.submit(prompts(text), GREEDY)
    assert [letters(queue.take(4)) for _ in range(3)] == ["axmb", "ncod", "efg"]


async def test_texts_that_are_sampled_alike_make_a_batch() -> None:
    queue: Batcher[str] = Batcher(100)
    for text, sampling in (("ab", GREEDY), ("xy", SHORT), ("cd", GREEDY)):
        queue.submit(prompts(text), sampling)
    batches = [queue.take(3) for _ in range(3)]
    assert [letters(batch) for batch in batches] == ["acb", "xy", "d"]
    assert all(len({work.sampling for work in batch or ()}) == 1 for batch in batches)


async def test_equal_texts_are_computed_once() -> None:
    """In a request, in two that wait, and in one that comes while the text is being computed."""
    queue: Batcher[str] = Batcher(100)
    first = queue.submit(prompts("aba"), GREEDY)
    second = queue.submit(prompts("bc"), GREEDY)
    works = queue.take(10)
    third = queue.submit(prompts("a"), GREEDY)
    other = queue.submit(prompts("a"), SHORT)
    assert letters(works) == "acb" and queue.waiting == 1
    finish(queue, works)
    assert [await ticket.wait() for ticket in (first, second, third)] == [["A", "B", "A"], ["B", "C"], ["A"]]
    assert [ticket.shared for ticket in (first, second, third, other)] == [0, 1, 1, 0]
    again = queue.submit(prompts("a"), GREEDY)
    assert again.shared == 0  # what is finished is not kept


async def test_a_request_that_is_cancelled_leaves() -> None:
    queue: Batcher[str] = Batcher(100)
    gone = queue.submit(prompts("abc"), GREEDY)
    stays = queue.submit(prompts("cd"), GREEDY)
    assert queue.cancel(gone) == 2  # c is waited for by another
    assert queue.waiting == 2
    works = queue.take(10)
    assert letters(works) == "cd"
    assert queue.cancel(gone) == 0
    finish(queue, works)
    assert await stays.wait() == ["C", "D"]


async def test_what_is_computed_for_nobody_harms_nobody() -> None:
    queue: Batcher[str] = Batcher(100)
    gone = queue.submit(prompts("a"), GREEDY)
    works = queue.take(10)
    queue.cancel(gone)
    later = queue.submit(prompts("a"), GREEDY)
    assert queue.waiting == 0  # it is at work still
    finish(queue, works)
    assert await later.wait() == ["A"]


async def test_a_queue_that_is_full_says_when_to_come_back() -> None:
    queue: Batcher[str] = Batcher(5)
    queue.submit(prompts("abcd"), GREEDY)
    with pytest.raises(BusyError, match="4 texts are waiting, and 2 more exceed the limit of 5") as caught:
        queue.submit(prompts("xy"), GREEDY)
    assert caught.value.headers == {"retry-after": "1"}
    queue.submit(prompts("abcd"), GREEDY)  # takes no room
    queue.took(10, 20.0)
    with pytest.raises(BusyError) as caught:
        queue.submit(prompts("xy"), GREEDY)
    assert caught.value.headers == {"retry-after": "8"}  # 4 texts at 0.5 a second
    queue.take(10)
    queue.submit(prompts("vwxyz"), GREEDY)


async def test_an_error_ends_the_wait_at_once() -> None:
    queue: Batcher[str] = Batcher(100)
    ticket = queue.submit(prompts("ab"), GREEDY)
    works = queue.take(1)
    assert works is not None
    queue.fail(works, ApiError("broken"))
    with pytest.raises(ApiError, match="broken"):
        await ticket.wait()
    assert queue.cancel(ticket) == 1


async def test_closing_ends_everything() -> None:
    queue: Batcher[str] = Batcher(100)
    ticket = queue.submit(prompts("ab"), GREEDY)
    at_work = queue.take(1)
    queue.close(ShuttingDownError("over"))
    with pytest.raises(ShuttingDownError):
        await ticket.wait()
    with pytest.raises(ShuttingDownError):
        queue.submit(prompts("c"), GREEDY)
    assert queue.take(1) is None
    finish(queue, at_work)
    assert queue.cancel(ticket) == 0


async def test_a_batch_lingers_for_more_and_not_longer() -> None:
    queue: Batcher[str] = Batcher(100)
    queue.submit(prompts("a"), GREEDY)
    started = time.monotonic()
    taken = asyncio.get_running_loop().run_in_executor(None, lambda: queue.take(2, linger=20.0))
    await asyncio.sleep(0.05)
    queue.submit(prompts("b"), GREEDY)
    assert letters(await taken) == "ab"
    queue.submit(prompts("c"), GREEDY)
    assert letters(await asyncio.to_thread(queue.take, 2, linger=0.02)) == "c"
    assert time.monotonic() - started < 10


@given(
    st.lists(st.tuples(st.text("abcdefghij", min_size=1, max_size=12), st.booleans(), st.booleans()), max_size=12),
    st.integers(1, 5),
)
def test_no_answer_is_lost_or_mixed_up(requests: list[tuple[str, bool, bool]], most: int) -> None:
    """Whatever comes, goes and is shared while another thread computes."""

    async def play() -> None:
        queue: Batcher[str] = Batcher(1000)

        def work() -> None:
            while (works := queue.take(most)) is not None:
                finish(queue, works)

        thread = threading.Thread(target=work)
        thread.start()
        waits: list[tuple[Ticket[str], str]] = []
        for text, is_short, is_cancelled in requests:
            ticket = queue.submit(prompts(text), SHORT if is_short else GREEDY)
            if is_cancelled:
                queue.cancel(ticket)
            else:
                waits.append((ticket, text))
            await asyncio.sleep(0)
        for ticket, text in waits:
            assert await asyncio.wait_for(ticket.wait(), 10) == list(text.upper())
        assert queue.waiting == 0
        queue.close(ShuttingDownError("over"))
        thread.join(10)
        assert not thread.is_alive()

    asyncio.run(play())
