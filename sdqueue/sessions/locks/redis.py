"""RedisLockBackend: one process at a time on a session, among any number of machines."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster

from sdqueue.errors import ConfigurationError, LockLost, SessionError, StoreUnavailable
from sdqueue.sessions.locks.asyncio import AsyncioLockBackend
from sdqueue.sessions.locks.lock import Held
from sdqueue.sessions.redis.connection import CONNECTION_ERRORS, connect
from sdqueue.sessions.redis.holding import Holding
from sdqueue.sessions.redis.keys import LOCK_KEYS, Keys, KeySpace
from sdqueue.sessions.redis.scripts import ACQUIRE, WITHDRAW, Script, ScriptRunner
from sdqueue.sessions.redis.watchdog import Watchdog

RECHECK_S: Final = 0.5
"""A waiter that is not woken looks for itself so often; it is also how it shows that it lives."""
CONFIRM_S: Final = 0.15
"""A heartbeat must be missing for so long, so that a Redis that was asleep first hears the living ones."""
TOKEN_TTL_S: Final = 32 * 24 * 3600
"""Longer than a session is kept by default. The token does not depend on it: it also follows the server's clock."""
_RETRY_S: Final = 0.2

_log: Final = logging.getLogger(__name__)

Attempt = Callable[[bytes], "asyncio.Future[Any]"]
"""Asks Redis for the lock, passing over the dead holder named (empty for none). It answers the holder's name, as bytes,
or anything else where the lock was got."""
Undo = Callable[[bool], tuple[Script, Keys, tuple[Any, ...]]]
"""The call that gives the lock back; the argument says whether an attempt has got it, or may have."""


