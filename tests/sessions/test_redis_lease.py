"""Leases of Redis: lock and load in one round trip, save and release in another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from sdqueue.agents import ChatMessage
from sdqueue.errors import LockLost, RecordError, RecordTooNew, VersionConflict
from sdqueue.sessions.lease import Leasing, leasing_for
from sdqueue.sessions.locks import AsyncioLockBackend
from sdqueue.sessions.locks.redis import RedisLockBackend
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.redis.connection import Command
from sdqueue.sessions.redis.keys import KeySpace
from sdqueue.sessions.redis.lease import RedisLeasing
from sdqueue.sessions.stores.redis import RedisSessionStore
from sdqueue.sessions.worker import SessionWorker
from sdqueue.testing.records import end, make_record, say
from tests.sessions.stubs import KINDS, dialog, said, take

pytestmark = pytest.mark.redis

PATIENCE_S = 20.0
"""Less than the life of a lock, so that nobody gets one because it ended."""


class Side:
    """A store and a lock backend, as a process has them."""

    def __init__(self, url: str, namespace: str) -> None:
        self.store = RedisSessionStore(url, namespace=namespace)
        self.locks = RedisLockBackend(url, namespace=namespace)
        self.leasing: Leasing = leasing_for(self.store, self.locks)

    async def aclose(self) -> None:
        await self.store.aclose()
        await self.locks.aclose()


@pytest.fixture
async def sides(redis_url: str, namespace: str) -> AsyncIterator[list[Side]]:
    sides = [Side(redis_url, namespace) for _ in range(2)]
    yield sides
    for side in sides:
        await side.aclose()


@pytest.fixture
async def side(sides: list[Side]) -> Side:
    return sides[0]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


def turn(record: SessionRecord | None, turn_id: str) -> SessionRecord:
    """The record after a turn."""
    record = SessionRecord() if record is None else record
    say(record, f"answer to {turn_id}")
    end(record, turn_id, "reply")
    return record


async def test_a_new_session_and_its_next_turn(side: Side) -> None:
    async with side.leasing.lease("s", turn_id="t1") as lease:
        assert (lease.record, lease.unchanged, lease.begun) == (None, False, 1)
        await lease.save(saved := turn(None, "t1"))
    assert saved.version == 1
    async with side.leasing.lease("s", turn_id="t2") as lease:
        assert (lease.record, lease.unchanged, lease.begun) == (saved, False, 1)
    async with side.leasing.lease("s") as lease:
        assert (lease.record, lease.begun) == (saved, 0)


async def test_a_turn_is_two_round_trips(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lock, load and count: one command. Save, release and hand over: another. Nothing of the past travels."""
    commands: list[Command] = []
    async with side.leasing.lease("s") as lease:
        await lease.save(record := make_record(["long ago " * 1000]))
    async with side.leasing.lease("s") as lease:
        await lease.save(record)  # all scripts are known now
    execute = side.store._link.execute

    async def counting(sent: Sequence[Command], timeout_s: float) -> list[Any]:
        commands.extend(sent)
        replies = await execute(sent, timeout_s)
        assert "long ago" not in repr(replies)
        return replies

    monkeypatch.setattr(side.store._link, "execute", counting)
    monkeypatch.setattr(side.locks._scripts, "call", None)
    async with side.leasing.lease("s", known=record.stored, turn_id="t") as lease:
        assert (lease.record, lease.unchanged, lease.begun) == (None, True, 1)
        await lease.save(turn(record, "t"))
    assert [command[0] for command in commands] == ["EVALSHA", "EVALSHA"]
    assert "long ago" not in repr(commands)
    monkeypatch.undo()
    assert await side.store.load("s") == record


async def test_another_version_than_the_known_one_is_loaded(sides: list[Side]) -> None:
    """A turn here, a turn there, a turn here: the third sees the second."""
    async with sides[0].leasing.lease("s") as lease:
        await lease.save(mine := turn(None, "t1"))
    async with sides[1].leasing.lease("s") as lease:
        await lease.save(turn(lease.record, "t2"))
    async with sides[0].leasing.lease("s", known=mine.stored) as lease:
        assert not lease.unchanged
        assert lease.record is not None
        assert list(lease.record.turns.outcomes) == ["t1", "t2"]


async def test_the_same_version_of_another_life_is_loaded(sides: list[Side]) -> None:
    """A saves version 1, the session is deleted, B saves version 1: what A knows is not what is there.

    Neither may A save on it, though the lock is its own.
    """
    async with sides[0].leasing.lease("s") as lease:
        await lease.save(mine := turn(None, "t1"))
    await sides[1].store.delete("s")
    async with sides[1].leasing.lease("s") as lease:
        await lease.save(other := turn(SessionRecord(created_at=mine.created_at), "t2"))
    async with sides[0].leasing.lease("s", known=mine.stored) as lease:
        assert (lease.unchanged, lease.record) == (False, other)
    with pytest.raises(VersionConflict, match="deleted and created anew"):
        async with sides[0].leasing.lease("s") as lease:
            await lease.save(turn(mine, "t3"))
    assert await sides[0].store.load("s") == other


