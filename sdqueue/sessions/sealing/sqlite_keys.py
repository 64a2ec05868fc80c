"""SQLiteSessionKeys: the keys of sessions in a database file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

from sdqueue.sessions.sealing.entry import is_tombstone
from sdqueue.sessions.stores.sqlite_thread import SQLiteThread, Text, from_blob, to_text

_SCHEMA: Final = """
PRAGMA secure_delete=ON;
CREATE TABLE IF NOT EXISTS session_keys (id TEXT PRIMARY KEY, entry BLOB NOT NULL) WITHOUT ROWID
"""
_PART: Final = 1000


class SQLiteSessionKeys:
    """Keeps the keys of sessions in an SQLite database in WAL mode; several processes of one machine may share it.

    It should be another file than that of the records, so that copies of these do not have the keys. An erased key is
    overwritten with zeros, and its traces are removed from the log at once where nobody reads just then, else later.

    Parameters:
        path: the database file; its directory is made when it is needed.
        timeout_s: how long another process's transaction is waited for.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout_s: float = 10.0) -> None:
        self._path = Path(path)
        self._timeout_s = timeout_s
        self._thread = SQLiteThread(self._path, _SCHEMA, timeout_s=timeout_s)

    async def get(self, session_id: str) -> bytes | None:
        """See :meth:`SessionKeys.get <sdqueue.sessions.sealing.keys.SessionKeys.get>`."""
        return await self._thread.read(partial(_get, to_text(session_id)))

    async def swap(self, session_id: str, expected: bytes | None, entry: bytes) -> bytes | None:
        """See :meth:`SessionKeys.swap <sdqueue.sessions.sealing.keys.SessionKeys.swap>`."""
        kept = await self._thread.write(partial(_swap, to_text(session_id), expected, entry))
        if kept == entry and is_tombstone(entry):
            await asyncio.to_thread(self._clean_log)
        return kept

    async def sessions(self) -> AsyncIterator[str]:
        """See :meth:`SessionKeys.sessions <sdqueue.sessions.sealing.keys.SessionKeys.sessions>`."""
        if not self._path.exists():
            return  # who only asks makes no file
        after = b""
        while ids := await self._thread.read(partial(_ids, after)):
            for session_id in ids:
                yield from_blob(session_id)
            after = ids[-1]

    async def aclose(self) -> None:
        """Close the database. Idempotent; a later use opens it again."""
        await self._thread.close()

    def _clean_log(self) -> None:
        connection = sqlite3.connect(self._path, timeout=self._timeout_s, isolation_level=None)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()


def _get(session: Text, connection: sqlite3.Connection) -> bytes | None:
    row = connection.execute("SELECT entry FROM session_keys WHERE id = ?", (session,)).fetchone()
    entry: bytes | None = None if row is None else row[0]
    return entry


def _swap(session: Text, expected: bytes | None, entry: bytes, connection: sqlite3.Connection) -> bytes | None:
    found = _get(session, connection)
    if found != expected:
        return found
    connection.execute("INSERT OR REPLACE INTO session_keys VALUES (?, ?)", (session, entry))
    return entry


def _ids(after: bytes, connection: sqlite3.Connection) -> list[bytes]:
    # Ordered as bytes, whether an id is a text or, with a lone surrogate, a blob.
    rows = connection.execute(
        "SELECT CAST(id AS BLOB) AS name FROM session_keys WHERE name > ? ORDER BY name LIMIT ?", (after, _PART)
    )
    return [name for (name,) in rows]
