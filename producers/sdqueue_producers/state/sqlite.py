"""SQLiteState: what producers remember, in a file, for the processes of one machine."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from sdqueue.sessions.stores.sqlite_thread import SQLiteThread, Text, from_blob, to_text
from sdqueue_producers.channel import Bucket
from sdqueue_producers.state.state import Parked, refilled, split_keys, wait_for

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS producer_values (name TEXT PRIMARY KEY, value TEXT NOT NULL, until REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS producer_values_by_age ON producer_values (until) WHERE until IS NOT NULL;
CREATE TABLE IF NOT EXISTS producer_buckets (
    channel TEXT NOT NULL, name TEXT NOT NULL, calls REAL NOT NULL, since REAL NOT NULL, full_at REAL NOT NULL,
    PRIMARY KEY (channel, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS producer_buckets_by_age ON producer_buckets (full_at);
CREATE TABLE IF NOT EXISTS producer_blocks (
    channel TEXT NOT NULL, name TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (channel, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS producer_outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, session TEXT NOT NULL, name TEXT NOT NULL,
    body TEXT NOT NULL, attempts INTEGER NOT NULL, due_at REAL NOT NULL, first_at REAL NOT NULL, first INTEGER NOT NULL,
    UNIQUE (channel, session, name)
);
CREATE INDEX IF NOT EXISTS producer_outbox_lines ON producer_outbox (channel, session, number);
CREATE INDEX IF NOT EXISTS producer_outbox_due ON producer_outbox (channel, due_at) WHERE first
"""

_FIRST: Final = "channel = ? AND session = ? AND name = ? AND first"


