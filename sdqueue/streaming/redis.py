"""RedisDeltaLog: streamed answers in Redis, a bounded stream a turn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster

from sdqueue.sessions.redis.connection import CONNECTION_ERRORS, connect, unavailable
from sdqueue.sessions.redis.keys import KeySpace
from sdqueue.sessions.redis.scripts import Script, ScriptRunner
from sdqueue.streaming.log import LARGEST_READ, LogEntry, LogLimits
from sdqueue.streaming.offset import StreamOffset

APPEND_S: Final = 2.0
"""Seconds that Redis may take for an append: nobody's turn waits for it, and what comes meanwhile is kept in memory."""

_APPEND: Final = Script("append", folder=resources.files(__package__) / "lua")


class RedisDeltaLog:
    """Keeps streamed answers in Redis, for all processes. It needs Redis 6.2.

    The log of a turn is a Redis stream ``<namespace>:{<session id>}:stream:<turn id>``, whose entries have the
    offsets of the deltas for ids. A reader that waits has a connection of its own for so long; the appends of many
    turns travel together, on connections that no session uses.

    Parameters:
        url: see :func:`~sdqueue.sessions.redis.connection.connect`.
        namespace: the prefix of its keys; all processes of a pool have the same.
        limits: how much is kept, and for how long.
        client: instead of the URL, a redis-py client of the application's own, which must allow some connections.

    Raises:
        ConfigurationError: the URL or the namespace cannot work.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str = "sdqueue",
        limits: LogLimits | None = None,
        client: Redis | RedisCluster | None = None,
    ) -> None:
        self._link = connect(url, client)
        self._keys = KeySpace(namespace)
        self._limits = LogLimits() if limits is None else limits
        self._scripts = ScriptRunner(self._link, timeout_s=APPEND_S)

    async def append(self, session_id: str, turn_id: str, entries: Sequence[LogEntry]) -> None:
        """See :class:`~sdqueue.streaming.DeltaLog`."""
        args: list[Any] = [int(self._limits.ttl_s * 1000), self._limits.entries]
        for entry in entries:
            floor = "" if entry.offset.is_end else f"{entry.offset.attempt}-0"
            args += [str(entry.offset), floor, entry.body]
        await self._scripts.call(_APPEND, (self._key(session_id, turn_id),), args)

    async def read(
        self, session_id: str, turn_id: str, *, after: StreamOffset, wait_s: float
    ) -> Sequence[LogEntry] | None:
        """See :class:`~sdqueue.streaming.DeltaLog`."""
        key, deadline = self._key(session_id, turn_id), time.monotonic() + wait_s
        while True:
            wait_ms = int((deadline - time.monotonic()) * 1000)
            block = ("BLOCK", wait_ms) if wait_ms > 0 else ()  # BLOCK 0 would be for ever
            commands = [("EXISTS", key), ("XREAD", "COUNT", LARGEST_READ, *block, "STREAMS", key, str(after))]
            exists, found = await self._link.execute(commands, max(wait_s, 0) + self._link.timeout_s)
            for reply in (exists, found):
                if isinstance(reply, CONNECTION_ERRORS):
                    raise unavailable(self._link, reply)
                if isinstance(reply, Exception):
                    raise reply
            if found:
                return _entries(found)
            if wait_ms <= 0:
                return [] if exists else None

    async def aclose(self) -> None:
        """End the connections, after what is under way. Idempotent."""
        await self._scripts.aclose()
        await self._link.aclose()

    def _key(self, session_id: str, turn_id: str) -> bytes:
        return self._keys.stream(session_id, turn_id)


def _entries(found: Any) -> list[LogEntry]:
    """What XREAD returns for one stream, as Redis says it or as redis-py's client of a cluster has arranged it."""
    ((_, entries),) = found.items() if isinstance(found, Mapping) else found
    if len(entries) == 1 and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], tuple):
        entries = entries[0]
    result = []
    for offset, fields in entries:
        body = fields[b"r"] if isinstance(fields, Mapping) else fields[1]
        result.append(LogEntry(StreamOffset.parse(offset.decode()), body.decode()))
    return result
