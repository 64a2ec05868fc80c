"""SQLiteSessionStore: sessions in one database file, for the processes of one machine."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from sdqueue.errors import RecordCorrupt, VersionConflict
from sdqueue.sessions import codec
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.ring import TurnRing
from sdqueue.sessions.sealing.seal import UNSEALED, Seal, Sealing
from sdqueue.sessions.stores.foreign import ForeignSaves
from sdqueue.sessions.stores.sqlite_backlog import SCHEMA as BACKLOG_SCHEMA
from sdqueue.sessions.stores.sqlite_backlog import SQLiteBacklog, delete_backlog
from sdqueue.sessions.stores.sqlite_thread import SQLiteThread, Text, from_blob, to_text
from sdqueue.sessions.stores.store import STARTED

# session_records.version is the revision: the version, and the life that it is of. Files of before lives had names have
# it as a number, which SQLite compares with the text as it should.
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS session_records (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL, messages INTEGER NOT NULL, head TEXT
);
CREATE TABLE IF NOT EXISTS session_messages (
    key INTEGER NOT NULL, n INTEGER NOT NULL, body TEXT, PRIMARY KEY (key, n)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session_turns (
    key INTEGER NOT NULL, n INTEGER NOT NULL, turn_id TEXT NOT NULL, at REAL NOT NULL, body TEXT,
    PRIMARY KEY (key, n), UNIQUE (key, turn_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS session_turns_with_replies ON session_turns (key, n) WHERE body IS NOT NULL;
CREATE TABLE IF NOT EXISTS session_begun (
    id TEXT NOT NULL, turn_id TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (id, turn_id)
) WITHOUT ROWID;
{BACKLOG_SCHEMA}
"""

_Turn = tuple[Text, float, str | None]