@pytest.mark.parametrize("agent", KINDS)
async def test_a_deleted_conversation_does_not_come_back(sides: list[Side], agent: Any) -> None:
    """A answers, the session is deleted, B answers, A answers: A's agent of before must not be used."""
    a, b = (SessionWorker(agent_factory=agent, store=side.store, lock_backend=side.locks) for side in sides)
    await take(a, "old")
    await sides[1].store.delete("s")
    await take(b, "new")
    await take(a, "more")
    assert await said(sides[0].store) == dialog("new", "more")


async def test_no_record_is_no_known_state(side: Side) -> None:
    """The session was deleted behind the back of a process that knows it."""
    async with side.leasing.lease("s", known=Stored(3, born="gone")) as lease:
        assert (lease.record, lease.unchanged) == (None, False)


async def test_leaving_without_a_save_takes_the_beginning_back(side: Side) -> None:
    for _ in range(3):
        async with side.leasing.lease("s", turn_id="t") as lease:
            assert lease.begun == 1
    with pytest.raises(ZeroDivisionError):
        async with side.leasing.lease("s", turn_id="t"):
            raise ZeroDivisionError
    assert await side.store.begin("s", "t") == 1


async def test_a_process_that_died_leaves_its_beginning(side: Side) -> None:
    await side.store.begin("s", "t")  # by a process that was killed then
    async with side.leasing.lease("s", turn_id="t") as lease:
        assert lease.begun == 2
        await lease.save(turn(None, "t"))
    async with side.leasing.lease("s", turn_id="t") as lease:
        assert lease.begun == 1


async def test_who_waits_gets_what_the_holder_saved(sides: list[Side], redis: Redis, namespace: str) -> None:
    """B asks while A holds: the release of A's save wakes B, which then loads."""
    waiters = KeySpace(namespace).session("s")[2]

    async def wait() -> SessionRecord | None:
        async with sides[1].leasing.lease("s", turn_id="t2") as lease:
            assert lease.begun == 1
            return lease.record

    async with sides[0].leasing.lease("s", turn_id="t1") as lease:
        waiter = asyncio.create_task(wait())
        while not await redis.hlen(waiters):
            await asyncio.sleep(0.002)
        await lease.save(saved := turn(None, "t1"))
        async with asyncio.timeout(PATIENCE_S):
            assert await waiter == saved


async def test_leases_and_plain_locks_exclude_each_other(sides: list[Side]) -> None:
    inside = most = 0

    async def work(number: int) -> None:
        nonlocal inside, most
        side = sides[number % 2]
        async with side.locks.acquire("s") if number % 3 else side.leasing.lease("s"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(work(number) for number in range(18)))
    assert most == 1


async def test_a_save_without_the_lock_is_refused(side: Side, redis: Redis, namespace: str) -> None:
    """The lock went to somebody else during the turn: LockLost, and neither the record nor that lock is touched."""
    keys = KeySpace(namespace).session("s")
    await side.store.save("s", saved := turn(None, "t1"))
    mine = replace(saved, chat_ctx=saved.chat_ctx.copy(), turns=saved.turns.copy())

    async def work() -> None:
        async with side.leasing.lease("s", turn_id="t2") as lease:
            await redis.set(keys[0], "somebody:1", px=30_000)
            await lease.save(turn(mine, "t2"))

    with pytest.raises(LockLost):
        await work()
    assert await side.store.load("s") == saved
    assert mine.version == 1
    assert mine.turns.fresh
    assert await redis.get(keys[0]) == b"somebody:1"


async def test_a_save_on_another_version_is_refused(side: Side, redis: Redis, namespace: str) -> None:
    """The lock is held, but somebody saved without it: nothing is changed, lock and beginning are given back."""
    await side.store.save("s", turn(None, "t1"))
    other = await side.store.load("s")
    assert other is not None

    async def work() -> None:
        async with side.leasing.lease("s", turn_id="t3") as lease:
            assert lease.record is not None
            await side.store.save("s", turn(other, "t2"))
            await lease.save(turn(lease.record, "t3"))

    with pytest.raises(VersionConflict) as conflict:
        await work()
    assert (conflict.value.expected, conflict.value.found) == (1, 2)
    assert await side.store.load("s") == other
    assert await redis.exists(KeySpace(namespace).session("s")[0]) == 0
    assert await side.store.begin("s", "t3") == 1


