"""Parked sessions: the dead turn is named in the record, until a command releases them without an agent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sdqueue.errors import RecordError, SessionClosed, StoreUnavailable
from sdqueue.sessions import (
    AsyncioLockBackend,
    InMemorySessionStore,
    NullSessionStore,
    SessionRecord,
    SessionWorker,
    codec,
    unpark,
)
from sdqueue.testing.backlog_refusals import refused
from sdqueue.testing.backlogs import put
from sdqueue.testing.records import make_record
from tests.sessions.stubs import BreakingStore, Plain, dialog, said, take


@pytest.fixture
def store() -> InMemorySessionStore:
    return InMemorySessionStore()


@pytest.fixture
def locks() -> AsyncioLockBackend:
    return AsyncioLockBackend()


async def park(worker: SessionWorker, turn_id: str) -> None:
    async with worker.acquire("s") as handle:
        handle.park(turn_id)


async def parked_by(worker: SessionWorker) -> str | None:
    async with worker.acquire("s") as handle:
        return handle.parked_by


# In the record


async def test_a_session_stays_parked_until_it_is_released(store: InMemorySessionStore) -> None:
    """For every process, across turns and a reset."""
    here, there = (SessionWorker(agent_factory=Plain, store=store) for _ in range(2))
    assert await parked_by(here) is None
    await park(here, "dead")
    assert [await parked_by(worker) for worker in (here, there)] == ["dead"] * 2
    await take(there, "one")
    async with here.acquire("s") as handle:
        handle.reset()
    assert [await parked_by(worker) for worker in (here, there)] == ["dead"] * 2
    async with there.acquire("s") as handle:
        handle.unpark()
        assert handle.parked_by is None
    assert [await parked_by(worker) for worker in (here, there)] == [None] * 2


async def test_what_fails_neither_parks_nor_releases(store: InMemorySessionStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)

    async def fail(turn_id: str | None) -> None:
        async with worker.acquire("s") as handle:
            handle.unpark() if turn_id is None else handle.park(turn_id)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail("dead")
    assert await parked_by(worker) is None
    await park(worker, "dead")
    with pytest.raises(ZeroDivisionError):
        await fail(None)
    assert await parked_by(worker) == "dead"


async def test_a_handle_that_has_ended_does_not_park(store: InMemorySessionStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    async with worker.acquire("s") as handle:
        pass
    with pytest.raises(SessionClosed):
        handle.park("dead")
    with pytest.raises(SessionClosed):
        handle.unpark()


def test_a_record_that_is_not_parked_looks_as_before() -> None:
    """Releases that know nothing of parking read it, and theirs are read here."""
    fields = json.loads(codec.encode(SessionRecord()))
    assert "parked_by" not in fields
    assert codec.decode(json.dumps(fields)).parked_by is None
    assert json.loads(codec.encode(SessionRecord(parked_by="t")))["parked_by"] == "t"


@pytest.mark.parametrize("value", [1, True, ["t"], {}])
def test_only_an_id_parks(value: Any) -> None:
    with pytest.raises(RecordError, match="parked_by"):
        codec.encode(SessionRecord(parked_by=value))
    fields = json.loads(codec.encode(SessionRecord())) | {"parked_by": value}
    with pytest.raises(RecordError, match="parked_by"):
        codec.decode(json.dumps(fields))


# Released without an agent


async def test_a_command_releases_a_parked_session(store: InMemorySessionStore, locks: AsyncioLockBackend) -> None:
    """Its turns are to be looked at again; everything else of the session is as it was."""
    worker = SessionWorker(agent_factory=Plain, store=store, lock_backend=locks)
    await take(worker, "one")
    await park(worker, "dead")
    before = await store.load("s")
    assert before is not None
    assert await store.backlogged() == {}
    assert await unpark(store, locks, "s", "dead") is True
    assert set(await store.backlogged()) == {"s"}
    after = await store.load("s")
    assert after is not None
    assert (after.version, after.parked_by) == (before.version + 1, None)
    assert (after.chat_ctx, after.turns, after.agent_state) == (before.chat_ctx, before.turns, before.agent_state)
    await take(worker, "two")
    assert await said(store) == dialog("one", "two")
    assert await parked_by(worker) is None


async def test_a_release_may_be_repeated(store: InMemorySessionStore, locks: AsyncioLockBackend) -> None:
    """Whoever released it may have died before anybody heard: a repeat lists the session anew."""
    await store.save("s", make_record(["one"], parked_by="dead"))
    assert await unpark(store, locks, "s", "dead") is True
    (mark,) = (await store.backlogged()).values()
    await store.unlist("s", mark)
    assert await unpark(store, locks, "s", "dead") is False
    assert set(await store.backlogged()) == {"s"}
    record = await store.load("s")
    assert record is not None
    assert record.version == 2


async def test_a_session_parked_by_another_turn_stays_parked(
    store: InMemorySessionStore, locks: AsyncioLockBackend
) -> None:
    await store.save("s", make_record(["one"], parked_by="dead"))
    await put(store, "s", "waits")
    before = await store.backlogged()
    assert await unpark(store, locks, "s", "other") is False
    record = await store.load("s")
    assert record is not None
    assert (record.parked_by, record.version) == ("dead", 1)
    assert await store.backlogged() == before


async def test_an_unknown_session_is_not_created(store: InMemorySessionStore, locks: AsyncioLockBackend) -> None:
    assert await unpark(store, locks, "s", "dead") is False
    assert await store.load("s") is None


async def test_a_store_that_keeps_nothing_has_nothing_parked(locks: AsyncioLockBackend) -> None:
    assert await unpark(NullSessionStore(), locks, "s", "dead") is False


async def test_nobody_who_saw_it_parked_leaves_it_unlisted(
    store: InMemorySessionStore, locks: AsyncioLockBackend
) -> None:
    """Somebody reads the list, finds the session parked under its lock, and takes it off the list.

    Whenever he begins, a release that has returned leaves the session listed.
    """
    breaking = _Steps()
    for steps in range(12):
        name = f"s{steps}"
        await store.save(name, make_record(parked_by="dead"))
        await put(store, name, "waits")
        release = asyncio.create_task(unpark(BreakingStore(store, breaking), locks, name, "dead"))  # type: ignore[arg-type]
        for _ in range(steps):
            await asyncio.sleep(0)
        mark = (await store.backlogged())[name]
        async with locks.acquire(name):
            record = await store.load(name)
            assert record is not None
            if record.parked_by is not None:
                await store.unlist(name, mark)
        assert await release is True
        assert name in await store.backlogged(), steps


async def test_a_session_that_cannot_be_listed_stays_parked(
    store: InMemorySessionStore, locks: AsyncioLockBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Released but not listed, its turns would wait for nobody; so the release is repeated as a whole."""

    async def away(session_id: str) -> None:
        raise StoreUnavailable("away")

    await store.save("s", make_record(parked_by="dead"))
    monkeypatch.setattr(store, "enlist", away)
    with pytest.raises(StoreUnavailable, match="away"):
        await unpark(store, locks, "s", "dead")
    monkeypatch.undo()
    assert await unpark(store, locks, "s", "dead") is True


class _Steps:
    """Suspends for a while at every point."""

    async def point(self, name: str) -> None:
        for _ in range(2):
            await asyncio.sleep(0)


# What a worker says of the store's backlog


async def test_a_handle_knows_how_its_turn_stands(store: InMemorySessionStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    assert worker.backlog is store
    await put(store, "s", "a", "b")
    kept = await refused(store, "s", "x")
    for turn_id, waiting, refusal in (("a", 2, None), ("x", 2, kept), (None, 0, None)):
        async with worker.acquire("s", turn_id=turn_id) as handle:
            assert (handle.waiting, handle.refusal) == (waiting, refusal)


async def test_a_store_need_not_have_a_backlog() -> None:
    worker = SessionWorker(agent_factory=Plain, store=NullSessionStore())
    assert worker.backlog is None
    async with worker.acquire("s", turn_id="t") as handle:
        assert (handle.begun, handle.waiting, handle.refusal) == (1, 0, None)
