"""RedisSessionKeys: the keys of sessions in Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster

from sdqueue.errors import ConfigurationError
from sdqueue.sessions.redis.connection import connect
from sdqueue.sessions.redis.keys import KeySpace
from sdqueue.sessions.redis.records import turn_bytes
from sdqueue.sessions.redis.scripts import KEYGET, KEYGONE, KEYSLISTED, KEYSWAP, ScriptRunner

_LONGER_S: Final = 24 * 3600
"""Seconds that a key outlives the last use of it beyond the life of its session: its life starts anew only when a
process asks for it, which is less often than it saves."""

_LISTED_S: Final = 3600.0
"""Seconds that a session without a key is left in the index: it is listed before its key is there."""


class RedisSessionKeys:
    """Keeps the wrapped keys of sessions in Redis: one key each, and an index of the sessions that have one.

    Better in another Redis than the records, or one that is backed up apart from them: a backup that has both can still
    be opened after an erasure by somebody who has the master key. Redis must not evict keys (``maxmemory-policy``).

    Parameters:
        url: see :func:`~sdqueue.sessions.redis.connection.connect`.
        namespace: the prefix of its keys; all processes of a pool have the same.
        ttl_s: as of the session store: a key that was not used for so long, and a day more, is forgotten. Where others
            are told more, theirs holds.
        client: instead of the URL, a redis-py client of the application's own.

    Raises:
        ConfigurationError: the URL, the namespace or the TTL cannot work.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str = "sdqueue",
        ttl_s: float = 30 * 24 * 3600.0,
        client: Redis | RedisCluster | None = None,
    ) -> None:
        if not ttl_s >= 1:
            raise ConfigurationError(f"the life of a session is {ttl_s:g} s; it must be at least 1 s")
        self._link = connect(url, client)
        self._keys = KeySpace(namespace)
        self._ttl_s = ttl_s + _LONGER_S
        self._scripts = ScriptRunner(self._link)

    async def get(self, session_id: str) -> bytes | None:
        """See :meth:`SessionKeys.get <sdqueue.sessions.sealing.keys.SessionKeys.get>`."""
        key = self._keys.wrapped(session_id)
        found = self._scripts.call(KEYGET, (key,), (int(self._ttl_s * 1000),))
        listed = self._list(session_id)  # in the same pipeline
        entry: bytes | None = await found
        await listed
        return entry

    async def swap(self, session_id: str, expected: bytes | None, entry: bytes) -> bytes | None:
        """See :meth:`SessionKeys.swap <sdqueue.sessions.sealing.keys.SessionKeys.swap>`."""
        # Before: a key that is not in the index would be left behind by a rotation.
        await self._list(session_id)
        args = (entry, int(self._ttl_s * 1000), *(() if expected is None else (expected,)))
        kept: bytes | None = await self._scripts.call(KEYSWAP, (self._keys.wrapped(session_id),), args)
        return kept

    async def sessions(self) -> AsyncIterator[str]:
        """See :meth:`SessionKeys.sessions <sdqueue.sessions.sealing.keys.SessionKeys.sessions>`."""
        cursor = b"0"
        while True:
            cursor, part = await self._scripts.call(KEYSLISTED, (self._keys.wrapped_index,), (cursor,))
            names = [name.decode("utf-8", "surrogatepass") for name in part[::2]]
            # By the keys themselves: whoever lists them may have been told of another life than whoever uses them.
            there = await asyncio.gather(*(self._scripts.command("EXISTS", self._keys.wrapped(name)) for name in names))
            for name, at, exists in zip(names, part[1::2], there, strict=True):
                if exists:
                    yield name
                elif float(at) < time.time() - _LISTED_S:
                    await self._scripts.call(KEYGONE, (self._keys.wrapped_index,), (turn_bytes(name), at))
            if cursor == b"0":
                return

    async def aclose(self) -> None:
        """End the connections, after what is under way. Idempotent."""
        await self._scripts.aclose()
        await self._link.aclose()

    def _list(self, session_id: str) -> asyncio.Future[Any]:
        return self._scripts.command("ZADD", self._keys.wrapped_index, time.time(), turn_bytes(session_id))
