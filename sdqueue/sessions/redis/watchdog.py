"""Watchdog: keeps the locks of one process alive, and stops the work under a lock that it could not keep."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final

from sdqueue.errors import SessionError
from sdqueue.sessions.redis.connection import Link
from sdqueue.sessions.redis.holding import Holding
from sdqueue.sessions.redis.keys import Keys, KeySpace
from sdqueue.sessions.redis.scripts import RENEW, Script, ScriptRunner

BEAT_S: Final = 0.5
ALIVE_MS: Final = 1500
"""A process whose heartbeat is older is dead, and its locks may be taken (tried: waiting for a lock's life of 5 s
was the p99 of a pool that lost a consumer)."""

_RETRY_S: Final = 0.1
_ORPHAN_TRIES: Final = 3

_log: Final = logging.getLogger(__name__)


class Watchdog:
    """Beats the heart of a lock owner and renews its locks, on a connection of its own.

    A lock is lost when Redis says that somebody else has it or that it is gone, and when it could not be renewed until
    shortly before its life would end, counted from before its last renewal was sent. Then the task that holds it is
    cancelled, see :class:`~sdqueue.sessions.redis.holding.Holding`.

    Parameters:
        link: the Redis.
        keys: names of keys.
        owner: the name of this process's lock backend.
        ttl_s: the life of a lock.
    """

    def __init__(self, link: Link, keys: KeySpace, owner: bytes, ttl_s: float) -> None:
        self._link = link
        self._alive = keys.alive(owner)
        self._ttl_s = ttl_s
        self._margin_s = min(5.0, ttl_s / 5)
        self._beat_s = min(BEAT_S, ttl_s / 10)
        self._scripts = self._runner()
        self._held: dict[bytes, Holding] = {}
        self._orphans: dict[bytes, tuple[tuple[Script, Keys, tuple[Any, ...]], int]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def _runner(self) -> ScriptRunner:
        # An answer that comes later than this is of no use: the next attempt must still fit into a lock's life.
        return ScriptRunner(self._link, in_flight=1, timeout_s=min(self._link.timeout_s, self._ttl_s / 4))

    @property
    def running(self) -> bool:
        """Whether locks may be taken."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def held(self) -> int:
        """How many locks are held now."""
        return len(self._held)

    async def start(self, *others: Coroutine[Any, Any, None]) -> None:
        """Show a first sign of life, then keep doing so. Ends what was running before.

        Parameters:
            others: further work that must go on as long as locks are held.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        try:
            await self.stop()
            self._scripts = self._runner()
            await self._scripts.command("SET", self._alive, 1, "PX", ALIVE_MS)
        except BaseException:
            for other in others:
                other.close()
            raise
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(work) for work in (self._beat(), self._guard(), *others)]
        for task in self._tasks:
            task.add_done_callback(self._on_end)

    async def stop(self) -> None:
        """End it. Whoever still holds a lock loses it. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lose_all("the lock backend was closed")
        if tasks:
            with contextlib.suppress(SessionError):  # it ends by itself
                await self._scripts.command("DEL", self._alive)
        await self._scripts.aclose()

    def add(self, holding: Holding) -> None:
        """Keep this lock from now on."""
        self._held[holding.name] = holding

    def discard(self, holding: Holding) -> None:
        """Keep it no longer."""
        self._held.pop(holding.name, None)

    def orphan(self, name: bytes, script: Script, keys: Keys, args: tuple[Any, ...]) -> None:
        """Give back, as soon as Redis answers, what may have been taken by a call without an answer.

        More than once: a Redis that was paused may read the giving back before the taking.

        Parameters:
            name: of the holding.
            script, keys, args: the call that gives it back, with no effect where there is nothing to give.
        """
        self._orphans[name] = ((script, keys, args), _ORPHAN_TRIES)

    async def _beat(self) -> None:
        failing = False
        while True:
            started = time.monotonic()
            try:
                await self._once(started)
            except SessionError as error:
                if not failing:
                    _log.warning("heartbeat and renewal of %d locks failed, trying on: %s", len(self._held), error)
                failing = True
                await asyncio.sleep(_RETRY_S)
                continue
            failing = False
            await asyncio.sleep(max(0.0, started + self._beat_s - time.monotonic()))

    async def _once(self, now: float) -> None:
        alive = self._scripts.command("SET", self._alive, 1, "PX", ALIVE_MS)
        life_ms = int(self._ttl_s * 1000)
        due = []
        for holding in self._held.values():
            if now - holding.renewed_at >= self._ttl_s / 3:
                due.append((holding, self._scripts.call(RENEW, holding.keys[:1], (holding.name, life_ms))))
        orphans = [(name, self._scripts.call(*call)) for name, (call, _) in self._orphans.items()]
        answers = [alive, *(answer for _, answer in due), *(answer for _, answer in orphans)]
        await asyncio.wait(answers)
        for holding, answer in due:
            if answer.exception() is not None or holding.name not in self._held:
                continue
            if answer.result():
                holding.renewed_at = now
            else:
                self._lose(holding, "Redis no longer has it for this process")
        for name, answer in orphans:
            if answer.exception() is None:
                call, tries = self._orphans.pop(name)
                if tries > 1:
                    self._orphans[name] = (call, tries - 1)
        for answer in answers:
            answer.result()

    async def _guard(self) -> None:
        """Does no input or output, so nothing can delay it."""
        spare = self._ttl_s - self._margin_s
        while True:
            now = time.monotonic()
            for holding in [held for held in self._held.values() if now - held.renewed_at >= spare]:
                self._lose(holding, f"it could not be renewed for {now - holding.renewed_at:.1f} s")
            # A lock may be added that was asked for long ago, so there is no time by which nothing can be due.
            await asyncio.sleep(self._margin_s / 4)

    def _lose(self, holding: Holding, reason: str) -> None:
        self.discard(holding)
        holding.lose(reason)

    def _lose_all(self, reason: str) -> None:
        for holding in list(self._held.values()):
            self._lose(holding, reason)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task not in self._tasks:
            return
        _log.error("the keeping of locks has ended; all are given up", exc_info=task.exception())
        self._lose_all("its watchdog has ended by an error, see the log")
