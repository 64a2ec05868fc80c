"""SessionWorker interrupted: by a cancellation or an error, wherever it waits, and by a second error on top."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sdqueue.agents import ChatMessage, FlowState, StreamChunk
from sdqueue.errors import StoreUnavailable
from sdqueue.sessions import InMemorySessionStore, SessionWorker
from tests.sessions.stubs import (
    Breaking,
    BreakingLocks,
    BreakingStore,
    FailingStore,
    LookingStore,
    ModelDown,
    Plain,
    dialog,
    said,
    take,
    take_named,
)


@pytest.fixture
def store() -> LookingStore:
    return LookingStore()


class Tripping(Plain):
    """Suspends within its turn, before and after the model's answer, and when it is asked for its state."""

    breaking: Breaking

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        if stream:
            return self._tripping(text)
        await self.breaking.point("before turn")
        result = await super().turn(text)
        await self.breaking.point("after turn")
        return result

    async def _tripping(self, text: str) -> AsyncIterator[Any]:
        async for chunk in await super().turn(text, stream=True):
            await self.breaking.point("before chunk")
            yield chunk
            await self.breaking.point("after chunk")


def _raise() -> None:
    raise StoreUnavailable("gone")


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", [None, _raise], ids=["cancel", "raise"])
async def test_wherever_a_turn_is_interrupted_the_record_stays_whole(how: Any, stream: bool, warm: bool) -> None:
    """Interrupted at the n-th suspension, for every n: nothing of the turn is stored, or all of it.

    Then the lock is free, and the next turn knows exactly what is stored.
    """
    hits = []
    for at in range(1, 100):
        inner = InMemorySessionStore()
        breaking = Breaking()
        locks = BreakingLocks(breaking)
        Tripping.breaking = breaking
        worker = SessionWorker(agent_factory=Tripping, store=BreakingStore(inner, breaking), lock_backend=locks)
        await take(worker if warm else SessionWorker(agent_factory=Plain, store=inner), "one")
        breaking.passed, breaking.at, breaking._how = 0, at, how

        result = (await asyncio.gather(take_named(worker, "two", stream=stream), return_exceptions=True))[0]

        stored = await said(inner)
        record = await inner.load("s")
        assert record is not None
        if not breaking.hit:
            assert result is None
            break
        hits.append(breaking.hit)
        assert isinstance(result, StoreUnavailable if how else asyncio.CancelledError), breaking.hit
        saved = breaking.hit in ("after save", "before release", "after release")
        assert stored == (dialog("one", "two") if saved else dialog("one")), breaking.hit
        assert (record.turns.get("t") is not None) == saved, breaking.hit
        assert locks.inner.entries == 0, breaking.hit
        assert not worker._in_use, breaking.hit
        idle = worker._cache.get("s")
        assert idle is None or idle.record == record, breaking.hit
        breaking.at = 0
        await take(worker, "next")
        assert await said(inner) == dialog("one", *(["two"] if saved else []), "next"), breaking.hit
    expected = {
        f"{when} {what}" for when in ("before", "after") for what in ("lock", "load", "begin", "standing", "save")
    }
    assert expected <= set(hits)
    assert {"before release", "after release", f"before {'chunk' if stream else 'turn'}"} <= set(hits)


async def test_a_second_error_while_cleaning_up_does_not_hide_the_first() -> None:
    """Given a turn that fails, and a store that is away when its beginning is to be taken back."""
    store = InMemorySessionStore()

    async def away(session_id: str, turn_id: str) -> None:
        raise StoreUnavailable("away")

    store.rewind_started = away  # type: ignore[method-assign]
    worker = SessionWorker(agent_factory=Plain, store=store)

    async def fail() -> None:
        async with worker.acquire("s", turn_id="t") as handle:
            await handle.turn("fail")

    with pytest.raises(ModelDown) as caught:
        await fail()
    assert "away" in caught.value.__notes__[0]


async def test_an_error_of_an_agents_cleaning_up_does_not_hide_the_first(store: LookingStore) -> None:
    class Unclean(Plain):
        async def _stream(self, text: str, answer: str) -> AsyncIterator[Any]:
            try:
                async for chunk in super()._stream(text, answer):
                    yield chunk
            finally:
                raise OSError("cannot hang up")

    worker = SessionWorker(agent_factory=Unclean, store=store)

    async def fail() -> None:
        async with worker.acquire("s") as handle:
            async for _ in await handle.turn("one", stream=True):
                raise ModelDown("in the block")

    with pytest.raises(ModelDown) as caught:
        await fail()
    assert "cannot hang up" in caught.value.__notes__[0]
    assert await said(store) is None


async def test_a_failing_save_does_not_count_as_saved() -> None:
    store = FailingStore()
    worker = SessionWorker(agent_factory=Plain, store=store)
    store.fault = StoreUnavailable("away")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await take_named(worker, "one")
    store.fault = None
    async with worker.acquire("s", turn_id="t") as handle:
        assert handle.begun == 1


class Stubborn(Plain):
    """Takes its cancellation for a failure of its model, and has an answer for that."""

    stuck: asyncio.Event

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        if text != "stuck":
            return await super().turn(text, stream=stream)
        pieces = self._sorry(text)
        return pieces if stream else await anext(aiter(pieces))

    async def _sorry(self, text: str) -> AsyncIterator[Any]:
        try:
            self.stuck.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.chat_ctx.append(ChatMessage("user", text))
            yield StreamChunk("Sorry?", done=True)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_turn_whose_agent_swallows_its_cancellation_leaves_nothing_either(stream: bool) -> None:
    """It was cancelled all the same: whoever did that wants no answer, and no trace of one."""
    Stubborn.stuck = asyncio.Event()
    store = InMemorySessionStore()
    worker = SessionWorker(agent_factory=Stubborn, store=store)
    await take(worker, "hello")
    before = await store.load("s")

    turn = asyncio.create_task(take_named(worker, "stuck", stream=stream))
    await Stubborn.stuck.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn

    after = await store.load("s")
    assert before is not None
    assert after is not None
    assert after.chat_ctx == before.chat_ctx
    assert after.version == before.version


class Careless(Plain):
    """Cannot say where it stands once it was asked to break."""

    broken = False

    @property
    def flow_state(self) -> FlowState:
        return self.missing if self.broken else FlowState("n1")  # type: ignore[attr-defined, no-any-return]

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        self.broken = text == "break"
        return await super().turn(text, stream=stream)


async def test_an_attribute_error_in_a_flow_state_fails_the_turn_and_erases_nothing() -> None:
    """It is not taken for an agent that has no flow."""
    store = InMemorySessionStore()
    worker = SessionWorker(agent_factory=Careless, store=store)
    await take(worker, "hello")
    with pytest.raises(AttributeError, match="missing"):
        await take(worker, "break")
    record = await store.load("s")
    assert record is not None
    assert record.flow_state == FlowState("n1")
    assert record.version == 1
