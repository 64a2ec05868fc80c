"""The stores that can seal, each with keys beside it, and all bytes that they leave behind."""

from __future__ import annotations

import base64
import os
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from sdqueue import (
    FileSessionKeys,
    FileSessionStore,
    InMemorySessionStore,
    Keyring,
    MemorySessionKeys,
    RedisSessionKeys,
    RedisSessionStore,
    Sealer,
    SessionKeys,
    SQLiteSessionKeys,
    SQLiteSessionStore,
)

K1: Final = {"k1": b"1" * 32}
K2: Final = {"k2": b"2" * 32}
KINDS: Final = ["memory", "file", "sqlite", "redis"]


class Place:
    """Where sessions and keys are, to be opened as often as one likes.

    Parameters:
        kind: of store.
        folder: for files.
        redis_url: for ``redis``.
        namespace: likewise.
    """

    def __init__(self, kind: str, folder: Path, redis_url: str = "", namespace: str = "") -> None:
        self.kind = kind
        self.folder = folder
        self.namespace = namespace
        self.redis_url = redis_url
        self._memory: Any = None
        self._memory_keys = MemorySessionKeys()
        self._opened: list[Any] = []

    def keys(self) -> SessionKeys:
        """Another opening of the keys."""
        keys = {
            "memory": lambda: self._memory_keys,
            "file": lambda: FileSessionKeys(self.folder / "keys"),
            "sqlite": lambda: SQLiteSessionKeys(self.folder / "keys.db"),
            "redis": lambda: RedisSessionKeys(self.redis_url, namespace=self.namespace),
        }[self.kind]()
        self._opened.append(keys)
        return keys

    def sealer(self, keys: dict[str, bytes] = K1, **options: Any) -> Sealer:
        """A sealer on another opening of the keys."""
        return Sealer(Keyring(keys), self.keys(), **options)

    def open(self, sealer: Sealer | None) -> Any:
        """Another opening of the store; in memory it is the same one, with this sealer."""
        makers: dict[str, Callable[[], Any]] = {
            "memory": lambda: self._in_memory(sealer),
            "file": lambda: FileSessionStore(self.folder / "sessions", sealer=sealer),
            "sqlite": lambda: SQLiteSessionStore(self.folder / "sessions.db", sealer=sealer),
            "redis": lambda: RedisSessionStore(self.redis_url, namespace=self.namespace, sealer=sealer),
        }
        store = makers[self.kind]()
        self._opened.append(store)
        return store

    def store(self, keys: dict[str, bytes] = K1, **options: Any) -> Any:
        """Another opening of the store with a sealer of its own."""
        return self.open(self.sealer(keys, **options))

    async def content(self) -> bytes:
        """All bytes at rest of sessions and keys, in files of whatever name, and in Redis."""
        if self.kind == "memory":
            kept = {k: v for k, v in vars(self._memory).items() if k not in ("_sealing", "_positions", "_foreign")}
            return pickle.dumps((kept, self._memory._foreign._known, self._memory_keys))
        if self.kind == "redis":
            async with Redis.from_url(self.redis_url) as redis:
                return b"\n".join([part async for part in _content(redis, f"{self.namespace}:*")])
        parts = []
        for root, _, names in os.walk(self.folder):
            parts += [(Path(root) / name).read_bytes() for name in names]
        return b"\n".join(parts)

    async def close(self) -> None:
        """Close whatever was opened."""
        for opened in self._opened:
            await opened.aclose()

    def _in_memory(self, sealer: Sealer | None) -> InMemorySessionStore:
        store = InMemorySessionStore(sealer=sealer)
        if self._memory is not None:
            sealing = vars(store)["_sealing"]
            vars(store).update(vars(self._memory))  # the same tables
            store._sealing = sealing
        self._memory = store
        return store


@asynccontextmanager
async def place(kind: str, folder: Path, request: Any) -> AsyncIterator[Place]:
    """A place of this kind for the length of a block."""
    redis = (request.getfixturevalue("redis_url"), request.getfixturevalue("namespace")) if kind == "redis" else ()
    where = Place(kind, folder, *redis)
    try:
        yield where
    finally:
        await where.close()


async def _content(redis: Redis, pattern: str) -> AsyncIterator[bytes]:
    async for key in redis.scan_iter(pattern):
        assert isinstance(key, bytes)
        yield key
        value: Any
        match await redis.type(key):
            case b"string":
                value = await redis.get(key)
            case b"hash":
                value = await redis.hgetall(key)
            case b"list":
                value = await redis.lrange(key, 0, -1)
            case b"zset":
                value = await redis.zrange(key, 0, -1, withscores=True)
            case b"stream":
                value = await redis.xrange(key)
            case other:
                raise AssertionError(other)
        yield repr(value).encode()


def spellings(secret: str) -> list[bytes]:
    """A text as it is, and in base64 at each of the three offsets, but for the ends that depend on neighbours."""
    raw = secret.encode()
    encoded = [base64.b64encode(b"\0" * offset + raw)[4 * (offset > 0) : -4] for offset in range(3)]
    return [raw, *(part[4:] for part in encoded)]
