"""Redis store and lock when processes are killed or asleep, and when Redis is paused, emptied or restarted."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from sdqueue.errors import LockLost, StoreUnavailable
from sdqueue.sessions.lease import leasing_for
from sdqueue.sessions.locks.redis import CONFIRM_S, RECHECK_S, RedisLockBackend
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.redis import watchdog
from sdqueue.sessions.redis.keys import KeySpace
from sdqueue.sessions.stores.redis import RedisSessionStore
from sdqueue.testing.records import end, make_record, say
from tests.servers.redis import PrivateRedis

pytestmark = [pytest.mark.redis, pytest.mark.chaos]

PATIENCE_S = 20.0
"""Less than the life of a lock, so that nobody gets one because it ended."""

MakeRedis = Callable[..., Awaitable[PrivateRedis]]

HOLDER = """
import asyncio, sys
from sdqueue.sessions.lease import leasing_for
from sdqueue.sessions.locks.redis import RedisLockBackend
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.redis import watchdog
from sdqueue.sessions.stores.redis import RedisSessionStore

async def main(url, namespace, alive_ms):
    watchdog.ALIVE_MS = int(alive_ms)
    store = RedisSessionStore(url, namespace=namespace)
    locks = RedisLockBackend(url, namespace=namespace)
    loop = asyncio.get_running_loop()
    try:
        async with leasing_for(store, locks).lease("s", turn_id="t") as lease:
            print("held", flush=True)
            await loop.run_in_executor(None, sys.stdin.readline)
            await lease.save(SessionRecord(metadata={"by": "holder"}))
        print("saved", flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
    await store.aclose()
    await locks.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def holder(url: str, namespace: str, *, alive_ms: int = watchdog.ALIVE_MS) -> AsyncIterator[Process]:
    """Another process that has taken session ``s`` up; it saves when it gets a line and says how that went."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, url, namespace, str(alive_ms)), stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


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


async def test_the_sessions_of_a_killed_process_go_on_within_two_seconds(
    redis_url: str, namespace: str, store: RedisSessionStore, locks: RedisLockBackend
) -> None:
    """It holds a lock with 30 s to live and is killed while somebody waits; its beginning stays counted.

    Its heartbeat ends by then, the waiter looks when it ends, and once more. Of three times the quickest tells how long
    that takes: other work on the machine only adds to it.
    """
    assert watchdog.ALIVE_MS / 1000 + max(RECHECK_S, 2 * CONFIRM_S) <= 2
    took = []
    for killed in range(1, 4):
        async with holder(redis_url, namespace) as process:

            async def wait(begun: int = killed + 1) -> float:
                async with leasing_for(store, locks).lease("s", turn_id="t") as lease:
                    assert lease.begun == begun
                    return time.monotonic()

            async with locks.acquire("warm"):
                waiter = asyncio.create_task(wait())
                await asyncio.sleep(0.3)
            assert not waiter.done()
            began = time.monotonic()
            process.kill()
            async with asyncio.timeout(PATIENCE_S):
                took.append(await waiter - began)
    assert min(took) < 2.3  # 2 s, and some for a machine with other work


async def test_a_process_that_was_asleep_can_do_no_harm(
    redis_url: str, namespace: str, store: RedisSessionStore, locks: RedisLockBackend
) -> None:
    """A holds and is stopped; B takes over and saves; A wakes and saves: refused, and B's record stays."""
    async with holder(redis_url, namespace) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        os.kill(process.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(PATIENCE_S), leasing_for(store, locks).lease("s") as lease:
                record = make_record(["by the one who took over"])
                await lease.save(record)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        process.stdin.write(b"\n")
        async with asyncio.timeout(PATIENCE_S):
            assert await process.stdout.readline() == b"LockLost\n"
    assert await store.load("s") == record


async def test_a_living_holder_is_not_taken_for_dead(
    redis_url: str, namespace: str, store: RedisSessionStore, locks: RedisLockBackend
) -> None:
    """Somebody waits while half a heartbeat's life goes by again and again: it comes anew, the holder keeps its lock,
    and the waiter gets its save."""
    async with holder(redis_url, namespace, alive_ms=20_000) as process, Redis.from_url(redis_url) as redis:
        assert process.stdin is not None
        keys = KeySpace(namespace)
        owner, _, _ = (await redis.get(keys.session("s")[0])).partition(b":")

        async def wait() -> SessionRecord | None:
            async with leasing_for(store, locks).lease("s") as lease:
                return lease.record

        waiter = asyncio.create_task(wait())
        for _ in range(3):
            await redis.pexpire(keys.alive(owner), 10_000)
            while (left_ms := await redis.pttl(keys.alive(owner))) <= 10_000:
                assert left_ms > 0, "it has ended"
                await asyncio.sleep(0.01)
        assert not waiter.done()
        process.stdin.write(b"\n")
        async with asyncio.timeout(PATIENCE_S):
            record = await waiter
        assert record is not None
        assert record.metadata == {"by": "holder"}


async def test_a_paused_redis_stops_the_work_before_the_lock_ends(private_redis: MakeRedis, namespace: str) -> None:
    """No renewal gets through: LockLost before anybody else could have the lock, and nothing stays afterwards.

    Given a lock whose last renewal is a second from being too old.
    """
    server, ttl_s, margin_s = await private_redis(), 30.0, 5.0
    locks, other = (RedisLockBackend(server.url, namespace=namespace, ttl_s=ttl_s) for _ in range(2))

    async def work() -> None:
        async with locks.acquire("k"):
            server.pause()
            for holding in locks.watchdog._held.values():
                holding.renewed_at -= ttl_s - margin_s - 1
            await asyncio.Event().wait()

    try:
        with pytest.raises(LockLost, match="renewed") as lost:
            await work()
    finally:
        server.resume()
    (seconds,) = re.findall(r"renewed for ([\d.]+) s", str(lost.value))
    assert ttl_s - margin_s <= float(seconds) < ttl_s
    async with asyncio.timeout(PATIENCE_S), other.acquire("k"):
        assert locks.entries == 0
    await locks.aclose()
    await other.aclose()


async def test_a_short_pause_of_redis_harms_nobody(private_redis: MakeRedis, namespace: str) -> None:
    """All heartbeats end while Redis sleeps for 1.8 s: when it wakes, a waiter must not take the holder for dead."""
    server = await private_redis()
    locks, other = (RedisLockBackend(server.url, namespace=namespace) for _ in range(2))
    order: list[str] = []

    async def wait() -> None:
        async with other.acquire("k"):
            order.append("waiter")

    async with locks.acquire("k"):
        waiter = asyncio.create_task(wait())
        await asyncio.sleep(0.2)
        server.pause()
        await asyncio.sleep(1.8)
        server.resume()
        await asyncio.sleep(1.0)
        order.append("holder")
    await waiter
    assert order == ["holder", "waiter"]
    await locks.aclose()
    await other.aclose()


async def test_an_emptied_redis_stops_the_work(private_redis: MakeRedis, namespace: str) -> None:
    """FLUSHALL while a lock is held: somebody else may have it now, so the holder is stopped at its next renewal."""
    server = await private_redis()
    locks = RedisLockBackend(server.url, namespace=namespace)

    async def work() -> None:
        async with asyncio.timeout(PATIENCE_S), locks.acquire("k"):
            await server.flush()
            for holding in locks.watchdog._held.values():
                holding.renewed_at -= 10.1  # a third of its life
            await asyncio.Event().wait()

    with pytest.raises(LockLost, match="no longer"):
        await work()
    await locks.aclose()


async def test_a_save_into_an_emptied_redis_is_refused(private_redis: MakeRedis, namespace: str) -> None:
    """FLUSHALL in a turn, before the watchdog knows: the save says that the lock is lost, and writes nothing."""
    server = await private_redis()
    store, locks = RedisSessionStore(server.url, namespace=namespace), RedisLockBackend(server.url, namespace=namespace)

    async def work() -> None:
        async with leasing_for(store, locks).lease("s") as lease:
            await server.flush()
            await lease.save(make_record(["one"]))

    with pytest.raises(LockLost):
        await work()
    assert await store.load("s") is None
    await store.aclose()
    await locks.aclose()


async def test_it_connects_again_after_a_restart(private_redis: MakeRedis, namespace: str) -> None:
    """Without anybody's help: errors while Redis is away, and everything as before when it is back."""
    server = await private_redis()
    store, locks = RedisSessionStore(server.url, namespace=namespace), RedisLockBackend(server.url, namespace=namespace)
    leasing = leasing_for(store, locks)
    async with leasing.lease("s", turn_id="t1") as lease:
        record = make_record(["one"])
        end(record, "t1", "r")
        await lease.save(record)
    await server.stop()
    with pytest.raises(StoreUnavailable, match=str(server.port)):
        await store.load("s")
    with pytest.raises(StoreUnavailable):
        async with leasing.lease("s", known=record.stored):
            pass
    assert locks.entries == 0
    await server.start()
    async with asyncio.timeout(PATIENCE_S), leasing.lease("s", known=record.stored, turn_id="t2") as lease:
        assert (lease.unchanged, lease.begun) == (True, 1)
        say(record, "two")
        await lease.save(record)
    assert await store.load("s") == record
    await store.aclose()
    await locks.aclose()


async def test_an_attempt_without_an_answer_leaves_no_lock(private_redis: MakeRedis, namespace: str) -> None:
    """Redis is paused, the attempt gives up, Redis wakes and reads it all the same: the lock is given back soon."""
    server = await private_redis()
    store = RedisSessionStore(f"{server.url}?socket_timeout=3", namespace=namespace)
    locks = RedisLockBackend(f"{server.url}?socket_timeout=3", namespace=namespace)
    async with locks.acquire("warm"):
        pass
    await store.load("warm")
    server.pause()
    try:
        with pytest.raises(StoreUnavailable, match="not known"):
            async with leasing_for(store, locks).lease("s", turn_id="t"):
                pass
    finally:
        server.resume()
    async with Redis.from_url(server.url) as redis:
        other = RedisLockBackend(server.url, namespace=namespace)
        async with asyncio.timeout(PATIENCE_S), other.acquire("s"):
            assert await redis.hlen(KeySpace(namespace).session("s")[2]) == 0
        await other.aclose()
    await store.aclose()
    await locks.aclose()


async def test_a_save_without_an_answer_says_so_and_gives_the_lock_back(
    private_redis: MakeRedis, namespace: str
) -> None:
    """Redis is paused during the save: it may or may not have happened, and is not sent twice; the session goes on."""
    server = await private_redis()
    url = f"{server.url}?socket_timeout=3"
    store, locks = RedisSessionStore(url, namespace=namespace), RedisLockBackend(url, namespace=namespace)
    leasing = leasing_for(store, locks)

    async def work() -> None:
        async with leasing.lease("s", turn_id="t") as lease:
            record = make_record(["one"])
            end(record, "t", "r")
            server.pause()
            await lease.save(record)

    try:
        with pytest.raises(StoreUnavailable, match="not known"):
            await work()
    finally:
        server.resume()
    assert locks.entries == 0
    async with asyncio.timeout(PATIENCE_S), leasing.lease("s", turn_id="t") as lease:
        assert lease.record is None or lease.record.version == 1
    await store.aclose()
    await locks.aclose()


async def test_cancelling_does_not_wait_for_a_paused_redis(private_redis: MakeRedis, namespace: str) -> None:
    """A turn is interrupted while it waits for a lock and Redis sleeps: it ends at once, and leaves the line later.

    Given an answer of Redis that would be waited for much longer.
    """
    server = await private_redis()
    locks = RedisLockBackend(f"{server.url}?socket_timeout=600", namespace=namespace)
    async with locks.acquire("warm"):
        pass
    server.pause()
    try:
        waiter = asyncio.create_task(locks.acquire("k").__aenter__())
        await asyncio.sleep(0.05)
        waiter.cancel()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(asyncio.CancelledError):
                await waiter
    finally:
        server.resume()
    async with asyncio.timeout(PATIENCE_S), locks.acquire("k") as held:
        assert held.key == "k"
    await locks.aclose()