class SQLiteState:
    """Keeps what producers remember in an SQLite database of their own.

    Parameters:
        path: the database file; its directory is made when it is needed.
        clock: seconds since 1970; the processes that share a file share a machine's clock.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._thread = SQLiteThread(Path(path), _SCHEMA, timeout_s=5.0)

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        """See :class:`ProducerState`."""
        if not keys:
            return []
        split_keys(keys)
        return await self._thread.read(partial(_get, [to_text(key) for key in keys], self._clock))

    async def set(self, values: Mapping[str, str], *, ttl_s: float | None) -> None:
        """See :class:`ProducerState`."""
        if values:
            split_keys(list(values))
            rows = [(to_text(key), to_text(value)) for key, value in values.items()]
            await self._thread.write(partial(_set, rows, ttl_s, self._clock))

    async def add(self, key: str, value: str, *, ttl_s: float | None) -> bool:
        """See :class:`ProducerState`."""
        split_keys([key])
        return await self._thread.write(partial(_add, to_text(key), to_text(value), ttl_s, self._clock))

    async def swap(self, key: str, old: str | None, new: str, *, ttl_s: float | None) -> bool:
        """See :class:`ProducerState`."""
        split_keys([key])
        known = {text for text in (old, new) if text is not None}
        return await self._thread.write(partial(_swap, to_text(key), known, to_text(new), ttl_s, self._clock))

    async def delete(self, keys: Sequence[str]) -> None:
        """See :class:`ProducerState`."""
        if keys:
            split_keys(keys)
            rows = [(to_text(key),) for key in keys]
            await self._thread.write(lambda c: c.executemany("DELETE FROM producer_values WHERE name = ?", rows))

    async def take(self, channel: str, buckets: Sequence[Bucket], *, reserve: float = 0.0) -> float:
        """See :class:`ProducerState`."""
        if not buckets:
            return 0.0
        return await self._thread.write(partial(_take, channel, buckets, reserve, self._clock))

    async def block(self, channel: str, bucket: str, seconds: float) -> None:
        """See :class:`ProducerState`."""
        if seconds > 0:
            await self._thread.write(partial(_block, channel, to_text(bucket), seconds, self._clock))

    async def park(self, channel: str, session_id: str, reply: Parked) -> None:
        """See :class:`ProducerState`."""
        await self._thread.write(partial(_park, channel, to_text(session_id), reply))

    async def parked(self, channel: str, session_id: str) -> Parked | None:
        """See :class:`ProducerState`."""
        return await self._thread.read(partial(_parked, channel, to_text(session_id)))

    async def due(self, channel: str, *, now: float, count: int) -> list[str]:
        """See :class:`ProducerState`."""
        return await self._thread.read(partial(_due, channel, now, count))

    async def postpone(self, channel: str, session_id: str, key: str, *, attempts: int, due_at: float) -> None:
        """See :class:`ProducerState`."""
        row = (attempts, due_at, channel, to_text(session_id), to_text(key))
        statement = f"UPDATE producer_outbox SET attempts = ?, due_at = ? WHERE {_FIRST}"  # noqa: S608 -- a constant
        await self._thread.write(lambda connection: connection.execute(statement, row))

    async def unpark(self, channel: str, session_id: str, key: str) -> None:
        """See :class:`ProducerState`."""
        await self._thread.write(partial(_unpark, channel, to_text(session_id), to_text(key)))

    async def aclose(self) -> None:
        """Close the database, after what is under way. Idempotent; a later use opens it again."""
        await self._thread.close()


Clock = Callable[[], float]


def _get(names: list[Text], clock: Clock, connection: sqlite3.Connection) -> list[str | None]:
    now = clock()
    found: list[str | None] = []
    for name in names:
        row = connection.execute(
            "SELECT CAST(value AS BLOB) FROM producer_values WHERE name = ? AND (until IS NULL OR until > ?)",
            (name, now),
        ).fetchone()
        found.append(None if row is None else from_blob(row[0]))
    return found


def _set(rows: list[tuple[Text, Text]], ttl_s: float | None, clock: Clock, connection: sqlite3.Connection) -> None:
    now = _swept(clock, connection)
    until = None if ttl_s is None else now + ttl_s
    connection.executemany(
        "INSERT OR REPLACE INTO producer_values (name, value, until) VALUES (?, ?, ?)", [(*row, until) for row in rows]
    )


def _add(name: Text, value: Text, ttl_s: float | None, clock: Clock, connection: sqlite3.Connection) -> bool:
    now = _swept(clock, connection)
    row = (name, value, None if ttl_s is None else now + ttl_s)
    statement = "INSERT INTO producer_values (name, value, until) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    return connection.execute(statement, row).rowcount == 1


def _swap(
    name: Text, known: set[str], new: Text, ttl_s: float | None, clock: Clock, connection: sqlite3.Connection
) -> bool:
    (value,) = _get([name], clock, connection)
    if value is not None and value not in known:
        return False
    _set([(name, new)], ttl_s, clock, connection)
    return True


def _swept(clock: Clock, connection: sqlite3.Connection) -> float:
    """The time, once everything is gone that has expired by then."""
    now = clock()
    connection.execute("DELETE FROM producer_values WHERE until <= ?", (now,))
    return now


def _take(
    channel: str, buckets: Sequence[Bucket], reserve: float, clock: Clock, connection: sqlite3.Connection
) -> float:
    now = clock()
    connection.execute("DELETE FROM producer_buckets WHERE full_at <= ?", (now,))
    connection.execute("DELETE FROM producer_blocks WHERE until <= ?", (now,))
    wait = 0.0
    holds: list[float] = []
    for bucket in buckets:
        at = channel, to_text(bucket.key)
        blocked = connection.execute("SELECT until FROM producer_blocks WHERE channel = ? AND name = ?", at).fetchone()
        kept = connection.execute("SELECT calls, since FROM producer_buckets WHERE channel = ? AND name = ?", at)
        holds.append(refilled(bucket, kept.fetchone(), now))
        wait = max(wait, wait_for(bucket, holds[-1], reserve), 0.0 if blocked is None else blocked[0] - now)
    taken = wait <= 0
    # Also where nothing was taken: by a clock that was set back, it fills from now on.
    rows = [
        (channel, to_text(b.key), calls - taken, now, now + b.per_s) for b, calls in zip(buckets, holds, strict=True)
    ]
    connection.executemany("INSERT OR REPLACE INTO producer_buckets VALUES (?, ?, ?, ?, ?)", rows)
    return max(wait, 0.0)


def _block(channel: str, name: Text, seconds: float, clock: Clock, connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT INTO producer_blocks VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET until = excluded.until WHERE excluded.until > until",
        (channel, name, clock() + seconds),
    )


def _park(channel: str, session: Text, reply: Parked, connection: sqlite3.Connection) -> None:
    waits = "SELECT 1 FROM producer_outbox WHERE channel = ? AND session = ?"
    first = connection.execute(waits, (channel, session)).fetchone() is None
    connection.execute(
        "INSERT INTO producer_outbox (channel, session, name, body, attempts, due_at, first_at, first) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            channel,
            session,
            to_text(reply.key),
            to_text(reply.body),
            reply.attempts,
            reply.due_at,
            reply.first_at,
            first,
        ),
    )


def _parked(channel: str, session: Text, connection: sqlite3.Connection) -> Parked | None:
    row = connection.execute(
        "SELECT CAST(name AS BLOB), CAST(body AS BLOB), attempts, due_at, first_at FROM producer_outbox "
        "WHERE channel = ? AND session = ? AND first",
        (channel, session),
    ).fetchone()
    return None if row is None else Parked(from_blob(row[0]), from_blob(row[1]), *row[2:])


def _due(channel: str, now: float, count: int, connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT CAST(session AS BLOB) FROM producer_outbox WHERE channel = ? AND due_at <= ? AND first "
        "ORDER BY due_at LIMIT ?",
        (channel, now, count),
    )
    return [from_blob(session) for (session,) in rows]


def _unpark(channel: str, session: Text, name: Text, connection: sqlite3.Connection) -> None:
    statement = f"DELETE FROM producer_outbox WHERE {_FIRST}"  # noqa: S608 -- a constant
    if connection.execute(statement, (channel, session, name)).rowcount:
        connection.execute(
            "UPDATE producer_outbox SET first = 1 WHERE number = "
            "(SELECT MIN(number) FROM producer_outbox WHERE channel = ? AND session = ?)",
            (channel, session),
        )
