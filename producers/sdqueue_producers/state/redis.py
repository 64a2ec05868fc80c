"""RedisState: what producers remember, in Redis, for all of their processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster

from sdqueue.sessions.redis.connection import connect
from sdqueue.sessions.redis.keys import KeySpace
from sdqueue.sessions.redis.scripts import Script, ScriptRunner
from sdqueue_producers.channel import Bucket
from sdqueue_producers.state.state import Parked, split_keys

_FOLDER: Final = resources.files(__package__) / "lua"
_SET: Final = Script("set", folder=_FOLDER)
_SWAP: Final = Script("swap", folder=_FOLDER)
_TAKE: Final = Script("take", folder=_FOLDER)
_BLOCK: Final = Script("block", folder=_FOLDER)
_PARK: Final = Script("park", folder=_FOLDER)
_PARKED: Final = Script("parked", folder=_FOLDER)
_POSTPONE: Final = Script("postpone", folder=_FOLDER)
_UNPARK: Final = Script("unpark", folder=_FOLDER)


class RedisState:
    """Keeps what producers remember in Redis. It needs Redis 6.2.

    A channel's keys are ``<namespace>:producer:{<channel>}:…``, so a cluster has all of them in one slot. Rate limits
    go by Redis's own clock, whatever those of the producers say.

    Parameters:
        url: see :func:`~sdqueue.sessions.redis.connection.connect`.
        namespace: the prefix of its keys; all producers of a pool have the same.
        client: instead of the URL, a redis-py client of the application's own.

    Raises:
        ConfigurationError: the URL or the namespace cannot work.
    """

    def __init__(
        self, url: str | None = None, *, namespace: str = "sdqueue", client: Redis | RedisCluster | None = None
    ) -> None:
        self._link = connect(url, client)
        self._prefix = f"{KeySpace(namespace).namespace}:producer:"
        self._scripts = ScriptRunner(self._link)

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        """See :class:`ProducerState`."""
        if not keys:
            return []
        found = await self._scripts.command("MGET", *self._values(keys))
        return [None if value is None else _text(value) for value in found]

    async def set(self, values: Mapping[str, str], *, ttl_s: float | None) -> None:
        """See :class:`ProducerState`."""
        if values:
            args = [0 if ttl_s is None else _ms(ttl_s), *map(_bytes, values.values())]
            await self._scripts.call(_SET, tuple(self._values(list(values))), args)

    async def add(self, key: str, value: str, *, ttl_s: float | None) -> bool:
        """See :class:`ProducerState`."""
        life = () if ttl_s is None else ("PX", _ms(ttl_s))
        return await self._scripts.command("SET", *self._values([key]), _bytes(value), "NX", *life) is not None

    async def swap(self, key: str, old: str | None, new: str, *, ttl_s: float | None) -> bool:
        """See :class:`ProducerState`."""
        args = [_bytes(new if old is None else old), _bytes(new), 0 if ttl_s is None else _ms(ttl_s)]
        return bool(await self._scripts.call(_SWAP, tuple(self._values([key])), args))

    async def delete(self, keys: Sequence[str]) -> None:
        """See :class:`ProducerState`."""
        if keys:
            await self._scripts.command("DEL", *self._values(keys))

    async def take(self, channel: str, buckets: Sequence[Bucket], *, reserve: float = 0.0) -> float:
        """See :class:`ProducerState`."""
        if not buckets:
            return 0.0
        keys: list[bytes] = []
        args: list[Any] = [reserve]
        for bucket in buckets:
            keys += [self._key(channel, "bucket", bucket.key), self._key(channel, "block", bucket.key)]
            args += [bucket.count, bucket.per_s]
        return float(await self._scripts.call(_TAKE, tuple(keys), args))

    async def block(self, channel: str, bucket: str, seconds: float) -> None:
        """See :class:`ProducerState`."""
        if seconds > 0:
            await self._scripts.call(_BLOCK, (self._key(channel, "block", bucket),), [_ms(seconds)])

    async def park(self, channel: str, session_id: str, reply: Parked) -> None:
        """See :class:`ProducerState`."""
        args: list[Any] = [_bytes(session_id), _bytes(reply.key), _bytes(reply.body)]
        args += [reply.attempts, repr(reply.due_at), repr(reply.first_at)]
        await self._scripts.call(_PARK, self._outbox(channel, session_id), args)

    async def parked(self, channel: str, session_id: str) -> Parked | None:
        """See :class:`ProducerState`."""
        found = await self._scripts.call(_PARKED, self._outbox(channel, session_id)[1:], [])
        if found is None:
            return None
        attempts, due_at, first_at = found[2].split()
        return Parked(_text(found[0]), _text(found[1]), int(attempts), float(due_at), float(first_at))

    async def due(self, channel: str, *, now: float, count: int) -> list[str]:
        """See :class:`ProducerState`."""
        key = self._key(channel, "due")
        found = await self._scripts.command("ZRANGEBYSCORE", key, "-inf", repr(now), "LIMIT", 0, count)
        return [_text(session) for session in found]

    async def postpone(self, channel: str, session_id: str, key: str, *, attempts: int, due_at: float) -> None:
        """See :class:`ProducerState`."""
        args = [_bytes(session_id), _bytes(key), attempts, repr(due_at)]
        await self._scripts.call(_POSTPONE, self._outbox(channel, session_id), args)

    async def unpark(self, channel: str, session_id: str, key: str) -> None:
        """See :class:`ProducerState`."""
        await self._scripts.call(_UNPARK, self._outbox(channel, session_id), [_bytes(session_id), _bytes(key)])

    async def aclose(self) -> None:
        """End the connections, after what is under way. Idempotent."""
        await self._scripts.aclose()
        await self._link.aclose()

    def _values(self, keys: Sequence[str]) -> list[bytes]:
        channel, rests = split_keys(keys)
        return [self._key(channel, "value", rest) for rest in rests]

    def _outbox(self, channel: str, session_id: str) -> tuple[bytes, bytes, bytes]:
        line, replies = (self._key(channel, part, session_id) for part in ("line", "replies"))
        return self._key(channel, "due"), line, replies

    def _key(self, channel: str, *parts: str) -> bytes:
        return _bytes(f"{self._prefix}{{{channel}}}:{':'.join(parts)}")


def _ms(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # lone surrogates are legal in JSON, so they can get this far


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")
