"""RedisFeed: what visitors see, in Redis, for all processes of all machines."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, Final, Self

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import PubSub

from sdqueue.sessions.redis.connection import CONNECTION_ERRORS, connect
from sdqueue.sessions.redis.keys import KeySpace
from sdqueue.sessions.redis.scripts import Script, ScriptRunner
from sdqueue_producers.webchat.feed.feed import LARGEST_READ, Draft, Entry, FeedLimits, Page, Place, continues
from sdqueue_producers.webchat.feed.wakes import Wake, Wakes

RETRY_S: Final = 0.5
"""Seconds between two tries to hear of changes while Redis is away."""

PING_S: Final = 5.0
"""Seconds between two pings on the connection that hears of changes; without an answer for three of them it is dead."""

_FOLDER: Final = resources.files(__package__) / "lua"
_ADD: Final = Script("add", folder=_FOLDER)
_READ: Final = Script("read", folder=_FOLDER)
_PARTS: Final = (b"feed", b"feed:about", b"feed:places", b"feed:done")

_log: Final = logging.getLogger(__name__)


class RedisFeed:
    """Keeps the logs in Redis 6.2 or later, each a stream with its bookkeeping in the slot of its session.

    Every process hears of all changes on one connection of its own, however many visitors it has.

    Parameters:
        url: see :func:`~sdqueue.sessions.redis.connection.connect`.
        namespace: the prefix of its keys and the channel of its changes.
        limits: how much is kept, and for how long.
        client: instead of the URL, a redis-py client of the application's own.

    Raises:
        ConfigurationError: the URL or the namespace cannot work.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str = "sdqueue",
        limits: FeedLimits | None = None,
        client: Redis | RedisCluster | None = None,
    ) -> None:
        self._link = connect(url, client)
        self._keys = KeySpace(namespace)
        self._changes = f"{namespace}:webchat:changes"
        self._limits = FeedLimits() if limits is None else limits
        self._scripts = ScriptRunner(self._link)
        self._wakes = Wakes()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
        await self._scripts.aclose()
        await self._link.aclose()

    async def add(self, session_id: str, draft: Draft) -> bool:
        """See :class:`Feed`."""
        limits = self._limits
        args = [int(limits.ttl_s * 1000), limits.entries, limits.slots, draft.mode.value, draft.slot, draft.body]
        added = await self._scripts.call(_ADD, self._names(session_id), [*args, self._changes, session_id])
        return bool(added)

    async def read(self, session_id: str, after: Place | None) -> Page:
        """See :class:`Feed`."""
        (epoch, newest, floor), entries = await self._read(session_id, after)
        if after is None or continues(after, epoch=epoch, newest=newest, floor=floor):
            return Page(entries)
        _, entries = await self._read(session_id, None)
        return Page(entries, reset=True)

    @contextmanager
    def watch(self, session_id: str) -> Iterator[Wake]:
        """See :class:`Feed`."""
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen())
        with self._wakes.watch(session_id) as wake:
            yield wake

    async def _read(self, session_id: str, after: Place | None) -> tuple[tuple[int, int, int], list[Entry]]:
        names = self._names(session_id)[:2]
        answer = await self._scripts.call(_READ, names, ["" if after is None else str(after), LARGEST_READ])
        epoch, newest, floor, rows = answer
        return (int(epoch), int(newest), int(floor)), [_entry(row) for row in rows]

    async def _listen(self) -> None:
        while True:
            try:
                async with self._link.subscriber() as subscriber:
                    await subscriber.subscribe(self._changes)
                    await self._hear(subscriber)
            except CONNECTION_ERRORS as error:
                _log.warning("nothing is heard from %s until it is connected again: %s", self._link.url, error)
                await asyncio.sleep(RETRY_S)

    async def _hear(self, subscriber: PubSub) -> None:
        """Pass changes on until the connection is gone. Everybody looks once it is there: something may have come
        before."""
        heard = pinged = time.monotonic()
        while True:
            message = await subscriber.get_message(timeout=PING_S)
            now = time.monotonic()
            if message is not None:
                heard = now
                if message["type"] == "subscribe":
                    self._wakes.wake_all()
                elif message["type"] == "message":
                    self._wakes.wake(message["data"].decode())
            if now - heard > 3 * PING_S:
                raise ConnectionError(f"it has not answered a ping for {3 * PING_S:g} s")
            if now - pinged >= PING_S:
                await subscriber.ping()
                pinged = now

    def _names(self, session_id: str) -> tuple[bytes, ...]:
        stem = self._keys.session(session_id)[0].removesuffix(b"lock")
        return tuple(stem + part for part in _PARTS)


def _entry(row: Any) -> Entry:
    place = Place.parse(row[0].decode())
    assert place is not None  # the script has made it
    _, slot, _, body = row[1]
    return Entry(place, slot.decode(), body.decode())