class SQLiteSessionStore(SQLiteBacklog):
    """Keeps sessions in an SQLite database in WAL mode; several processes of one machine may share it.

    Messages and outcomes of turns are rows, so a save writes what is new and not the conversation again. A
    save has returned when it is synced to the disk; saves that wait at the same time share the sync. A
    cancelled save happens wholly or not at all. It may share its file with the SQLite broker, but not a
    network file system.

    Parameters:
        path: the database file; its directory is made when it is needed.
        timeout_s: how long another process's transaction is waited for.
        sealer: encrypts what is kept; a :class:`~sdqueue.Sealer` of the store's own. Default: nothing is encrypted.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout_s: float = 10.0, sealer: Sealing | None = None) -> None:
        # What was kept plainly before must not stay in freed pages.
        schema = _SCHEMA if sealer is None else f"PRAGMA secure_delete=ON;{_SCHEMA}"
        self._thread = SQLiteThread(Path(path), schema, timeout_s=timeout_s)
        self._sealing = UNSEALED if sealer is None else sealer
        self._foreign = ForeignSaves()

    async def load(self, session_id: str) -> SessionRecord | None:
        """See :meth:`SessionStore.load <sdqueue.sessions.stores.store.SessionStore.load>`."""
        return self._foreign.loaded(session_id, await self._record(session_id))

    async def _record(self, session_id: str) -> SessionRecord | None:
        rows = await self._thread.read(partial(_read, to_text(session_id)))
        if rows is None:
            return None
        seal = await self._sealing.reading(session_id, rows.head)
        if seal is None:
            await self._thread.write(partial(_discard, rows))
            return None
        return _decode(session_id, rows, seal)

    async def save(self, session_id: str, record: SessionRecord) -> None:
        """See :meth:`SessionStore.save <sdqueue.sessions.stores.store.SessionStore.save>`."""
        if not isinstance(record, SessionRecord):
            await self._foreign.save(session_id, record, read=self._record, save=self.save)
            return
        fresh = len(record.turns.fresh)
        seal = await self._sealing.writing(session_id, record.stored)
        with codec.naming(session_id):
            change = _change(session_id, record, seal, whole=False)
            try:
                await self._thread.write(partial(_save, change))
            except _RowsMissing:
                change = _change(session_id, record, seal, whole=True)
                await self._thread.write(partial(_save, change))
        record.mark_stored(change.saved, fresh=fresh)

    async def delete(self, session_id: str) -> None:
        """Forget the session; nothing happens where there is none.

        Raises:
            StoreUnavailable: the database cannot be used.
        """
        await self._thread.write(partial(_delete, to_text(session_id)))

    async def is_current(self, session_id: str, known: Stored) -> bool:
        """Whether the database still has this very state, by one row.

        Raises:
            StoreUnavailable: the database cannot be used.
        """
        return await self._thread.read(partial(_is_current, to_text(session_id), known))

    async def begin(self, session_id: str, turn_id: str) -> int:
        """Count a beginning of this turn. Returns how many there were.

        Raises:
            StoreUnavailable: the database cannot be used.
        """
        return await self._thread.write(partial(_begin, to_text(session_id), to_text(turn_id)))

    async def rewind(self, session_id: str, turn_id: str) -> None:
        """Take one beginning back.

        Raises:
            StoreUnavailable: the database cannot be used.
        """
        await self._thread.write(partial(_rewind, to_text(session_id), to_text(turn_id), -1))

    async def rewind_started(self, session_id: str, turn_id: str) -> None:
        """Take one beginning back whose agent had started.

        Raises:
            StoreUnavailable: the database cannot be used.
        """
        await self._thread.write(partial(_rewind, to_text(session_id), to_text(turn_id), STARTED - 1))

    async def aclose(self) -> None:
        """Close the database, after what is under way. Idempotent; a later use opens it again."""
        await self._thread.close()
        await self._sealing.aclose()


@dataclass(frozen=True)
class _Change:
    """What a save does to the rows, made in the event loop so that the record may change meanwhile.

    Parameters:
        expected: what the database must have.
        saved: what it has then.
        keep: that many message rows stay; ``bodies`` come behind them.
        turns: rows to add, oldest first; with ``whole`` in place of those that are there.
        oldest: the first turn to stay, ``None`` for none.
        oldest_answered: the first turn whose replies stay, ``None`` for none.
    """

    session_id: str
    expected: Stored
    saved: Stored
    head: str
    keep: int
    bodies: list[str]
    whole: bool
    turns: list[_Turn]
    oldest: Text | None
    oldest_answered: Text | None
    ended: list[Text]


class _RowsMissing(Exception):
    """Rows that a save wanted to build on are not there: the record must be written whole."""


def _change(session_id: str, record: SessionRecord, seal: Seal, *, whole: bool) -> _Change:
    ring, items, expected, saved = record.turns, record.chat_ctx.items, record.stored, record.successor()
    whole = whole or seal.key_id != expected.sealed_by
    keep = 0 if whole or not expected.version or expected.items > len(items) else expected.items
    whole_ring = whole or not expected.version or not ring.known
    return _Change(
        session_id=session_id,
        expected=expected,
        saved=replace(saved.stored, sealed_by=seal.key_id),
        head=seal.seal("head", codec.encode_head(saved)),
        keep=keep,
        bodies=[seal.seal("message", codec.encode_message(message), n) for n, message in enumerate(items[keep:], keep)],
        whole=whole_ring,
        turns=_turns(ring, seal, whole=whole_ring),
        oldest=_first(ring.ids or ring.outcomes),
        oldest_answered=_first(ring.outcomes),
        ended=[to_text(outcome.turn_id) for outcome in ring.fresh],
    )


def _turns(ring: TurnRing, seal: Seal, *, whole: bool) -> list[_Turn]:
    """Rows for the whole ring or for what is fresh in it and not forgotten again already."""
    latest: dict[str, None] = {}
    for outcome in ring if whole else ring.fresh:
        latest.pop(outcome.turn_id, None)
        latest[outcome.turn_id] = None
    rows: list[_Turn] = []
    for turn_id in latest:
        outcome_now = ring.outcomes.get(turn_id)
        if outcome_now is not None:
            text = seal.seal_outcome(turn_id, codec.encode_outcome(outcome_now))
            rows.append((to_text(turn_id), outcome_now.at, text))
        elif turn_id in ring.ids:
            rows.append((to_text(turn_id), ring.ids[turn_id], None))
    return rows


def _save(change: _Change, connection: sqlite3.Connection) -> None:
    key, messages = _claim(change, connection)
    if change.keep > messages:
        raise _RowsMissing
    if messages > change.keep:
        connection.execute("DELETE FROM session_messages WHERE key = ? AND n >= ?", (key, change.keep))
    rows = [(key, n, body) for n, body in enumerate(change.bodies, change.keep)]
    connection.executemany("INSERT INTO session_messages VALUES (?, ?, ?)", rows)
    if change.whole or change.ended:
        _save_turns(change, key, connection)
    begun = [(to_text(change.session_id), turn_id) for turn_id in change.ended]
    connection.executemany("DELETE FROM session_begun WHERE id = ? AND turn_id = ?", begun)


def _claim(change: _Change, connection: sqlite3.Connection) -> tuple[int, int]:
    """Compare and set the revision. Returns the session's key, and how many messages it had."""
    session, expected, saved = to_text(change.session_id), change.expected, change.saved
    row = connection.execute(
        "SELECT key, CAST(version AS INTEGER), messages FROM session_records WHERE id = ?", (session,)
    ).fetchone()
    if row is None and not expected.version:
        new = connection.execute(
            "INSERT INTO session_records (id, version, messages, head) VALUES (?, ?, ?, ?)",
            (session, to_text(saved.revision), saved.items, change.head),
        )
        assert new.lastrowid is not None
        return new.lastrowid, 0
    updated = connection.execute(
        "UPDATE session_records SET version = ?, messages = ?, head = ? WHERE id = ? AND version = ?",
        (to_text(saved.revision), saved.items, change.head, session, to_text(expected.revision)),
    )
    if row is None or not updated.rowcount:
        found = None if row is None else row[1]
        raise VersionConflict(change.session_id, expected=expected.version, found=found)
    return row[0], row[2]


