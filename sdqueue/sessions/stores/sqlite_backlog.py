"""SQLiteBacklog: the backlogs of sessions in the database of their records."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Final

from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.sealing.seal import Sealing
from sdqueue.sessions.stores.backlog import REFUSALS, Deferred, Kept, Standing
from sdqueue.sessions.stores.sealed_turns import open_refusal, open_turns, seal_refusal, seal_turns
from sdqueue.sessions.stores.sqlite_thread import SQLiteThread, Text, from_blob, to_text

# AUTOINCREMENT: no position is given twice, not even after all rows were deleted. session_backlogs counts the turns
# that wait, as every turn of a session asks how many there are; the mark is NULL where the session is not listed.
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS session_deferred (
    position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, turn_id TEXT NOT NULL, body BLOB NOT NULL,
    UNIQUE (id, turn_id)
);
CREATE INDEX IF NOT EXISTS session_deferred_in_order ON session_deferred (id, position);
CREATE TABLE IF NOT EXISTS session_backlogs (
    id TEXT PRIMARY KEY, waiting INTEGER NOT NULL, mark TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session_refused (
    id TEXT NOT NULL, turn_id TEXT NOT NULL, at REAL NOT NULL, body TEXT NOT NULL, PRIMARY KEY (id, turn_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS session_refused_in_order ON session_refused (id, at)
"""

_STANDING: Final = """
SELECT (SELECT waiting FROM session_backlogs WHERE id = ?1),
    (SELECT CAST(body AS BLOB) FROM session_refused WHERE id = ?1 AND turn_id = ?2)
"""


class SQLiteBacklog:
    """The part of :class:`~sdqueue.SQLiteSessionStore` that is a :class:`~sdqueue.TurnBacklog`."""

    _thread: SQLiteThread
    _sealing: Sealing

    async def defer(self, session_id: str, turns: Sequence[Deferred], *, limit: int) -> list[Kept]:
        """See :meth:`TurnBacklog.defer <sdqueue.sessions.stores.backlog.TurnBacklog.defer>`."""
        sealed = await seal_turns(self._sealing, session_id, turns)
        rows = [(to_text(turn.turn_id), turn.body) for turn in sealed]
        return await self._thread.write(partial(_defer, to_text(session_id), rows, limit))

    async def deferred(self, session_id: str, *, after: int = 0, count: int) -> list[Deferred]:
        """See :meth:`TurnBacklog.deferred <sdqueue.sessions.stores.backlog.TurnBacklog.deferred>`."""
        while True:
            turns = await self._thread.read(partial(_deferred, to_text(session_id), after, count))
            opened, erased = await open_turns(self._sealing, session_id, turns)
            if not erased:
                return opened
            await self.undefer(session_id, erased)

    async def undefer(self, session_id: str, turn_ids: Sequence[str]) -> None:
        """See :meth:`TurnBacklog.undefer <sdqueue.sessions.stores.backlog.TurnBacklog.undefer>`."""
        await self._thread.write(partial(_undefer, to_text(session_id), [to_text(turn_id) for turn_id in turn_ids]))

    async def standing(self, session_id: str, turn_id: str) -> Standing:
        """See :meth:`TurnBacklog.standing <sdqueue.sessions.stores.backlog.TurnBacklog.standing>`."""
        waiting, body = await self._thread.read(partial(read_standing, to_text(session_id), to_text(turn_id)))
        return Standing(waiting, await open_refusal(self._sealing, session_id, turn_id, body))

    async def refuse(self, session_id: str, outcome: TurnOutcome, *, retention: Retention) -> TurnOutcome | None:
        """See :meth:`TurnBacklog.refuse <sdqueue.sessions.stores.backlog.TurnBacklog.refuse>`."""
        text = await seal_refusal(self._sealing, session_id, outcome)
        row = (to_text(session_id), to_text(outcome.turn_id), outcome.at, text)
        body = await self._thread.write(partial(_refuse, row, outcome.at - retention.ids_s))
        if body is None:
            return None
        return await open_refusal(self._sealing, session_id, outcome.turn_id, body) or outcome

    async def backlogged(self) -> dict[str, str]:
        """See :meth:`TurnBacklog.backlogged <sdqueue.sessions.stores.backlog.TurnBacklog.backlogged>`."""
        return await self._thread.read(_backlogged)

    async def enlist(self, session_id: str) -> None:
        """See :meth:`TurnBacklog.enlist <sdqueue.sessions.stores.backlog.TurnBacklog.enlist>`."""
        await self._thread.write(partial(_enlist, to_text(session_id), 0))

    async def unlist(self, session_id: str, mark: str) -> None:
        """See :meth:`TurnBacklog.unlist <sdqueue.sessions.stores.backlog.TurnBacklog.unlist>`."""
        await self._thread.write(partial(_unlist, to_text(session_id), to_text(mark)))


