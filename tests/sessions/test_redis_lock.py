"""RedisLockBackend: the suite that every lock passes, and what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from sdqueue.errors import ConfigurationError, LockLost, StoreUnavailable
from sdqueue.sessions.locks.redis import RedisLockBackend
from sdqueue.sessions.redis import watchdog
from sdqueue.sessions.redis.keys import KeySpace
from sdqueue.testing import LockBackendSuite

pytestmark = pytest.mark.redis

PATIENCE_S = 20.0
"""Less than the life of a lock, so that nobody gets one because it ended."""


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for some seconds makes nobody look dead."""
    monkeypatch.setattr(watchdog, "ALIVE_MS", 60_000)


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiters are woken, or sleep for a minute: none looks by itself."""
    monkeypatch.setattr("sdqueue.sessions.locks.redis.RECHECK_S", 60)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def backends(redis_url: str, namespace: str) -> AsyncIterator[list[RedisLockBackend]]:
    """Three, as three processes have them."""
    backends = [RedisLockBackend(redis_url, namespace=namespace) for _ in range(3)]
    yield backends
    for backend in backends:
        await backend.aclose()


class TestRedisLockBackend(LockBackendSuite):
    @pytest.fixture
    async def locks(self, backends: list[RedisLockBackend]) -> RedisLockBackend:
        self.other = backends[1]
        return backends[0]

    async def second_backend(self, locks: Any) -> RedisLockBackend:
        return self.other

    async def entries(self, locks: Any) -> int:
        keys: int = locks.entries + locks.watchdog.held
        return keys


class Line:
    """Tasks that take a lock one after the other, and who got it when."""

    def __init__(self, redis: Redis, namespace: str) -> None:
        self.order: list[Any] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._redis = redis
        self._waiters = KeySpace(namespace).session("k")[2]

    async def join(self, name: Any, backend: RedisLockBackend) -> asyncio.Task[None]:
        """A task that waits in Redis when this returns."""

        async def work() -> None:
            async with backend.acquire("k"):
                self.order.append(name)

        before = await self._redis.hlen(self._waiters)
        self.tasks.append(asyncio.create_task(work()))
        while await self._redis.hlen(self._waiters) == before:
            await asyncio.sleep(0.002)
        return self.tasks[-1]


async def test_waiters_of_all_processes_are_served_in_order(
    backends: list[RedisLockBackend], redis: Redis, namespace: str
) -> None:
    """Holder A; B waits, then C: the release must not go to C, whichever asks again first."""
    for first, second in ((1, 2), (2, 1)):
        line = Line(redis, namespace)
        async with backends[0].acquire("k"):
            await line.join(first, backends[first])
            await line.join(second, backends[second])
        await asyncio.gather(*line.tasks)
        assert line.order == [first, second]


@pytest.mark.usefixtures("no_looks")
async def test_a_release_wakes_the_next_at_once(backends: list[RedisLockBackend], redis: Redis, namespace: str) -> None:
    """Nobody polls: twenty handovers between processes take less than one look of a waiter's own."""
    await _subscribed(redis, namespace, 2, backends[:2])
    turns = 0

    async def work(backend: RedisLockBackend) -> None:
        nonlocal turns
        for _ in range(10):
            async with backend.acquire("k"):
                turns += 1
                await asyncio.sleep(0.001)

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(work(backend) for backend in backends[:2]))
    assert turns == 20


async def _subscribed(redis: Redis, namespace: str, count: int, backends: list[RedisLockBackend]) -> None:
    for backend in backends:
        async with backend.acquire("warm"):
            pass
    async with asyncio.timeout(PATIENCE_S):
        while len(await redis.pubsub_channels(f"{namespace}:granted:*")) < count:
            await asyncio.sleep(0.005)


async def test_a_lost_wake_up_is_made_up_for(
    backends: list[RedisLockBackend], redis: Redis, namespace: str, redis_url: str
) -> None:
    """The connection of the waiter's messages is killed before the release: it finds its lock by its own look."""
    waiting = RedisLockBackend(f"{redis_url}?client_name={namespace}", namespace=namespace)
    await _subscribed(redis, namespace, 1, [waiting])
    line = Line(redis, namespace)
    async with backends[0].acquire("k"):
        await line.join("waiter", waiting)
        (listener,) = [c for c in await redis.client_list(_type="pubsub") if c["name"] == namespace]
        assert await redis.client_kill_filter(_id=listener["id"]) == 1
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*line.tasks)
    assert line.order == ["waiter"]
    await _subscribed(redis, namespace, 1, [waiting])  # and its messages come again
    await waiting.aclose()


