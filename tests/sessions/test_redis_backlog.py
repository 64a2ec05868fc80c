"""Backlogs in Redis: the life of their keys, the order of the two steps of an append, and what a lease says of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from sdqueue.errors import RecordCorrupt
from sdqueue.sessions.lease import leasing_for
from sdqueue.sessions.locks.redis import RedisLockBackend
from sdqueue.sessions.redis.connection import Command
from sdqueue.sessions.redis.keys import KeySpace
from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.stores.backlog import REFUSALS, Deferred, Standing
from sdqueue.sessions.stores.redis import RedisSessionStore
from sdqueue.testing.backlog_refusals import refused
from sdqueue.testing.backlogs import Drain, put, waiting
from sdqueue.testing.records import end, make_record

pytestmark = pytest.mark.redis


@pytest.fixture
async def store(redis_url: str, namespace: str) -> AsyncIterator[RedisSessionStore]:
    store = RedisSessionStore(redis_url, namespace=namespace)
    yield store
    await store.aclose()


@pytest.fixture
async def locks(redis_url: str, namespace: str) -> AsyncIterator[RedisLockBackend]:
    locks = RedisLockBackend(redis_url, namespace=namespace)
    yield locks
    await locks.aclose()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


async def keys_of(redis: Redis, namespace: str, session_id: str = "s") -> dict[str, bytes]:
    """The keys that a session has, by their part."""
    found = await redis.keys(f"{namespace}:{{{session_id}}}:*")
    return {str(key, "utf-8").rpartition(":")[2]: key for key in sorted(found)}


async def test_all_keys_of_a_backlog_end_with_their_session(
    store: RedisSessionStore, redis: Redis, namespace: str
) -> None:
    """Each use starts the life of all keys anew, the record's too: a parked session has no saves."""
    record = make_record(["one"])
    end(record, "t", "reply")
    await store.save("s", record)
    await store.begin("s", "other")
    await put(store, "s", "a", "b")
    await refused(store, "s", "x")
    keys = await keys_of(redis, namespace)
    parts = ["backlog", "begun", "deferred", "history", "ids", "newest", "refusals", "refused", "session", "turns"]
    assert list(keys) == parts
    uses: list[Callable[[], Awaitable[Any]]] = [
        lambda: put(store, "s", "a"),
        lambda: store.undefer("s", ["b"]),
        lambda: refused(store, "s", "y"),
    ]
    for use in uses:
        for key in keys.values():
            await redis.pexpire(key, 5_000)
        await use()
        assert all([await redis.ttl(key) > 29 * 24 * 3600 for key in keys.values()])


async def test_a_delete_leaves_no_key_of_a_backlog(store: RedisSessionStore, redis: Redis, namespace: str) -> None:
    await put(store, "s", "a")
    await refused(store, "s", "x")
    await store.save("s", make_record(["one"]))
    await store.delete("s")
    assert await redis.keys(f"{namespace}:*") == []


