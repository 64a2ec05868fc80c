"""Locks that end: a lock service with a time to live, and what a process has of it."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from sdqueue.errors import StoreUnavailable
from sdqueue.sessions.locks.lock import Held
from sdqueue.sessions.redis.holding import Holding
from tests.simulation.wire import Backend, Wire

TTL_S = 3.0

UNHEARD = 0.05
"""Share of locks that are given back in vain."""


class LockService:
    """Grants each key to one at a time, first come, first served, and takes it back when it is not renewed.

    Parameters:
        backend: the side of the world that it is on.
        ttl_s: how long a lock lives without a renewal.
    """

    def __init__(self, backend: Backend, ttl_s: float = TTL_S) -> None:
        self.backend = backend
        self.ttl_s = ttl_s
        self._tokens = itertools.count(1)
        self._held: dict[str, tuple[int, asyncio.TimerHandle]] = {}
        self._waiting: dict[str, deque[asyncio.Future[int]]] = {}

    @property
    def entries(self) -> int:
        """How many keys are held or waited for."""
        return len(self._held.keys() | self._waiting.keys())

    def ask(self, key: str) -> asyncio.Future[int]:
        """Stand in line for a key; done, with the token, when it is granted. Cancel it to leave the line."""
        asked: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(asked)
        self._grant(key)
        return asked

    def renew(self, key: str, token: int) -> bool:
        """Give the holder another life of the lock; false for anybody else."""
        held = self._held.get(key)
        if held is None or held[0] != token:
            return False
        held[1].cancel()
        self._held[key] = (token, self._timer(key, token))
        return True

    def release(self, key: str, token: int) -> None:
        """Take the key back from this holder; nothing happens where it is no longer the holder."""
        held = self._held.get(key)
        if held is not None and held[0] == token:
            held[1].cancel()
            del self._held[key]
            self._grant(key)

    def _grant(self, key: str) -> None:
        waiting = self._waiting.get(key)
        while waiting and key not in self._held:
            asked = waiting.popleft()
            if not asked.done():
                token = next(self._tokens)
                self._held[key] = (token, self._timer(key, token))
                asked.set_result(token)
        if not waiting:
            self._waiting.pop(key, None)

    def _timer(self, key: str, token: int) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_later(self.ttl_s, self.release, key, token, context=self.backend.context)


class SimulatedLocks:
    """The lock backend of one process.

    A lock that could not be renewed in time is lost: its task is cancelled, as by the Redis backend, whose
    :class:`~sdqueue.sessions.redis.holding.Holding` this uses. A process that stands still renews nothing, and when it
    goes on does not know at once that somebody else has its locks.

    Parameters:
        wire: the way to the service.
        service: shared with the other processes.
    """

    def __init__(self, wire: Wire, service: LockService) -> None:
        self._wire = wire
        self._service = service

    def acquire(self, key: str) -> AbstractAsyncContextManager[Held]:
        return _Lock(key, self._wire, self._service)

    async def aclose(self) -> None:
        """Nothing to close; for the symmetry with other backends."""


class _Lock:
    """One use of the lock; may be entered once."""

    def __init__(self, key: str, wire: Wire, service: LockService) -> None:
        self._key = key
        self._wire = wire
        self._service = service
        self._holding = Holding(key, None, b"")  # type: ignore[arg-type]
        self._token = 0
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Held:
        key, service = self._key, self._service
        asked: asyncio.Future[int] = await self._wire.call(service.backend, f"lock {key}", lambda: service.ask(key))
        try:
            self._token = await asked
        except asyncio.CancelledError:
            if asked.done() and not asked.cancelled():
                self._give_back(asked.result())
            raise
        self._wire.process.note(f"has lock {key}, token {self._token}")
        self._holding.start(self, self._wire.loop.time())  # type: ignore[arg-type]
        return Held(key, self._token)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._holding.end(self, error)  # type: ignore[arg-type]
        finally:
            self._give_back(self._token)

    def add(self, holding: Holding) -> None:
        """Called by the holding: it is held."""
        self._keeper = self._wire.loop.create_task(self._keep(holding), name=f"keeper of {self._key}")

    def discard(self, holding: Holding) -> None:
        """Called by the holding: it is held no longer."""
        assert self._keeper is not None
        self._keeper.cancel()

    async def _keep(self, holding: Holding) -> None:
        wire, service, key, token = self._wire, self._service, self._key, self._token
        while True:
            await asyncio.sleep(service.ttl_s / 3)
            now = wire.loop.time()
            try:
                kept = await wire.call(service.backend, f"renew {key}", lambda: service.renew(key, token))
            except StoreUnavailable:
                if now - holding.renewed_at > service.ttl_s / 3:
                    holding.lose("it could not be renewed")
                    return
                continue
            if not kept:
                holding.lose("somebody else has it")
                return
            holding.renewed_at = now

    def _give_back(self, token: int) -> None:
        # Not waited for, and not always heard: then the lock lives out its time.
        if self._wire.process.dead:
            return
        wire, service = self._wire, self._service
        if service.backend.away or (not wire.calm and wire.chance.random() < UNHEARD):
            return
        context, latency = service.backend.context, wire.latency()
        if latency:
            wire.loop.call_later(latency, service.release, self._key, token, context=context)
        else:
            context.copy().run(service.release, self._key, token)