class Deaf(dict[bytes, asyncio.Event]):
    """Waiters to whom no message gets through, as if it were still on its way."""

    def get(self, name: bytes, default: Any = None) -> Any:
        return default


@pytest.mark.usefixtures("no_looks")
async def test_a_waiter_cancelled_as_it_is_handed_the_lock_passes_it_on(
    backends: list[RedisLockBackend], redis: Redis, namespace: str
) -> None:
    """A releases, the script hands the lock to B, B is cancelled before it reads that: C must get it."""
    backends[1]._waiting = Deaf()
    line = Line(redis, namespace)
    async with backends[0].acquire("k"):
        cancelled = await line.join("B", backends[1])
        await line.join("C", backends[2])
    holder = await redis.get(KeySpace(namespace).session("k")[0])
    assert isinstance(holder, bytes)
    assert holder.startswith(backends[1]._owner)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    async with asyncio.timeout(PATIENCE_S):  # less than a look of C's own takes: the lock is handed on
        await line.tasks[1]
    assert line.order == ["C"]


async def test_a_lock_that_is_free_goes_to_who_waits(
    backends: list[RedisLockBackend], redis: Redis, namespace: str
) -> None:
    """The lock ended without a release, B waits for it, and C comes before B has looked: B goes first."""
    await redis.set(KeySpace(namespace).session("k")[0], "0123456789abcdef:1", px=30_000)
    await redis.set(KeySpace(namespace).alive(b"0123456789abcdef"), 1, px=30_000)
    line = Line(redis, namespace)
    await line.join("B", backends[1])
    await redis.delete(KeySpace(namespace).session("k")[0])
    async with backends[2].acquire("k"):
        line.order.append("C")
    await asyncio.gather(*line.tasks)
    assert line.order == ["B", "C"]