class RedisLockBackend:
    """Serialises sessions by locks in Redis that end when their holder does, and not before.

    A lock has an owner, a fencing token and a life of ``ttl_s``. A watchdog renews it on a connection of its own as
    long as the block runs; when that fails, the block is cancelled and raises ``LockLost`` before the life ends.
    Waiters are first come, first served across processes. They sleep until the release hands the lock over to them;
    looks of their own, every half second, make up for a lost message and find out holders that died: a process
    without a sign of life for 1.5 s loses its locks to whoever waits. That may also hit one that was only asleep,
    whose saves are then refused by the version check.

    Nothing needs to be started; :meth:`aclose` ends the connections. It also works in superdialog's own worker.

    Parameters:
        url: see :func:`~sdqueue.sessions.redis.connection.connect`.
        namespace: the prefix of its keys; all processes of a pool have the same.
        ttl_s: after so many seconds without renewal Redis forgets a lock by itself.
        client: instead of the URL, a redis-py client of the application's own, which must allow some connections.

    Raises:
        ConfigurationError: the URL, the namespace or the TTL cannot work.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str = "sdqueue",
        ttl_s: float = 30.0,
        client: Redis | RedisCluster | None = None,
    ) -> None:
        if not ttl_s >= 0.5:
            raise ConfigurationError(
                f"the life of a lock is {ttl_s:g} s; it must be at least 0.5 s to be renewed in time"
            )
        self.link = connect(url, client)
        self.service: object = url if client is None else client
        self.keys = KeySpace(namespace)
        self.lock_args: tuple[Any, ...] = (int(ttl_s * 1000), TOKEN_TTL_S * 1000, self.keys.granted)
        self._owner = secrets.token_hex(8).encode()
        self._numbers = itertools.count(1)
        self._local = AsyncioLockBackend()
        self.watchdog = Watchdog(self.link, self.keys, self._owner, ttl_s)
        self._scripts = ScriptRunner(self.link)
        self._waiting: dict[bytes, asyncio.Event] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def entries(self) -> int:
        """How many keys this process holds or waits for now; 0 when nobody works."""
        return self._local.entries

    def acquire(self, key: str) -> AbstractAsyncContextManager[Held]:
        """Hold the lock for the length of an ``async with`` block.

        Raises (on entry or in the block):
            LockLost: it could not be kept; the task in the block is cancelled and the block raises this.
            StoreUnavailable: Redis cannot be reached.
        """
        return _PlainLock(self, key, self._scripts)

    async def aclose(self) -> None:
        """End the connections. Blocks that still hold a lock are cancelled with ``LockLost``. Idempotent."""
        self._closed = True
        if self._starting is not None:
            # Whoever wanted it to start was told what went wrong.
            await asyncio.gather(self._starting, return_exceptions=True)
        await self.watchdog.stop()
        while self._chores:
            await asyncio.wait(self._chores.copy())
        await self._scripts.aclose()
        await self.link.aclose()

    # For leases, which take the lock together with the record.

    def holding(self, key: str) -> Holding:
        """A lock that is not taken yet."""
        return Holding(key, self.keys.session(key), b"%b:%d" % (self._owner, next(self._numbers)))

    async def enter(self, holding: Holding, attempt: Attempt, undo: Undo, scripts: ScriptRunner) -> Any:
        """Take the lock: first in the line of this process, then in that of all. Returns the attempt's answer.

        Parameters:
            undo: gives back what the attempt may have got.
            scripts: what both are made with.
        """
        if self._closed:
            raise StoreUnavailable(f"the lock backend on Redis at {self.link.url} was closed by aclose()")
        if not self.watchdog.running:
            await self._start()
        await self._local.take(holding.key)
        try:
            sent_at = time.monotonic()
            # Known before it is asked for: the message that hands the lock over may overtake the answer.
            self._waiting[holding.name] = granted = asyncio.Event()
            try:
                holding.asking = True
                answer = await attempt(b"")
                if type(answer) is bytes:
                    holding.asking = False
                    sent_at, answer = await self._wait(granted, holding, attempt, answer)
            finally:
                del self._waiting[holding.name]
        except SessionError:
            self._orphan(holding, undo)
            raise
        except BaseException:
            self._later(self._undo(holding, undo, scripts))
            raise
        holding.start(self.watchdog, sent_at)
        return answer

    async def leave(
        self, holding: Holding, error: BaseException | None, undo: Undo | None, scripts: ScriptRunner
    ) -> Any:
        """Give the lock back at the end of a block. Returns the answer, ``None`` where there is none.

        Parameters:
            error: what ends the block.
            undo: gives it back; ``None`` where that has been done.
            scripts: what it is made with.

        Raises:
            LockLost: it was lost, and nothing else ends the block.
        """
        holding.asking = True
        try:
            holding.end(self.watchdog, error)
        except LockLost:
            self._orphan(holding, undo)
            raise
        # What Redis did not answer just now is not waited for again.
        if holding.lost or isinstance(error, StoreUnavailable):
            self._orphan(holding, undo)
            return None
        answer = None
        if undo is not None:
            try:
                answer = await scripts.call(*undo(True))
            except SessionError as failure:
                # The work is done and saved; only the next one waits, until the lock is taken back or ends.
                _log.warning("session %r: its lock is given back later: %s", holding.key, failure)
                self._orphan(holding, undo)
                return None
            except BaseException:
                self._later(self._settle(holding, undo, scripts))
                raise
        self._local.release(holding.key)
        return answer

    def _orphan(self, holding: Holding, undo: Undo | None) -> None:
        """Let the next one of this process in, and leave the giving back to the watchdog."""
        if undo is not None:
            self.watchdog.orphan(holding.name, *undo(holding.asking))
        self._local.release(holding.key)

    async def _settle(self, holding: Holding, undo: Undo, scripts: ScriptRunner) -> None:
        """Giving back was interrupted, but is under way."""
        await scripts.settled()
        self._orphan(holding, undo)

    async def _undo(self, holding: Holding, undo: Undo, scripts: ScriptRunner) -> None:
        """Taking was interrupted.

        The attempt may still be under way and succeed, or the lock may be handed over in this very moment.
        """
        await scripts.settled()
        try:
            await scripts.call(*undo(holding.asking))
        except SessionError as failure:
            _log.warning("session %r: its lock is given back later: %s", holding.key, failure)
            self._orphan(holding, undo)
        else:
            self._local.release(holding.key)

    async def _wait(
        self, granted: asyncio.Event, holding: Holding, attempt: Attempt, holder: bytes
    ) -> tuple[float, Any]:
        """Sleep until the lock is handed over, with looks of its own. Returns when the last attempt was sent."""
        missing, dead = b"", b""
        while True:
            life_ms = await self._scripts.command("PTTL", self.keys.alive(holder.partition(b":")[0]))
            if holder.startswith(self._owner + b":"):
                # The line of this process lets one in at a time, so nobody here has it: an answer got lost.
                dead = holder
            elif life_ms > 0:
                missing, pause_s = b"", min(RECHECK_S, life_ms / 1000 + 0.01)
            elif missing == holder:
                dead = holder
            else:
                missing, pause_s = holder, CONFIRM_S
            if not dead:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await granted.wait()
            granted.clear()
            sent_at = time.monotonic()
            holding.asking = True
            answer = await attempt(dead)
            dead = b""
            if type(answer) is not bytes:
                return sent_at, answer
            holding.asking = False
            holder = answer

    async def _start(self) -> None:
        """Start the watchdog and the listener, once for all who want it at the same time."""
        while not self.watchdog.running:
            if self._starting is None or self._starting.done():
                self._starting = asyncio.get_running_loop().create_task(self.watchdog.start(self._listen()))
            starting = self._starting
            await asyncio.wait([starting])
            starting.result()

    async def _listen(self) -> None:
        channel = self.keys.granted + self._owner
        while True:
            try:
                async with self.link.subscriber() as subscriber:
                    await subscriber.subscribe(channel)
                    while True:
                        message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=60.0)
                        if message is not None and (waiter := self._waiting.get(_bytes(message["data"]))):
                            waiter.set()
            except CONNECTION_ERRORS as error:
                _log.warning("no messages from %s until it is connected again: %s", self.link.url, error)
                await asyncio.sleep(_RETRY_S)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


class _PlainLock:
    """One use of the lock by itself; may be entered once."""

    def __init__(self, backend: RedisLockBackend, key: str, scripts: ScriptRunner) -> None:
        self._backend = backend
        self._scripts = scripts
        self._holding = holding = backend.holding(key)
        self._keys = holding.keys[:LOCK_KEYS]
        self._args = (holding.name, *backend.lock_args)

    async def __aenter__(self) -> Held:
        (token,) = await self._backend.enter(self._holding, self._take, self._undo, self._scripts)
        return Held(self._holding.key, int(token))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mine = await self._backend.leave(self._holding, error, self._undo, self._scripts)
        if mine == 0 and error is None:
            raise self._holding.error()

    def _take(self, dead: bytes) -> asyncio.Future[Any]:
        return self._scripts.call(ACQUIRE, self._keys, (*self._args, dead))

    def _undo(self, taken: bool) -> tuple[Script, Keys, tuple[Any, ...]]:
        return WITHDRAW, self._keys, self._args


def _bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data
