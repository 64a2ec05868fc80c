"""ScriptRunner: how calls of many sessions are put together, on a link that answers as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from sdqueue.errors import StoreUnavailable
from sdqueue.sessions.redis.connection import Command
from sdqueue.sessions.redis.scripts import BATCH, LOAD, ScriptRunner


class FakeLink:
    """Answers each command by ``answer``, one batch after the other as the test lets them through."""

    url = "redis://fake"
    timeout_s = 5.0

    def __init__(self, answer: Callable[[Command], Any] = lambda command: command[-1]) -> None:
        self.answer = answer
        self.batches: list[list[Command]] = []
        self.under_way = self.most_under_way = 0
        self.go = asyncio.Event()
        self.go.set()

    async def execute(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        self.batches.append(list(commands))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        await self.go.wait()
        self.under_way -= 1
        return [self.answer(command) for command in commands]

    def subscriber(self) -> AbstractAsyncContextManager[PubSub]:
        raise AssertionError

    async def aclose(self) -> None:
        return None


async def test_calls_of_one_moment_are_one_batch() -> None:
    link = FakeLink()
    runner = ScriptRunner(link)
    assert await asyncio.gather(*(runner.call(LOAD, (b"k",), (n,)) for n in range(BATCH))) == list(range(BATCH))
    assert len(link.batches) == 1


async def test_batches_are_bounded_in_size_and_number() -> None:
    link = FakeLink()
    runner = ScriptRunner(link, in_flight=2)
    calls = [runner.call(LOAD, (b"k",), (n,)) for n in range(5 * BATCH)]
    assert await asyncio.gather(*calls) == list(range(5 * BATCH))
    assert [len(batch) for batch in link.batches] == [BATCH] * 5
    assert link.most_under_way == 2


async def test_calls_made_while_batches_are_under_way_wait_for_the_next() -> None:
    link = FakeLink()
    runner = ScriptRunner(link, in_flight=1)
    link.go.clear()
    first = runner.call(LOAD, (b"k",), ("first",))
    while not link.batches:
        await asyncio.sleep(0)
    later = [runner.call(LOAD, (b"k",), (n,)) for n in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(link.batches) == 1
    link.go.set()
    assert await asyncio.gather(first, *later) == ["first", 0, 1, 2]
    assert [len(batch) for batch in link.batches] == [1, 3]


async def test_each_call_has_its_own_result_or_error() -> None:
    answers = {"good": "yes", "bad": ResponseError("OOM"), "gone": RedisConnectionError("closed")}
    runner = ScriptRunner(FakeLink(lambda command: answers[command[-1]]))
    good, bad, gone = (runner.call(LOAD, (b"k",), (word,)) for word in answers)
    assert await good == "yes"
    with pytest.raises(StoreUnavailable, match="redis://fake refused the command: OOM"):
        await bad
    with pytest.raises(StoreUnavailable, match="redis://fake cannot be reached: closed"):
        await gone


async def test_only_calls_whose_script_is_unknown_are_sent_again() -> None:
    """With the text of the script, which teaches it to the server."""

    def answer(command: Command) -> Any:
        return NoScriptError("NOSCRIPT") if command[0] == "EVALSHA" and command[-1] % 2 else command[-1]

    link = FakeLink(answer)
    runner = ScriptRunner(link)
    assert await asyncio.gather(*(runner.call(LOAD, (b"k",), (n,)) for n in range(4))) == [0, 1, 2, 3]
    assert [[(command[0], command[-1]) for command in batch] for batch in link.batches] == [
        [("EVALSHA", 0), ("EVALSHA", 1), ("EVALSHA", 2), ("EVALSHA", 3)],
        [("EVAL", 1), ("EVAL", 3)],
    ]
    assert link.batches[1][0][1] == LOAD.text


async def test_a_caller_that_is_cancelled_gives_up_the_answer_but_not_the_call() -> None:
    """Its call, and those that travel with it, go on; ``settled`` says when."""
    link = FakeLink()
    runner = ScriptRunner(link)
    link.go.clear()
    gone, stays = runner.call(LOAD, (b"k",), ("gone",)), runner.call(LOAD, (b"k",), ("stays",))
    gone.cancel()
    settled = asyncio.create_task(runner.settled())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not settled.done()
    link.go.set()
    await settled
    assert stays.result() == "stays"
    assert [command[-1] for command in link.batches[0]] == ["gone", "stays"]


async def test_settled_does_not_wait_for_what_comes_later() -> None:
    """Somebody calls all the time; who waits for the calls made so far is not kept waiting by that."""
    runner = ScriptRunner(FakeLink())
    busy = True

    async def call_on() -> None:
        while busy:
            await runner.call(LOAD, (b"k",), (1,))

    callers = [asyncio.create_task(call_on()) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await runner.settled()
    busy = False
    await asyncio.gather(*callers)
    assert all(caller.done() for caller in callers)


async def test_a_defect_reaches_those_who_wait() -> None:
    """Whatever goes wrong in sending, nobody waits for ever."""

    def broken(command: Command) -> Any:
        raise ZeroDivisionError

    runner = ScriptRunner(FakeLink(broken))
    with pytest.raises(ZeroDivisionError):
        await runner.call(LOAD, (b"k",), (1,))


async def test_a_closed_runner_sends_what_it_has_and_refuses_more() -> None:
    link = FakeLink()
    runner = ScriptRunner(link)
    last = runner.call(LOAD, (b"k",), ("last",))
    await runner.aclose()
    assert last.result() == "last"
    with pytest.raises(StoreUnavailable, match="closed"):
        await runner.call(LOAD, (b"k",), ("more",))