async def test_a_delete_leaves_the_listing_of_what_comes_after(
    store: RedisSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn is appended while the session is being deleted: whether it waits or is gone, it never waits unlisted."""
    unlist = store.unlist

    async def unlist_later(session_id: str, mark: str) -> None:
        await put(store, session_id, "between")
        await unlist(session_id, mark)

    await put(store, "s", "a")
    monkeypatch.setattr(store, "unlist", unlist_later)
    await store.delete("s")
    assert await waiting(store, "s") == ["between"]
    assert set(await store.backlogged()) == {"s"}


async def test_an_append_is_listed_after_it_is_there(store: RedisSessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """All interleavings of an append (its turn is there, it is listed, it returns) with a drain.

    Once an append has returned, its turn is gone or its session is listed.
    """
    enlist = store.enlist
    arrived: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def stop() -> None:
        go = asyncio.Event()
        arrived.put_nowait(go)
        await go.wait()

    async def enlist_slowly(session_id: str) -> None:
        await stop()
        await enlist(session_id)
        await stop()

    for number, order in enumerate(sorted(set(itertools.permutations("AAABBBB")))):
        name = f"s{number}"
        await put(store, name, "first")
        monkeypatch.setattr(store, "enlist", enlist_slowly)
        drain, append = Drain(store, name), _in_steps(put(store, name, "second"), arrived)
        for who in order:
            await (drain.step() if who == "B" else anext(append))
        monkeypatch.undo()
        assert not await waiting(store, name) or name in await store.backlogged(), order


async def _in_steps(work: Coroutine[Any, Any, None], arrived: asyncio.Queue[asyncio.Event]) -> AsyncIterator[None]:
    """Work that stops twice on its way, step by step; the third is its end."""
    task = asyncio.create_task(work)
    for _ in range(2):
        go = await arrived.get()
        yield
        go.set()
    await task
    yield


async def test_an_empty_backlog_keeps_no_messages(store: RedisSessionStore, redis: Redis, namespace: str) -> None:
    await put(store, "s", "a", "b")
    await store.undefer("s", ["a", "b"])
    assert list(await keys_of(redis, namespace)) == ["newest"]


async def test_positions_follow_the_clock_and_what_was_given(
    store: RedisSessionStore, redis: Redis, namespace: str
) -> None:
    """The server's clock was set back since the last append: positions go on growing."""
    keys = KeySpace(namespace).session("s")
    await put(store, "s", "a")
    (first,) = await store.deferred("s", count=1)
    await redis.set(keys[11], first.position + 10**12)
    await store.undefer("s", ["a"])
    await put(store, "s", "b")
    (second,) = await store.deferred("s", after=first.position + 10**12, count=1)
    assert second == Deferred("b", b"{}", first.position + 10**12 + 1)


async def test_a_message_that_is_gone_is_named(store: RedisSessionStore, redis: Redis, namespace: str) -> None:
    """Redis dropped the messages (eviction): to go on with the next turn would break the order."""
    await put(store, "s", "a", "b")
    await redis.hdel(KeySpace(namespace).session("s")[10], "a")
    with pytest.raises(RecordCorrupt, match=r"'s'.*evicts"):
        await store.deferred("s", count=2)


async def test_remains_of_an_evicted_session_are_no_outcome(
    store: RedisSessionStore, redis: Redis, namespace: str
) -> None:
    """As for the record: what is left of a session that is gone does not say how a turn of the next one ended."""
    record = make_record(["one"])
    end(record, "t", "reply")
    await store.save("s", record)
    await redis.delete(KeySpace(namespace).session("s")[3])
    await refused(store, "s", "t")


async def test_refusals_are_bounded(store: RedisSessionStore, redis: Redis, namespace: str) -> None:
    """By their number and by their age, so that a flood costs no more than a prefetch."""
    keys = KeySpace(namespace).session("s")
    outcomes = [TurnOutcome(f"t{n}", 1_000.0 + n, ("{}",), "dead") for n in range(REFUSALS + 50)]
    await asyncio.gather(*(store.refuse("s", outcome, retention=Retention()) for outcome in outcomes))
    assert (await redis.hlen(keys[9]), await redis.zcard(keys[12])) == (REFUSALS, REFUSALS)
    assert (await store.standing("s", "t49")).refusal is None
    late = TurnOutcome("late", outcomes[-1].at + 5, ("{}",), "dead")
    await store.refuse("s", late, retention=Retention(ids_s=10))
    assert (await redis.hlen(keys[9]), await redis.zcard(keys[12])) == (7, 7)
    assert (await store.standing("s", "t2044")).refusal == outcomes[2044]
    assert (await store.standing("s", "t2043")).refusal is None


async def test_a_damaged_refusal_is_named_and_the_lock_given_back(
    store: RedisSessionStore, locks: RedisLockBackend, redis: Redis, namespace: str
) -> None:
    leasing = leasing_for(store, locks)
    for damage in ("{", "[]", '{"id": 1, "at": 2}'):
        await redis.hset(KeySpace(namespace).session("s")[9], "t", damage)
        with pytest.raises(RecordCorrupt, match="'s'"):
            await store.standing("s", "t")
        with pytest.raises(RecordCorrupt, match="'s'"):
            async with leasing.lease("s", turn_id="t"):
                pass
    async with asyncio.timeout(20), locks.acquire("s"):
        assert await store.begin("s", "t") == 1


async def test_a_lease_says_how_its_turn_stands_in_the_same_round_trip(
    store: RedisSessionStore, locks: RedisLockBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    leasing = leasing_for(store, locks)
    await put(store, "s", "a", "b")
    kept = await refused(store, "s", "x")
    async with leasing.lease("s", turn_id="warm") as lease:
        await lease.save(record := make_record(["one"]))
    commands: list[Command] = []
    execute = store._link.execute

    async def counting(sent: Sequence[Command], timeout_s: float) -> list[Any]:
        commands.extend(sent)
        return await execute(sent, timeout_s)

    monkeypatch.setattr(store._link, "execute", counting)
    cases: list[tuple[str | None, Standing]] = [("a", Standing(2)), ("x", Standing(2, kept)), (None, Standing())]
    for turn_id, standing in cases:
        for known in (None, record.stored):
            commands.clear()
            async with leasing.lease("s", known=known, turn_id=turn_id) as lease:
                assert Standing(lease.waiting, lease.refusal) == standing
                assert lease.unchanged == (known is not None)
                assert len(commands) == 1