def read_standing(session: Text, turn_id: Text, connection: sqlite3.Connection) -> tuple[int, bytes | None]:
    """How many turns of the session wait, and the outcome of this one where it was refused."""
    waiting, body = connection.execute(_STANDING, (session, turn_id)).fetchone()
    return waiting or 0, body


def delete_backlog(session: Text, connection: sqlite3.Connection) -> None:
    """Forget the session's backlog with its refusals and its listing."""
    for table in ("session_deferred", "session_refused", "session_backlogs"):
        connection.execute(f"DELETE FROM {table} WHERE id = ?", (session,))  # noqa: S608 - the tables named above


def _defer(session: Text, turns: list[tuple[Text, bytes]], limit: int, connection: sqlite3.Connection) -> list[Kept]:
    row = connection.execute("SELECT waiting FROM session_backlogs WHERE id = ?", (session,)).fetchone()
    before = waiting = row[0] if row else 0
    kept: list[Kept] = []
    for turn_id, body in turns:
        waits, refused = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM session_deferred WHERE id = ?1 AND turn_id = ?2), "
            "EXISTS (SELECT 1 FROM session_refused WHERE id = ?1 AND turn_id = ?2)",
            (session, turn_id),
        ).fetchone()
        if waits:
            kept.append(Kept.THERE)
        elif not refused and waiting < limit:
            connection.execute(
                "INSERT INTO session_deferred (id, turn_id, body) VALUES (?, ?, ?)", (session, turn_id, body)
            )
            waiting += 1
            kept.append(Kept.ADDED)
        else:
            kept.append(Kept.LEFT_OUT)
    if any(kept):
        _enlist(session, waiting - before, connection)
    return kept


def _deferred(session: Text, after: int, count: int, connection: sqlite3.Connection) -> list[Deferred]:
    rows = connection.execute(
        "SELECT CAST(turn_id AS BLOB), body, position FROM session_deferred "
        "WHERE id = ? AND position > ? ORDER BY position LIMIT ?",
        (session, after, count),
    )
    return [Deferred(from_blob(turn_id), body, position) for turn_id, body, position in rows]


def _undefer(session: Text, turn_ids: list[Text], connection: sqlite3.Connection) -> None:
    gone = connection.executemany(
        "DELETE FROM session_deferred WHERE id = ? AND turn_id = ?", [(session, turn_id) for turn_id in turn_ids]
    ).rowcount
    if gone > 0:  # -1 where there was nothing to execute
        connection.execute("UPDATE session_backlogs SET waiting = waiting - ? WHERE id = ?", (gone, session))
        _tidy(session, connection)


def _refuse(row: tuple[Text, Text, float, str], horizon: float, connection: sqlite3.Connection) -> bytes | str | None:
    """The outcome that is kept; ``None`` where the turn has begun, has ended or waits."""
    session, turn_id, _, body = row
    (known,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM session_deferred WHERE id = ?1 AND turn_id = ?2) OR EXISTS ("
        "SELECT 1 FROM session_records JOIN session_turns USING (key) WHERE id = ?1 AND turn_id = ?2)",
        (session, turn_id),
    ).fetchone()
    if known:
        return None
    _, first = read_standing(session, turn_id, connection)
    if first is not None:
        return first
    (begun,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM session_begun WHERE id = ? AND turn_id = ?)", (session, turn_id)
    ).fetchone()
    if begun:
        return None
    connection.execute("INSERT INTO session_refused VALUES (?, ?, ?, ?)", row)
    connection.execute("DELETE FROM session_refused WHERE id = ? AND at < ?", (session, horizon))
    connection.execute(
        "DELETE FROM session_refused WHERE id = ?1 AND turn_id IN ("
        "SELECT turn_id FROM session_refused WHERE id = ?1 ORDER BY at DESC LIMIT -1 OFFSET ?2)",
        (session, REFUSALS),
    )
    return body


def _backlogged(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute("SELECT CAST(id AS BLOB), mark FROM session_backlogs WHERE mark IS NOT NULL")
    return {from_blob(session): mark for session, mark in rows}


def _enlist(session: Text, more: int, connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT INTO session_backlogs VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET waiting = waiting + excluded.waiting, mark = excluded.mark",
        (session, more, secrets.token_hex(8)),
    )


def _unlist(session: Text, mark: Text, connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE session_backlogs SET mark = NULL WHERE id = ? AND mark = ?", (session, mark))
    _tidy(session, connection)


def _tidy(session: Text, connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM session_backlogs WHERE id = ? AND waiting = 0 AND mark IS NULL", (session,))
