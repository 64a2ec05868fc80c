"""A process that uses a backlog, as ``python -m tests.sessions.backlog_process <what> <kind> <where> [name]``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from sdqueue.sessions import Deferred, FileSessionStore, RedisSessionStore, SQLiteSessionStore, TurnBacklog

SIZE = 2_000
"""Bytes of a message."""


def turn(turn_id: str) -> Deferred:
    """A turn with a message of some length."""
    return Deferred(turn_id, turn_id.encode().ljust(SIZE, b"."))


@asynccontextmanager
async def opened(kind: str, where: str) -> AsyncIterator[TurnBacklog]:
    """A store of this kind."""
    store: Any
    if kind == "redis":
        url, namespace = where.split()
        store = RedisSessionStore(url, namespace=namespace)
    else:
        store = (FileSessionStore if kind == "file" else SQLiteSessionStore)(where)
    yield store
    await store.aclose()


async def append(store: TurnBacklog, name: str) -> None:
    """Append twenty pairs of turns; say whether all were taken."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    kept = [await store.defer("s", [turn(f"{name}.{n}a"), turn(f"{name}.{n}b")], limit=1_000) for n in range(20)]
    print(all(map(all, kept)), flush=True)


async def drain(store: TurnBacklog) -> None:
    """Work off what is found, a few at a time, and take the session off the list when nothing is left, until told."""
    print("ready", flush=True)
    told = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    while not told.done():
        mark = (await store.backlogged()).get("s")
        found = await store.deferred("s", count=3)
        for each in found:
            print(each.turn_id, flush=True)
        await store.undefer("s", [each.turn_id for each in found])
        if mark is not None and not (await store.standing("s", "")).waiting:
            await store.unlist("s", mark)
        await asyncio.sleep(0.001)


async def announce(store: TurnBacklog, name: str) -> None:
    """Append three turns at a time, and say so, until killed."""
    print("ready", flush=True)
    n = 0
    while True:
        turns = [turn(f"{name}.{n + i}") for i in range(3)]
        await store.defer("s", turns, limit=100_000)
        print(*(each.turn_id for each in turns), sep="\n", flush=True)
        n += 3


WORK: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {"append": append, "drain": drain, "announce": announce}


async def main(what: str, kind: str, where: str, *name: str) -> None:
    """Do one of these."""
    async with opened(kind, where) as store:
        await WORK[what](store, *name)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
