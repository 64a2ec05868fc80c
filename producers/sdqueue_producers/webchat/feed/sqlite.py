"""SQLiteFeed: what visitors see, in a file, for the processes of one machine."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, Self

from sdqueue.errors import StoreUnavailable
from sdqueue.sessions.stores.sqlite_thread import SQLiteThread
from sdqueue_producers.webchat.feed.feed import LARGEST_READ, Draft, Entry, FeedLimits, Mode, Page, Place, continues
from sdqueue_producers.webchat.feed.wakes import Wake, Wakes

POLL_S: Final = 0.05
"""Seconds between two looks for what other processes have written: SQLite tells nobody."""

RETRY_S: Final = 1.0
"""Seconds between two looks while the file cannot be used."""

_CHANGES: Final = 5000
"""Changes that are listed for watchers; one that has fallen further behind wakes everybody."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS feeds (
    session TEXT PRIMARY KEY, epoch INTEGER NOT NULL, newest INTEGER NOT NULL, floor INTEGER NOT NULL,
    touched REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS feeds_by_age ON feeds (touched);
CREATE TABLE IF NOT EXISTS feed_entries (
    session TEXT NOT NULL, number INTEGER NOT NULL, slot TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (session, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS feed_entries_by_slot ON feed_entries (session, slot);
CREATE TABLE IF NOT EXISTS feed_done (
    session TEXT NOT NULL, slot TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (session, slot)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS feed_done_by_number ON feed_done (session, number);
CREATE TABLE IF NOT EXISTS feed_changes (number INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL)
"""

_log: Final = logging.getLogger(__name__)


class SQLiteFeed:
    """Keeps the logs in an SQLite database of their own; all processes of the machine share it.

    Parameters:
        path: the database file; its directory is made when it is needed.
        limits: how much is kept, and for how long.
    """

    def __init__(self, path: str | os.PathLike[str], limits: FeedLimits | None = None) -> None:
        self._limits = FeedLimits() if limits is None else limits
        self._thread = SQLiteThread(Path(path), _SCHEMA, timeout_s=5.0)
        self._wakes = Wakes()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
        await self._thread.close()

    async def add(self, session_id: str, draft: Draft) -> bool:
        """See :class:`Feed`."""
        added = await self._thread.write(partial(_add, session_id, draft, self._limits))
        if added:
            self._wakes.wake(session_id)  # this process need not wait for the next look
        return added

    async def read(self, session_id: str, after: Place | None) -> Page:
        """See :class:`Feed`."""
        return await self._thread.read(partial(_read, session_id, after, self._limits))

    @contextmanager
    def watch(self, session_id: str) -> Iterator[Wake]:
        """See :class:`Feed`."""
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen())
        with self._wakes.watch(session_id) as wake:
            yield wake

    async def _listen(self) -> None:
        seen: int | None = None
        while True:
            try:
                first, changes = await self._thread.read(partial(_changes, seen))
            except StoreUnavailable as error:
                _log.warning("what visitors see cannot be read: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            if seen is None or (changes and first > seen + 1):
                self._wakes.wake_all()
            for number, session in changes:
                self._wakes.wake(session)
                seen = number
            seen = seen or 0
            await asyncio.sleep(POLL_S)


def _add(session: str, draft: Draft, limits: FeedLimits, connection: sqlite3.Connection) -> bool:
    now = time.time()
    _expire(connection, now - limits.ttl_s)
    connection.execute(
        "INSERT INTO feeds VALUES (?, ?, 0, 0, ?) ON CONFLICT DO NOTHING", (session, int(now * 1000), now)
    )
    key = (session, draft.slot)
    if connection.execute("SELECT 1 FROM feed_done WHERE session = ? AND slot = ?", key).fetchone():
        there = connection.execute("SELECT body FROM feed_entries WHERE session = ? AND slot = ?", key).fetchone()
        if draft.mode is not Mode.EDIT or there == (draft.body,):
            return False
    (newest,) = connection.execute(
        "UPDATE feeds SET newest = newest + 1, touched = ? WHERE session = ? RETURNING newest", (now, session)
    ).fetchone()
    connection.execute("DELETE FROM feed_entries WHERE session = ? AND slot = ?", key)
    connection.execute("INSERT INTO feed_entries VALUES (?, ?, ?, ?)", (session, newest, draft.slot, draft.body))
    if draft.mode is not Mode.GROW:
        connection.execute("REPLACE INTO feed_done VALUES (?, ?, ?)", (session, draft.slot, newest))
    _trim(session, limits, connection)
    (change,) = connection.execute(
        "INSERT INTO feed_changes (session) VALUES (?) RETURNING number", (session,)
    ).fetchone()
    connection.execute("DELETE FROM feed_changes WHERE number <= ?", (change - _CHANGES,))
    return True


def _trim(session: str, limits: FeedLimits, connection: sqlite3.Connection) -> None:
    over = connection.execute(
        "SELECT number FROM feed_entries WHERE session = ? ORDER BY number DESC LIMIT 1 OFFSET ?",
        (session, limits.entries),
    ).fetchone()
    if over is not None:
        connection.execute("DELETE FROM feed_entries WHERE session = ? AND number <= ?", (session, *over))
        connection.execute("UPDATE feeds SET floor = ? WHERE session = ?", (*over, session))
    connection.execute(
        "DELETE FROM feed_done WHERE session = ? AND number <= (SELECT number FROM feed_done WHERE session = ? "
        "ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (session, session, limits.slots),
    )


def _expire(connection: sqlite3.Connection, oldest: float) -> None:
    expired = connection.execute("SELECT session FROM feeds WHERE touched < ? LIMIT 100", (oldest,)).fetchall()
    for table in ("feed_entries", "feed_done", "feeds") if expired else ():
        connection.executemany(f"DELETE FROM {table} WHERE session = ?", expired)  # noqa: S608  # names of ours


def _read(session: str, after: Place | None, limits: FeedLimits, connection: sqlite3.Connection) -> Page:
    log = connection.execute(
        "SELECT epoch, newest, floor FROM feeds WHERE session = ? AND touched >= ?",
        (session, time.time() - limits.ttl_s),
    ).fetchone()
    if log is None:
        return Page((), reset=after is not None)
    epoch, newest, floor = log
    reset = after is not None and not continues(after, epoch=epoch, newest=newest, floor=floor)
    least = 0 if after is None or reset else after.number
    rows = connection.execute(
        "SELECT number, slot, body FROM feed_entries WHERE session = ? AND number > ? ORDER BY number LIMIT ?",
        (session, least, LARGEST_READ),
    )
    return Page([Entry(Place(epoch, number), slot, body) for number, slot, body in rows], reset)


def _changes(seen: int | None, connection: sqlite3.Connection) -> tuple[int, list[tuple[int, str]]]:
    """The number of the first change that is listed, and those after one that was seen; of old ones only the last."""
    if seen is None:
        last = connection.execute("SELECT number, session FROM feed_changes ORDER BY number DESC LIMIT 1").fetchall()
        return 0, last
    (first,) = connection.execute("SELECT min(number) FROM feed_changes").fetchone()
    rows = connection.execute("SELECT number, session FROM feed_changes WHERE number > ? ORDER BY number", (seen,))
    return first or 0, rows.fetchall()
