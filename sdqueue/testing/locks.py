"""LockBackendSuite: what every lock backend must do, as a pytest class to derive from."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import ClassVar
from uuid import uuid4

import pytest

from sdqueue.sessions.locks.lock import LockBackend
from sdqueue.testing.records import HOSTILE_IDS


class LockBackendSuite:
    """Every lock backend passes these. Derive from it, and give it your backend by a fixture::

        class TestMyLocks(LockBackendSuite):
            @pytest.fixture
            async def locks(self):
                locks = MyLockBackend()
                yield locks
                await locks.aclose()

    The tests are coroutines, for pytest-asyncio in auto mode. They use keys that nobody else has, so the lock
    service may be a shared one. Overriding :meth:`second_backend` and :meth:`entries` tests more.
    """

    patience_s: ClassVar[float] = 10.0
    """Seconds to wait for a lock that must be got."""

    settle_s: ClassVar[float] = 0.03
    """Seconds after which a task that asked for a lock certainly waits in line; nothing tells when it does."""

    async def second_backend(self, locks: LockBackend) -> LockBackend:
        """Another backend object for the same locks, as another process has it; whoever makes it closes it.

        Default: the backend itself, where locks live in the object.
        """
        return locks

    async def entries(self, locks: LockBackend) -> int:
        """How many keys the backend still keeps something for; default: 0, that is, not tested."""
        return 0

    @pytest.fixture
    def key(self) -> str:
        """A key that nobody else has."""
        return f"suite-{uuid4().hex}"

    async def expect_free(self, locks: LockBackend, *keys: str) -> None:
        """Each of these can be got now, and nothing is left behind."""
        for key in keys:
            async with asyncio.timeout(self.patience_s), locks.acquire(key):
                pass
        assert await self.entries(locks) == 0

    async def test_one_at_a_time(self, locks: LockBackend, key: str) -> None:
        inside = most = 0

        async def work() -> None:
            nonlocal inside, most
            for _ in range(5):
                async with locks.acquire(key):
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0)
                    inside -= 1

        async with asyncio.timeout(self.patience_s):
            await asyncio.gather(*(work() for _ in range(10)))
        assert most == 1
        await self.expect_free(locks, key)

    async def test_one_at_a_time_between_backends(self, locks: LockBackend, key: str) -> None:
        backends = [locks, await self.second_backend(locks)]
        inside = most = done = 0

        async def work(backend: LockBackend) -> None:
            nonlocal inside, most, done
            for _ in range(3):
                async with backend.acquire(key):
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0.001)
                    inside -= 1
                    done += 1

        async with asyncio.timeout(self.patience_s):
            await asyncio.gather(*(work(backend) for backend in backends * 4))
        assert (most, done) == (1, 24)

    async def test_another_backend_waits_for_the_holder(self, locks: LockBackend, key: str) -> None:
        other, got = await self.second_backend(locks), asyncio.Event()

        async def wait() -> None:
            async with other.acquire(key):
                got.set()

        async with locks.acquire(key):
            waiter = asyncio.create_task(wait())
            await asyncio.sleep(5 * self.settle_s)
            assert not got.is_set()
        async with asyncio.timeout(self.patience_s):
            await waiter
        assert got.is_set()
        await self.expect_free(locks, key)
        await self.expect_free(other, key)

    async def test_keys_do_not_wait_for_each_other(self, locks: LockBackend, key: str) -> None:
        """Also keys that look alike, or like paths or patterns: all are held at the same time."""
        keys = [f"{key[:20]}{name}"[:256] for name in HOSTILE_IDS if len(name) < 200]
        keys += [f"{name[20:]}{key[:20]}" for name in HOSTILE_IDS if len(name) >= 200]
        async with asyncio.timeout(self.patience_s), AsyncExitStack() as stack:
            held = [await stack.enter_async_context(locks.acquire(name)) for name in keys]
        assert [h.key for h in held] == keys
        assert await self.entries(locks) == 0

    async def test_who_comes_first_is_served_first(self, locks: LockBackend, key: str) -> None:
        order: list[int] = []

        async def wait(number: int) -> None:
            async with locks.acquire(key):
                order.append(number)

        async with locks.acquire(key):
            waiters = []
            for number in range(6):
                waiters.append(asyncio.create_task(wait(number)))
                await asyncio.sleep(self.settle_s)
        async with asyncio.timeout(self.patience_s):
            await asyncio.gather(*waiters)
        assert order == list(range(6))

    async def test_who_waits_is_served_before_who_comes(self, locks: LockBackend, key: str) -> None:
        """The holder asks again in the same step in which it releases: the one who waits goes first."""
        order: list[str] = []

        async def wait() -> None:
            async with locks.acquire(key):
                order.append("waiter")

        async with locks.acquire(key):
            waiter = asyncio.create_task(wait())
            await asyncio.sleep(self.settle_s)
        async with asyncio.timeout(self.patience_s):
            async with locks.acquire(key):
                order.append("again")
            await waiter
        assert order == ["waiter", "again"]

    async def test_tokens_grow(self, locks: LockBackend, key: str) -> None:
        other = await self.second_backend(locks)
        tokens = []
        async with asyncio.timeout(self.patience_s):
            for backend in (locks, other, other, locks, locks, other):
                async with backend.acquire(key) as held:
                    tokens.append(held.token)
                    assert held.key == key
        assert tokens == sorted(set(tokens))

    async def test_tokens_grow_with_handovers(self, locks: LockBackend, key: str) -> None:
        tokens: list[int] = []

        async def work() -> None:
            async with locks.acquire(key) as held:
                tokens.append(held.token)

        async with asyncio.timeout(self.patience_s):
            await asyncio.gather(*(work() for _ in range(10)))
        assert tokens == sorted(set(tokens))

    async def test_an_exception_releases_and_passes(self, locks: LockBackend, key: str) -> None:
        with pytest.raises(ZeroDivisionError):
            async with locks.acquire(key):
                raise ZeroDivisionError
        await self.expect_free(locks, key)

    async def test_a_cancelled_holder_releases(self, locks: LockBackend, key: str) -> None:
        held = asyncio.Event()

        async def hold() -> None:
            async with locks.acquire(key):
                held.set()
                await asyncio.Event().wait()

        holder = asyncio.create_task(hold())
        await held.wait()
        holder.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holder
        await self.expect_free(locks, key)

    async def test_a_cancelled_waiter_leaves_the_line(self, locks: LockBackend, key: str) -> None:
        order: list[int] = []

        async def wait(number: int) -> None:
            async with locks.acquire(key):
                order.append(number)

        async with locks.acquire(key):
            waiters = []
            for number in range(4):
                waiters.append(asyncio.create_task(wait(number)))
                await asyncio.sleep(self.settle_s)
            waiters[0].cancel()
            waiters[2].cancel()
            await asyncio.gather(waiters[0], waiters[2], return_exceptions=True)
        async with asyncio.timeout(self.patience_s):
            await asyncio.gather(waiters[1], waiters[3])
        assert order == [1, 3]
        await self.expect_free(locks, key)

    @pytest.mark.parametrize("steps", range(8))
    async def test_a_waiter_may_be_cancelled_at_any_step(self, locks: LockBackend, key: str, steps: int) -> None:
        """The holder releases, and so many steps of the event loop later the next waiter is cancelled.

        It may not have the lock yet, have just been given it, or hold it: the one behind it must get it
        anyway.
        """
        go = asyncio.Event()

        async def hold() -> None:
            async with locks.acquire(key):
                await go.wait()

        holder = asyncio.create_task(hold())
        await asyncio.sleep(self.settle_s)
        cancelled = asyncio.create_task(hold())
        await asyncio.sleep(self.settle_s)
        behind = asyncio.create_task(hold())
        await asyncio.sleep(self.settle_s)
        go.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelled.cancel()
        async with asyncio.timeout(self.patience_s):
            await asyncio.gather(cancelled, return_exceptions=True)
            await asyncio.gather(holder, behind)
        await self.expect_free(locks, key)
        assert behind.done()

    @pytest.mark.parametrize("steps", range(8))
    async def test_an_acquire_may_be_cancelled_at_any_step(self, locks: LockBackend, key: str, steps: int) -> None:
        """The same where the lock is free: a cancelled ``acquire`` leaves it free."""

        async def hold() -> None:
            async with locks.acquire(key):
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self.expect_free(locks, key)

    async def test_all_may_be_cancelled_at_once(self, locks: LockBackend, key: str) -> None:
        async def hold() -> None:
            async with locks.acquire(key):
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(hold()) for _ in range(10)]
        await asyncio.sleep(self.settle_s)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        await self.expect_free(locks, key)

    async def test_many_keys_leave_nothing(self, locks: LockBackend, key: str) -> None:
        async def work(number: int) -> None:
            async with locks.acquire(f"{key}-{number % 40}"):
                await asyncio.sleep(0)

        async with asyncio.timeout(self.patience_s):
            await asyncio.gather(*(work(number) for number in range(200)))
        assert await self.entries(locks) == 0

    async def test_asking_is_not_taking(self, locks: LockBackend, key: str) -> None:
        """``acquire`` returns a context manager and takes nothing before it is entered."""
        assert hasattr(locks.acquire(key), "__aenter__")
        await self.expect_free(locks, key)

    async def test_a_backend_is_never_taken_for_nothing(self, locks: LockBackend) -> None:
        """``lock_backend or default`` must never replace it."""
        assert isinstance(locks, LockBackend)
        assert not hasattr(locks, "__len__")
        assert not hasattr(locks, "__bool__")

    async def test_closing_twice_is_fine(self, locks: LockBackend, key: str) -> None:
        await self.expect_free(locks, key)
        close = getattr(locks, "aclose", None)
        if close is not None:
            await close()
            await close()
        assert await self.entries(locks) == 0