def _save_turns(change: _Change, key: int, connection: sqlite3.Connection) -> None:
    if change.whole or change.oldest is None:
        connection.execute("DELETE FROM session_turns WHERE key = ?", (key,))
    else:
        repeated = [(key, turn_id) for turn_id, _, _ in change.turns]
        connection.executemany("DELETE FROM session_turns WHERE key = ? AND turn_id = ?", repeated)
    (last,) = connection.execute("SELECT coalesce(max(n), -1) FROM session_turns WHERE key = ?", (key,)).fetchone()
    rows = [(key, n, *turn) for n, turn in enumerate(change.turns, last + 1)]
    connection.executemany("INSERT INTO session_turns VALUES (?, ?, ?, ?, ?)", rows)
    if change.oldest is None:
        return
    # The ring forgets from its old end only: whole turns first, and the replies of others before that.
    oldest = _row_of(change.oldest, key, connection)
    connection.execute("DELETE FROM session_turns WHERE key = ? AND n < ?", (key, oldest))
    answered = last + len(rows) + 1
    if change.oldest_answered is not None:
        answered = _row_of(change.oldest_answered, key, connection)
    connection.execute(
        "UPDATE session_turns SET body = NULL WHERE key = ? AND n < ? AND body IS NOT NULL", (key, answered)
    )


