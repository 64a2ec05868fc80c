"""Streamed turns: the conversation is whole, however the listener behaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sdqueue.agents import ChatMessage, StreamChunk, TurnResult
from sdqueue.errors import AgentResultError, SessionClosed
from sdqueue.sessions import InMemorySessionStore, SessionWorker
from tests.sessions.stubs import KINDS, Durable, Late, Lazy, ModelDown, NoAssist, Plain, dialog, said, take


@pytest.fixture
def store() -> InMemorySessionStore:
    return InMemorySessionStore()


@pytest.mark.parametrize("agent", KINDS)
async def test_a_stream_read_to_its_end_is_the_whole_answer(agent: Any, store: InMemorySessionStore) -> None:
    worker = SessionWorker(agent_factory=agent, store=store)
    async with worker.acquire("s") as handle:
        chunks = [chunk async for chunk in await handle.turn("one", stream=True)]
    assert "".join(chunk.text for chunk in chunks) == "1: one"
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert await said(store) == dialog("one")


@pytest.mark.parametrize("agent", KINDS)
async def test_a_listener_who_leaves_at_the_last_piece_has_heard_everything(
    agent: Any, store: InMemorySessionStore
) -> None:
    """Agents complete their history after the last piece; a listener may not come back for it."""
    worker = SessionWorker(agent_factory=agent, store=store)
    async with worker.acquire("s") as handle:
        async for chunk in await handle.turn("one", stream=True):
            if chunk.done:
                break
    await take(worker, "two")
    assert await said(store) == dialog("one", "two")


@pytest.mark.parametrize("next_turn", ["same block", "next block", "another process"])
@pytest.mark.parametrize("agent", [Plain, Late, Durable])
async def test_barge_in_keeps_the_words_that_were_heard(
    agent: Any, next_turn: str, store: InMemorySessionStore
) -> None:
    worker = SessionWorker(agent_factory=agent, store=store)
    await take(worker, "one")
    async with worker.acquire("s") as handle:
        async for _ in await handle.turn("two", stream=True):
            break
        if next_turn == "same block":
            await handle.turn("three")
    if next_turn == "another process":
        worker = SessionWorker(agent_factory=agent, store=store)
    if next_turn != "same block":
        await take(worker, "three")
    heard = [("user", "two"), ("assistant", "2: ")]
    assert await said(store) == [*dialog("one"), *heard, *dialog("one", "two", "three")[4:]]


@pytest.mark.parametrize("agent", [Lazy, NoAssist])
async def test_barge_in_on_an_agent_that_answers_first_and_speaks_then_keeps_its_answer(
    agent: Any, store: InMemorySessionStore
) -> None:
    await take(SessionWorker(agent_factory=agent, store=store), "one")
    async with SessionWorker(agent_factory=agent, store=store).acquire("s") as handle:
        async for _ in await handle.turn("two", stream=True):
            break
    assert await said(store) == dialog("one", "two")


async def test_barge_in_on_an_agent_that_was_not_built_before_keeps_past_and_words(
    store: InMemorySessionStore,
) -> None:
    """It reports an empty conversation before and the whole one after: its past is no part of the answer."""

    class LazySpeaker(Lazy):
        async def _stream(self, text: str) -> AsyncIterator[StreamChunk]:
            await self._run("")
            assert self.machine is not None
            del self.machine.chat.items[-2:]
            self.machine.chat.append(ChatMessage("user", text))
            yield StreamChunk("half ")
            yield StreamChunk("answer", done=True)

    await take(SessionWorker(agent_factory=LazySpeaker, store=store), "one")
    async with SessionWorker(agent_factory=LazySpeaker, store=store).acquire("s") as handle:
        async for _ in await handle.turn("two", stream=True):
            break
    assert await said(store) == [*dialog("one"), ("user", "two"), ("assistant", "half ")]


async def test_barge_in_on_an_agent_that_remembers_little_adds_nothing_twice(store: InMemorySessionStore) -> None:
    class Short(Plain):
        async def turn(self, text: str, *, stream: bool = False) -> Any:
            result = await super().turn(text, stream=stream)
            del self.chat.items[:-3]
            return result

    worker = SessionWorker(agent_factory=Short, store=store)
    await take(worker, "one", "two")
    async with worker.acquire("s") as handle:
        async for _ in await handle.turn("three", stream=True):
            break
    stored = await said(store)
    assert stored is not None
    assert stored.count(("user", "three")) == 1
    assert stored[-1][0] == "assistant"


@pytest.mark.parametrize("agent", KINDS)
async def test_a_stream_that_nobody_read_keeps_the_past_and_what_was_asked(
    agent: Any, store: InMemorySessionStore
) -> None:
    """The generator of a lazily built agent never ran: what it reports must not be taken for the conversation."""
    await take(SessionWorker(agent_factory=agent, store=store), "one")
    worker = SessionWorker(agent_factory=agent, store=store)
    async with worker.acquire("s") as handle:
        handle.assist("be brief")
        await handle.turn("two", stream=True)
    expected = [*dialog("one"), ("system", "be brief"), ("user", "two")]
    if agent is NoAssist:  # it had answered before its one piece could be read
        expected.append(("assistant", "2: two"))
    assert await said(store) == expected
    await take(worker, "three")
    assert await said(store) == [*expected, *dialog("one", "two", "three")[4:]]


@pytest.mark.parametrize("leave", ["at once", "at the last piece", "never"])
@pytest.mark.parametrize("agent", [Plain, Late, Durable])
async def test_a_note_given_while_the_agent_speaks_stands_behind_its_answer(
    agent: Any, leave: str, store: InMemorySessionStore
) -> None:
    async with SessionWorker(agent_factory=agent, store=store).acquire("s") as handle:
        async for chunk in await handle.turn("one", stream=True):
            if not chunk.done:
                handle.assist("be brief")
            if leave == "at once" or (chunk.done and leave == "at the last piece"):
                break
    answer = "1: " if leave == "at once" else "1: one"
    assert await said(store) == [("user", "one"), ("assistant", answer), ("system", "be brief")]


async def test_a_note_given_while_the_agent_speaks_is_forgotten_with_a_reset(store: InMemorySessionStore) -> None:
    async with SessionWorker(agent_factory=Plain, store=store).acquire("s") as handle:
        async for _ in await handle.turn("one", stream=True):
            handle.assist("be brief")
            handle.reset()
            break
    assert await said(store) == []


@pytest.mark.parametrize("agent", [Plain, Late, Durable])
async def test_a_listener_stopped_by_a_timeout_has_barged_in(agent: Any, store: InMemorySessionStore) -> None:

    async def listen(handle: Any) -> None:
        async with asyncio.timeout(0.02):
            async for _ in await handle.turn("hang", stream=True):
                pass

    async with SessionWorker(agent_factory=agent, store=store).acquire("s") as handle:
        with pytest.raises(TimeoutError):
            await listen(handle)
    assert await said(store) == [("user", "hang"), ("assistant", "1: ")]


@pytest.mark.parametrize("agent", KINDS)
async def test_an_agent_that_fails_while_it_speaks_leaves_no_trace(agent: Any, store: InMemorySessionStore) -> None:
    """Whether the error leaves the block, or is caught inside and the session goes on."""
    worker = SessionWorker(agent_factory=agent, store=store)
    await take(worker, "one")

    async def fail(handle: Any) -> None:
        async for _ in await handle.turn("fail", stream=True):
            pass

    async def fail_block() -> None:
        async with worker.acquire("s") as handle:
            await fail(handle)

    with pytest.raises(ModelDown):
        await fail_block()
    assert await said(store) == dialog("one")
    async with worker.acquire("s") as handle:
        with pytest.raises(ModelDown):
            await fail(handle)
        await handle.turn("two")
    await take(worker, "three")
    assert await said(store) == dialog("one", "two", "three")


async def test_an_agent_that_fails_after_its_last_piece_fails_the_block(store: InMemorySessionStore) -> None:
    class Broken(Plain):
        async def _stream(self, text: str, answer: str) -> AsyncIterator[StreamChunk]:
            yield StreamChunk(answer, done=True)
            raise ModelDown

    worker = SessionWorker(agent_factory=Broken, store=store)

    async def listen() -> None:
        async with worker.acquire("s") as handle:
            async for chunk in await handle.turn("one", stream=True):
                if chunk.done:
                    break

    with pytest.raises(ModelDown):
        await listen()
    assert await said(store) is None
    assert worker.cache_size == 0


async def test_an_agent_is_told_when_nobody_listens_any_more(store: InMemorySessionStore) -> None:
    """Its connection to the model is closed in the block, not whenever the garbage is collected."""
    closed: list[str] = []

    class Careful(Plain):
        async def _stream(self, text: str, answer: str) -> AsyncIterator[StreamChunk]:
            try:
                yield StreamChunk("1")
                yield StreamChunk("2", done=True)
            finally:
                closed.append(text)

    worker = SessionWorker(agent_factory=Careful, store=store)

    async def fail() -> None:
        async with worker.acquire("s") as handle:
            async for _ in await handle.turn("b", stream=True):
                raise ModelDown

    async with worker.acquire("s") as handle:
        async for _ in await handle.turn("a", stream=True):
            break
    with pytest.raises(ModelDown):
        await fail()
    assert closed == ["a", "b"]


async def test_iterators_that_are_no_generators_will_do(store: InMemorySessionStore) -> None:
    class Pieces:
        def __init__(self) -> None:
            self.left = ["a", "b"]

        def __aiter__(self) -> Pieces:
            return self

        async def __anext__(self) -> StreamChunk:
            if not self.left:
                raise StopAsyncIteration
            return StreamChunk(self.left.pop(0))

    class Iterating(Plain):
        async def turn(self, text: str, *, stream: bool = False) -> Any:
            return Pieces()

    async with SessionWorker(agent_factory=Iterating, store=store).acquire("s") as handle:
        stream = await handle.turn("one", stream=True)
        assert [chunk.text async for chunk in stream] == ["a", "b"]
        async for _ in await handle.turn("two", stream=True):
            break
    assert await said(store) == [("user", "two"), ("assistant", "a")]


async def test_the_next_turn_ends_the_stream_of_the_one_before(store: InMemorySessionStore) -> None:
    async with SessionWorker(agent_factory=Plain, store=store).acquire("s") as handle:
        first = await handle.turn("one", stream=True)
        assert (await anext(first)).text == "1: "
        await handle.turn("two")
        with pytest.raises(SessionClosed, match="before the next turn"):
            await anext(first)
    assert await said(store) == [("user", "one"), ("assistant", "1: "), *dialog("one", "two")[2:]]


async def test_a_stream_that_was_read_to_its_end_stays_at_its_end(store: InMemorySessionStore) -> None:
    async with SessionWorker(agent_factory=Plain, store=store).acquire("s") as handle:
        stream = await handle.turn("one", stream=True)
        assert len([chunk async for chunk in stream]) == 2
    assert [chunk async for chunk in stream] == []


@pytest.mark.parametrize(
    ("answer", "text"), [("plain", "plain"), ({"text": "dict"}, "dict"), (TurnResult("result"), "result")]
)
async def test_an_answer_in_one_piece_carries_the_result(answer: Any, text: str, store: InMemorySessionStore) -> None:
    class Whole(Plain):
        async def turn(self, text: str, *, stream: bool = False) -> Any:
            return answer

    async with SessionWorker(agent_factory=Whole, store=store).acquire("s") as handle:
        (chunk,) = [chunk async for chunk in await handle.turn("one", stream=True)]
    assert (chunk.text, chunk.done, chunk.turn) == (text, True, TurnResult(text))


async def test_an_answer_that_is_none_is_named(store: InMemorySessionStore) -> None:
    class Nonsense(Plain):
        async def turn(self, text: str, *, stream: bool = False) -> Any:
            return 42

    async def listen() -> None:
        async with SessionWorker(agent_factory=Nonsense, store=store).acquire("s") as handle:
            async for _ in await handle.turn("one", stream=True):
                pass

    with pytest.raises(AgentResultError, match="int '42'"):
        await listen()
    assert await said(store) is None
