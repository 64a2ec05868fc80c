"""Move to RabbitMQ and Redis: copy all sessions of a SQLite store into another store.

    systemctl stop sdqueue@producer              # nothing new comes; wait until nothing waits (--check says)
    systemctl stop 'sdqueue@consumer*'
    python examples/move_sessions.py sqlite:////var/lib/sdqueue/sessions.db redis://redis:6379/0 \
        --broker sqlite:////var/lib/sdqueue/broker.db

A session has its conversation, the state of its agent and what is remembered of its turns, so that repeats are known
on the other side too. Sealed ones (SDQUEUE_ENCRYPTION_KEYS) are opened and sealed anew. The source is only read, and
what the target has already is left alone: it may be run again. With turns that still wait nothing is copied.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from sdqueue import SessionStore, TurnBacklog
from sdqueue.backends import open_broker, opened_sessions, path_of
from sdqueue.sessions.record import Stored
from sdqueue.settings import Settings


def sessions(path: Path) -> Iterator[str]:
    """The names of all sessions; the one thing that a store is not asked for."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for (name,) in database.execute("SELECT CAST(id AS BLOB) FROM session_records ORDER BY key"):
            yield name.decode("utf-8", "surrogatepass")


async def waiting(settings: Settings, store: SessionStore) -> list[str]:
    """What is not finished yet, a line each."""
    found = []
    async with open_broker(settings) as broker:
        for queue in broker.topology.queues:
            if depth := (await broker.queue_state(queue.name)).depth:
                found.append(f"{queue.name}: {depth}")
    if isinstance(store, TurnBacklog):
        for session_id in await store.backlogged():
            if await store.deferred(session_id, count=1):
                found.append(f"turns of {session_id!r} in its backlog; a dead one may hold them: sdqueue dead list")
    return found


async def copy(source: SessionStore, target: SessionStore, session_id: str) -> bool:
    """Copy one session; ``False`` where the target has it."""
    if await target.load(session_id) is not None:
        return False
    record = await source.load(session_id)
    if record is not None:
        record.turns.known = False  # all of it is new to the target
        await target.save(session_id, replace(record, stored=Stored()))
    return True


async def move(arguments: argparse.Namespace) -> int:
    """Do it, and say what was done."""
    old = Settings.load(store_url=arguments.source, broker_url=arguments.broker)
    new = Settings.load(store_url=arguments.target, broker_url=arguments.broker)
    async with opened_sessions(old) as (source, _), opened_sessions(new) as (target, _):
        if left := await waiting(old, source):
            print("not finished yet:", *left, sep="\n  ")
            return 1
        if arguments.check:
            print("nothing waits")
            return 0
        results = [await copy(source, target, name) for name in sessions(path_of(arguments.source))]
        print(f"{sum(results)} sessions copied, {len(results) - sum(results)} were there")
        return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="sqlite:///path.db")
    parser.add_argument("target", help="any store: redis://host")
    parser.add_argument("--broker", required=True, help="the broker that is left: sqlite:///path.db")
    parser.add_argument("--check", action="store_true", help="only say whether turns still wait")
    sys.exit(asyncio.run(move(parser.parse_args())))
