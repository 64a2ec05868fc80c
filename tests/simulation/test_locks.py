"""The simulated locks are locks, and they end when nobody renews them."""

from __future__ import annotations

import asyncio
import random

import pytest

from sdqueue.errors import LockLost, StoreUnavailable
from sdqueue.sessions.locks.lock import LockBackend
from sdqueue.testing import LockBackendSuite
from tests.simulation.locks import LockService, SimulatedLocks
from tests.simulation.loop import VirtualLoop
from tests.simulation.process import Process, Surroundings
from tests.simulation.profile import Profile
from tests.simulation.wire import Backend, Wire


def _locks(loop: asyncio.AbstractEventLoop, service: LockService) -> tuple[Process, SimulatedLocks]:
    process = Process(Surroundings(loop), "p")
    wire = Wire(loop, process, Profile(slow=0), random.Random(1))
    wire.calm = True
    return process, SimulatedLocks(wire, service)


class TestSimulatedLocks(LockBackendSuite):
    """What every backend must do, in real time."""

    @pytest.fixture
    async def locks(self) -> LockBackend:
        self.service = LockService(Backend("store", StoreUnavailable))
        return _locks(asyncio.get_running_loop(), self.service)[1]

    async def second_backend(self, locks: LockBackend) -> LockBackend:
        return _locks(asyncio.get_running_loop(), self.service)[1]

    async def entries(self, locks: LockBackend) -> int:
        return self.service.entries


def test_the_lock_of_a_stopped_process_ends_and_the_sleeper_learns_of_it() -> None:
    loop = VirtualLoop()
    happened: list[str] = []

    async def sleeper(locks: SimulatedLocks) -> None:
        try:
            async with locks.acquire("s"):
                happened.append("sleeper")
                await asyncio.sleep(1000)
        except LockLost:
            happened.append("lost")

    async def world() -> None:
        service = LockService(Backend("store", StoreUnavailable), ttl_s=3.0)
        (asleep, his), (_, hers) = _locks(loop, service), _locks(loop, service)
        task = asleep.start(sleeper(his))
        await asyncio.sleep(30)
        assert happened == ["sleeper"], "a lock that is renewed does not end"
        asleep.freeze(20)
        started = loop.time()
        async with hers.acquire("s"):
            assert 2.0 <= loop.time() - started <= 3.0
            happened.append("next")
        await task

    loop.run_until_complete(world())
    assert happened == ["sleeper", "next", "lost"]


def test_the_lock_of_a_killed_process_ends() -> None:
    loop = VirtualLoop()

    async def hold(locks: SimulatedLocks) -> None:
        async with locks.acquire("s"):
            await asyncio.sleep(1000)

    async def world() -> None:
        service = LockService(Backend("store", StoreUnavailable), ttl_s=3.0)
        (mortal, his), (_, hers) = _locks(loop, service), _locks(loop, service)
        task = mortal.start(hold(his))
        await asyncio.sleep(10)
        mortal.kill()
        started = loop.time()
        async with hers.acquire("s"):
            assert 2.0 <= loop.time() - started <= 3.0
        mortal.bury()
        await asyncio.wait({task})

    loop.run_until_complete(world())
