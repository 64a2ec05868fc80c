"""SQLiteDeltaLog: streamed answers in a file, for the processes of one machine."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from sdqueue.sessions.stores.sqlite_thread import SQLiteThread, Text, to_text
from sdqueue.streaming.log import LARGEST_READ, LogEntry, LogLimits
from sdqueue.streaming.offset import BEGINNING, StreamOffset

POLL_S: Final = 0.05
"""Seconds between two looks of a reader that waits: SQLite tells nobody of what another process has written."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS stream_logs (
    key INTEGER PRIMARY KEY, session TEXT NOT NULL, turn TEXT NOT NULL, touched REAL NOT NULL, UNIQUE (session, turn)
);
CREATE INDEX IF NOT EXISTS stream_logs_by_age ON stream_logs (touched);
CREATE TABLE IF NOT EXISTS stream_entries (
    key INTEGER NOT NULL, attempt INTEGER NOT NULL, number INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (key, attempt, number)
) WITHOUT ROWID
"""


class SQLiteDeltaLog:
    """Keeps streamed answers in an SQLite database of their own, since they are written far more often than sessions.

    An append survives the death of the process and not a power cut, so it waits for no disk.

    Parameters:
        path: the database file; its directory is made when it is needed.
        limits: how much is kept, and for how long.
    """

    def __init__(self, path: str | os.PathLike[str], *, limits: LogLimits | None = None) -> None:
        self._limits = LogLimits() if limits is None else limits
        self._path = Path(path)
        self._thread = SQLiteThread(self._path, _SCHEMA, timeout_s=2.0, durable=False)

    async def append(self, session_id: str, turn_id: str, entries: Sequence[LogEntry]) -> None:
        """See :class:`~sdqueue.streaming.DeltaLog`."""
        await self._thread.write(partial(_append, to_text(session_id), to_text(turn_id), entries, self._limits))

    async def read(
        self, session_id: str, turn_id: str, *, after: StreamOffset, wait_s: float
    ) -> Sequence[LogEntry] | None:
        """See :class:`~sdqueue.streaming.DeltaLog`."""
        deadline = time.monotonic() + wait_s
        look = partial(_read, to_text(session_id), to_text(turn_id), after, self._limits)
        while True:
            # A reader makes no file: where there is none, nothing was written yet.
            found = await self._thread.read(look) if self._path.exists() else None
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            await asyncio.sleep(min(POLL_S, left))

    async def aclose(self) -> None:
        """Close the database, after what is under way. Idempotent; a later use opens it again."""
        await self._thread.close()


def _append(
    session: Text, turn: Text, entries: Sequence[LogEntry], limits: LogLimits, connection: sqlite3.Connection
) -> None:
    now = time.time()
    oldest = now - limits.ttl_s
    expired = connection.execute("SELECT key FROM stream_logs WHERE touched < ?", (oldest,)).fetchall()
    connection.executemany("DELETE FROM stream_entries WHERE key = ?", expired)
    connection.executemany("DELETE FROM stream_logs WHERE key = ?", expired)
    (key,) = connection.execute(
        "INSERT INTO stream_logs (session, turn, touched) VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET touched = excluded.touched RETURNING key",
        (session, turn, now),
    ).fetchone()
    row = connection.execute(
        "SELECT attempt, number FROM stream_entries WHERE key = ? ORDER BY attempt DESC, number DESC LIMIT 1", (key,)
    ).fetchone()
    newest = BEGINNING if row is None else StreamOffset(*row)
    for entry in entries:
        offset = entry.offset
        if offset <= newest:
            continue
        if offset.attempt != newest.attempt and not offset.is_end:
            connection.execute("DELETE FROM stream_entries WHERE key = ?", (key,))
        row = (key, offset.attempt, offset.number, entry.body)
        connection.execute("INSERT INTO stream_entries VALUES (?, ?, ?, ?)", row)
        newest = offset
    connection.execute(
        "DELETE FROM stream_entries WHERE key = ? AND (attempt, number) IN (SELECT attempt, number FROM stream_entries "
        "WHERE key = ? ORDER BY attempt DESC, number DESC LIMIT -1 OFFSET ?)",
        (key, key, limits.entries),
    )


def _read(
    session: Text, turn: Text, after: StreamOffset, limits: LogLimits, connection: sqlite3.Connection
) -> list[LogEntry] | None:
    log = connection.execute(
        "SELECT key FROM stream_logs WHERE session = ? AND turn = ? AND touched >= ?",
        (session, turn, time.time() - limits.ttl_s),
    ).fetchone()
    if log is None:
        return None
    rows = connection.execute(
        "SELECT attempt, number, body FROM stream_entries WHERE key = ? AND (attempt, number) > (?, ?) "
        "ORDER BY attempt, number LIMIT ?",
        (log[0], after.attempt, after.number, LARGEST_READ),
    )
    return [LogEntry(StreamOffset(attempt, number), body) for attempt, number, body in rows]