def _row_of(turn_id: Text, key: int, connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT n FROM session_turns WHERE key = ? AND turn_id = ?", (key, turn_id)).fetchone()
    if row is None:
        raise _RowsMissing
    n: int = row[0]
    return n


@dataclass(frozen=True)
class _Rows:
    """A record as the database has it, each part as bytes."""

    key: int
    revision: bytes
    messages: int
    head: bytes
    bodies: list[bytes]
    turns: list[tuple[bytes, float, bytes | None]]


def _read(session: Text, connection: sqlite3.Connection) -> _Rows | None:
    # Cast to blobs: what is no UTF-8 is then a damaged record and not a failing database.
    row = connection.execute(
        "SELECT key, CAST(version AS BLOB), messages, CAST(head AS BLOB) FROM session_records WHERE id = ?",
        (session,),
    ).fetchone()
    if row is None:
        return None
    key, revision, messages, head = row
    rows = connection.execute("SELECT CAST(body AS BLOB) FROM session_messages WHERE key = ? ORDER BY n", (key,))
    bodies = [body for (body,) in rows]
    turns = connection.execute(
        "SELECT CAST(turn_id AS BLOB), at, CAST(body AS BLOB) FROM session_turns WHERE key = ? ORDER BY n",
        (key,),
    ).fetchall()
    return _Rows(key, revision, messages, head, bodies, turns)


def _decode(session_id: str, rows: _Rows, seal: Seal) -> SessionRecord:
    with codec.naming(session_id):
        record = codec.decode_parts(
            seal.open("head", rows.head),
            seal.open_messages(rows.bodies),
            seal.open_outcomes([body for _, _, body in rows.turns if body is not None]),
        )
        found = record.stored.revision.encode("utf-8", "surrogatepass")
        if len(rows.bodies) != rows.messages or found != rows.revision:
            raise RecordCorrupt(
                f"the stored session record is damaged: it has {len(rows.bodies)} messages and revision {found!r}, "
                f"but {rows.messages} and {rows.revision!r} were saved"
            )
        record.turns.ids = _ids([(turn_id, at) for turn_id, at, body in rows.turns if body is None])
    record.stored = replace(record.stored, sealed_by=seal.key_id)
    return record


def _is_current(session: Text, known: Stored, connection: sqlite3.Connection) -> bool:
    row = connection.execute(
        "SELECT 1 FROM session_records WHERE id = ? AND version = ?", (session, to_text(known.revision))
    ).fetchone()
    return row is not None


def _ids(rows: list[tuple[bytes, float]]) -> dict[str, float]:
    try:
        ids = {from_blob(turn_id): at for turn_id, at in rows}
    except ValueError as error:
        raise RecordCorrupt(f"the stored session record is damaged: the id of a turn: {error}") from error
    if not all(type(at) is float for at in ids.values()):
        raise RecordCorrupt("the stored session record is damaged: the time of a turn is no number")
    return ids


def _delete(session: Text, connection: sqlite3.Connection) -> None:
    row = connection.execute("SELECT key FROM session_records WHERE id = ?", (session,)).fetchone()
    if row is not None:
        _delete_record(row[0], connection)
    connection.execute("DELETE FROM session_begun WHERE id = ?", (session,))
    delete_backlog(session, connection)


def _discard(rows: _Rows, connection: sqlite3.Connection) -> None:
    """Delete a record that can never be read again, where it still is what was read."""
    row = connection.execute(
        "SELECT 1 FROM session_records WHERE key = ? AND CAST(version AS BLOB) = ?", (rows.key, rows.revision)
    ).fetchone()
    if row is not None:
        _delete_record(rows.key, connection)


def _delete_record(key: int, connection: sqlite3.Connection) -> None:
    for table in ("session_messages", "session_turns", "session_records"):
        connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))  # noqa: S608 - the tables named above


def _begin(session: Text, turn_id: Text, connection: sqlite3.Connection) -> int:
    connection.execute(
        "INSERT INTO session_begun VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
        (session, turn_id),
    )
    row = connection.execute(
        "SELECT count FROM session_begun WHERE id = ? AND turn_id = ?", (session, turn_id)
    ).fetchone()
    count: int = row[0]
    return count


def _rewind(session: Text, turn_id: Text, step: int, connection: sqlite3.Connection) -> None:
    connection.execute(
        "UPDATE session_begun SET count = count + ? WHERE id = ? AND turn_id = ? AND count % ? > 0",
        (step, session, turn_id, STARTED),
    )
    connection.execute("DELETE FROM session_begun WHERE id = ? AND turn_id = ? AND count <= 0", (session, turn_id))


def _first(ids: Iterable[str]) -> Text | None:
    return next((to_text(turn_id) for turn_id in ids), None)