async def test_one_missing_heartbeat_is_no_death(
    backends: list[RedisLockBackend], redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was asleep, all heartbeats ended, and a waiter asks before the living have shown themselves again."""
    answers = [-2]
    command = backends[1]._scripts.command

    def ask(*words: Any) -> asyncio.Future[Any]:
        future = command(*words)
        if words[0] == "PTTL" and answers:
            future = asyncio.get_running_loop().create_future()
            future.set_result(answers.pop())
        return future

    monkeypatch.setattr(backends[1]._scripts, "command", ask)
    line = Line(redis, namespace)
    async with backends[0].acquire("k"):
        await line.join("waiter", backends[1])
        while answers:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.4)
        line.order.append("holder")
    await asyncio.gather(*line.tasks)
    assert line.order == ["holder", "waiter"]


async def test_a_waiter_that_died_is_passed_over(
    backends: list[RedisLockBackend], redis: Redis, namespace: str
) -> None:
    """A dead process stands in the line: it is not waited for, and its entry does not stay."""
    keys = KeySpace(namespace).session("k")
    await redis.hset(keys[2], "0123456789abcdef:1", "1 1 30000")
    async with asyncio.timeout(PATIENCE_S), backends[0].acquire("k"):
        assert await redis.hlen(keys[2]) == 0


async def test_an_answer_that_got_lost_does_not_block_the_session(
    backends: list[RedisLockBackend], redis: Redis, namespace: str
) -> None:
    """The lock was taken for this process, but the answer never came: it must not wait for itself."""
    backend = backends[0]
    async with backend.acquire("other"):
        pass
    holding = backend.holding("k")
    await redis.set(KeySpace(namespace).session("k")[0], holding.name, px=30_000)
    async with asyncio.timeout(PATIENCE_S), backend.acquire("k") as held:
        assert held.key == "k"


async def test_nothing_stays_in_redis_but_the_token_with_its_ttl(
    backends: list[RedisLockBackend], redis: Redis, namespace: str
) -> None:
    line = Line(redis, namespace)
    async with backends[0].acquire("k"):
        for backend in backends[1:]:
            await line.join(backend, backend)
        for key in await redis.keys(f"{namespace}:*"):
            assert await redis.pttl(key) > 0
    await asyncio.gather(*line.tasks)
    left = sorted(await redis.keys(f"{namespace}:{{*"))
    assert left == [KeySpace(namespace).session("k")[1]]
    assert await redis.ttl(left[0]) > 30 * 24 * 3600
    for backend in backends:
        await backend.aclose()
    assert await redis.keys(f"{namespace}:alive:*") == []


async def test_tokens_grow_even_where_redis_lost_the_last(backends: list[RedisLockBackend], redis: Redis) -> None:
    """The token follows the server's clock, so that a lost key does not start it again at one."""
    async with backends[0].acquire("k") as before:
        pass
    keys = backends[0].keys.session("k")
    assert await redis.delete(keys[1]) == 1
    async with backends[1].acquire("k") as after:
        pass
    assert after.token > before.token
    ahead = after.token + 10**12
    await redis.set(keys[1], ahead)
    async with backends[1].acquire("k") as held:
        assert held.token == ahead + 1


async def test_a_lock_outlives_its_ttl_while_it_is_held(
    backends: list[RedisLockBackend], redis: Redis, namespace: str
) -> None:
    """Held while a third of its life goes by again and again, with somebody waiting all the time: it is renewed."""
    line, lock = Line(redis, namespace), KeySpace(namespace).session("k")[0]
    async with backends[0].acquire("k"):
        await line.join("other", backends[1])
        for _ in range(3):
            for holding in backends[0].watchdog._held.values():
                holding.renewed_at -= 10.1
            await redis.pexpire(lock, 19_900)
            while (left_ms := await redis.pttl(lock)) < 20_000:
                assert left_ms > 0, "it has ended"
                await asyncio.sleep(0.01)
        assert line.order == []
    await asyncio.gather(*line.tasks)


async def test_a_lock_taken_away_ends_the_block(
    backends: list[RedisLockBackend], redis: Redis, namespace: str, redis_url: str
) -> None:
    """Somebody deletes the key by hand: the next renewal finds out and stops the turn."""
    backend = RedisLockBackend(redis_url, namespace=namespace, ttl_s=1.0)

    async def work() -> None:
        async with asyncio.timeout(PATIENCE_S), backend.acquire("k"):
            await redis.delete(KeySpace(namespace).session("k")[0])
            await asyncio.Event().wait()

    with pytest.raises(LockLost, match="'k'"):
        await work()
    assert backend.entries == 0
    await backend.aclose()


async def test_a_lock_found_gone_at_the_end_is_reported(
    backends: list[RedisLockBackend], redis: Redis, namespace: str
) -> None:
    """The work ended before the watchdog noticed: it was not alone all the time, and is told."""
    with pytest.raises(LockLost):
        async with backends[0].acquire("k"):
            await redis.delete(KeySpace(namespace).session("k")[0])


async def test_the_error_of_the_block_wins_over_a_lock_found_gone(
    backends: list[RedisLockBackend], redis: Redis, namespace: str
) -> None:
    async def work() -> None:
        async with backends[0].acquire("k"):
            await redis.delete(KeySpace(namespace).session("k")[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()


async def test_a_cancellation_from_outside_wins_over_a_lost_lock(backends: list[RedisLockBackend]) -> None:
    """The watchdog cancels, and so does the caller, in the same step: the task must end cancelled."""
    backend, inside = backends[0], asyncio.Event()

    async def work() -> None:
        async with backend.acquire("k"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    for holding in list(backend.watchdog._held.values()):
        backend.watchdog._lose(holding, "for the test")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_lost_lock_leaves_no_cancellation_behind(backends: list[RedisLockBackend]) -> None:
    """After LockLost the task is as it was: a timeout around it, and the next await, work."""
    backend = backends[0]

    async def work() -> None:
        async with backend.acquire("k"):
            (holding,) = backend.watchdog._held.values()
            backend.watchdog._lose(holding, "for the test")
            await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(LockLost):
            await work()
        await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_closing_ends_blocks_that_still_hold(backends: list[RedisLockBackend]) -> None:
    backend, inside = backends[0], asyncio.Event()

    async def work() -> None:
        async with backend.acquire("k"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    await backend.aclose()
    with pytest.raises(LockLost, match="closed"):
        await task
    with pytest.raises(StoreUnavailable, match="closed"):
        async with backend.acquire("k"):
            pass
    async with asyncio.timeout(PATIENCE_S), backends[1].acquire("k"):
        assert backend.entries == 0


async def test_a_watchdog_that_fails_gives_up_its_locks(
    backends: list[RedisLockBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect in the renewal must not leave locks that nobody keeps; the next acquire starts it again."""
    backend = backends[0]

    async def broken(now: float) -> None:
        raise ZeroDivisionError

    async def work() -> None:
        async with asyncio.timeout(PATIENCE_S), backend.acquire("k"):
            monkeypatch.setattr(backend.watchdog, "_once", broken)
            await asyncio.Event().wait()

    with pytest.raises(LockLost, match="watchdog"):
        await work()
    monkeypatch.undo()
    async with asyncio.timeout(PATIENCE_S), backend.acquire("k"):
        assert backend.watchdog.running


def test_a_life_too_short_to_be_renewed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"0\.1 s"):
        RedisLockBackend("redis://localhost", ttl_s=0.1)