async def test_a_refused_record_gives_the_lock_back(side: Side, redis: Redis, namespace: str) -> None:
    with pytest.raises(RecordError, match="'s'"):
        async with side.leasing.lease("s", turn_id="t") as lease:
            await lease.save(SessionRecord(metadata={"x": object()}))
    assert await redis.exists(KeySpace(namespace).session("s")[0]) == 0
    assert await side.store.load("s") is None


async def test_a_record_of_a_newer_release_gives_the_lock_back(side: Side, redis: Redis, namespace: str) -> None:
    keys = KeySpace(namespace).session("s")
    await side.store.save("s", SessionRecord())
    await redis.hset(keys[3], "head", '{"schema": 999}')
    with pytest.raises(RecordTooNew, match="'s'"):
        async with side.leasing.lease("s", turn_id="t"):
            pass
    assert await redis.exists(keys[0]) == 0
    assert side.locks.entries == 0
    assert await side.store.begin("s", "t") == 1


async def test_missing_messages_are_written_again(side: Side, redis: Redis, namespace: str) -> None:
    """Redis dropped the history (eviction), the process has it: the save writes it whole, and releases."""
    async with side.leasing.lease("s") as lease:
        await lease.save(record := make_record(["one", "two"]))
    await redis.delete(KeySpace(namespace).session("s")[4])
    async with side.leasing.lease("s", known=record.stored) as lease:
        assert lease.unchanged
        say(record, "three")
        await lease.save(record)
    assert await side.store.load("s") == record
    assert await redis.exists(KeySpace(namespace).session("s")[0]) == 0


@pytest.mark.parametrize("steps", range(10))
async def test_taking_up_may_be_cancelled_at_any_step(sides: list[Side], steps: int) -> None:
    """Whatever was under way, the session is free afterwards and the beginning taken back."""
    side = sides[0]

    async def work() -> None:
        async with side.leasing.lease("s", turn_id="t"):
            await asyncio.Event().wait()

    async with side.leasing.lease("other"):
        pass  # everything is started
    task = asyncio.create_task(work())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(PATIENCE_S), sides[1].leasing.lease("s", turn_id="t") as lease:
        assert lease.begun == 1
    async with asyncio.timeout(PATIENCE_S), side.leasing.lease("s") as lease:
        assert lease.record is None


@pytest.mark.parametrize("steps", range(10))
async def test_a_save_may_be_cancelled_at_any_step(sides: list[Side], steps: int) -> None:
    """It happens wholly or not at all, and the session is free."""
    saving = asyncio.Event()

    async def work() -> None:
        async with sides[0].leasing.lease("s", turn_id="t") as lease:
            saving.set()
            await lease.save(turn(make_record(["one"]), "t"))

    task = asyncio.create_task(work())
    await saving.wait()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S), sides[1].leasing.lease("s", turn_id="t") as lease:
        if lease.record is not None:
            assert lease.record.chat_ctx.items[0] == ChatMessage("user", "one")
            assert list(lease.record.turns.outcomes) == ["t"]
        assert lease.begun == 1


async def test_many_sessions_travel_together(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred turns at once are far fewer round trips than turns, and each gets its own answer."""
    batches: list[int] = []
    execute = side.store._link.execute

    async def counting(sent: Sequence[Command], timeout_s: float) -> list[Any]:
        batches.append(len(sent))
        return await execute(sent, timeout_s)

    async def work(number: int) -> None:
        async with side.leasing.lease(f"s{number}", turn_id=f"t{number}") as lease:
            await lease.save(turn(None, f"t{number}"))
            if number == 50:
                raise ZeroDivisionError

    async with side.leasing.lease("other"):
        pass
    monkeypatch.setattr(side.store._link, "execute", counting)
    results = await asyncio.gather(*(work(number) for number in range(100)), return_exceptions=True)
    assert [number for number, result in enumerate(results) if result is not None] == [50]
    assert len(batches) < 30
    for number in range(100):
        loaded = await side.store.load(f"s{number}")
        assert loaded is not None
        assert list(loaded.turns.outcomes) == [f"t{number}"]


async def test_only_what_belongs_together_is_leased_together(redis_url: str, namespace: str) -> None:
    client = Redis.from_url(redis_url)
    store = RedisSessionStore(redis_url, namespace=namespace)
    assert isinstance(leasing_for(store, RedisLockBackend(redis_url, namespace=namespace)), RedisLeasing)
    assert store.leasing(RedisLockBackend(redis_url, namespace="other")) is None
    assert store.leasing(RedisLockBackend("redis://elsewhere", namespace=namespace)) is None
    assert store.leasing(RedisLockBackend(client=client, namespace=namespace)) is None
    assert store.leasing(AsyncioLockBackend()) is None
    given = RedisSessionStore(client=client, namespace=namespace)
    assert isinstance(given.leasing(RedisLockBackend(client=client, namespace=namespace)), RedisLeasing)
    await client.aclose()
