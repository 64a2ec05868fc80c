"""SQLiteSessionStore: the suite that every store passes, and what is its own."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sdqueue.errors import RecordCorrupt, StoreUnavailable, VersionConflict
from sdqueue.sessions import codec
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.stores import SQLiteSessionStore
from sdqueue.sessions.stores.backlog import REFUSALS
from sdqueue.testing import SessionStoreSuite, TurnBacklogSuite
from sdqueue.testing.backlog_refusals import refused
from sdqueue.testing.backlogs import put
from sdqueue.testing.records import end, make_record, say


class TestSQLite(SessionStoreSuite, TurnBacklogSuite):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "not" / "there" / "sessions.db"

    @pytest.fixture
    async def store(self, path: Path) -> AsyncIterator[SQLiteSessionStore]:
        self.others: list[SQLiteSessionStore] = []
        store = SQLiteSessionStore(path)
        yield store
        for opened in (store, *self.others):
            await opened.aclose()

    async def reopen(self, store: Any) -> SQLiteSessionStore:
        self.others.append(SQLiteSessionStore(store._thread._path))
        return self.others[-1]

    async def plant(self, store: Any, session_id: str, head: str) -> bool:
        _sql(store._thread._path, "UPDATE session_records SET head = ? WHERE id = ?", head, session_id)
        return True

    async def test_a_turn_writes_rows_for_what_is_new(self, store: SQLiteSessionStore, path: Path) -> None:
        """The cost of a save must not grow with the conversation: the rows that were there are not touched.

        Counted by triggers on the database itself.
        """
        record = make_record([f"message {n}" for n in range(1_000)])
        for n in range(64):
            end(record, f"t{n}", "r")
        await store.save("s", record)
        await store.aclose()
        _sql(path, "CREATE TABLE touched (what TEXT)")
        for table in ("session_messages", "session_turns"):
            for event in ("INSERT", "UPDATE", "DELETE"):
                what = f"{event} {table}"
                _sql(
                    path,
                    f"CREATE TRIGGER {table}_{event} AFTER {event} ON {table} "
                    f"BEGIN INSERT INTO touched VALUES ('{what}'); END",
                )
        loaded = await store.load("s")
        assert loaded is not None
        say(loaded, "question", "answer")
        end(loaded, "t64", "r")
        await store.save("s", loaded)
        touched = sorted(what for (what,) in _sql(path, "SELECT what FROM touched"))
        assert touched == [
            "INSERT session_messages",
            "INSERT session_messages",
            "INSERT session_turns",
            "UPDATE session_turns",
        ]
        assert await store.load("s") == loaded

    async def test_a_deleted_session_leaves_no_rows(self, store: SQLiteSessionStore, path: Path) -> None:
        record = make_record(["one"])
        end(record, "t", "r")
        await store.begin("s", "t")
        await store.save("s", record)
        await store.begin("s", "t2")
        await put(store, "s", "waits")
        await refused(store, "s", "refused")
        await store.delete("s")
        for table in ("records", "messages", "turns", "begun", "deferred", "refused", "backlogs"):
            assert _sql(path, f"SELECT * FROM session_{table}") == []

    async def test_a_backlog_that_was_worked_off_leaves_no_rows(self, store: SQLiteSessionStore, path: Path) -> None:
        """Whichever comes first, its end or its unlisting."""
        for first in ("undefer", "unlist"):
            await put(store, "s", "a", "b")
            mark = (await store.backlogged())["s"]
            steps = [partial(store.undefer, "s", ["a", "b"]), partial(store.unlist, "s", mark)]
            for step in steps if first == "undefer" else reversed(steps):
                await step()
            for table in ("deferred", "backlogs"):
                assert _sql(path, f"SELECT * FROM session_{table}") == []

    async def test_refusals_are_bounded(self, store: SQLiteSessionStore, path: Path) -> None:
        """By their age, and by their number, so that a flood costs no more than a prefetch."""
        await store.load("s")
        _sql(
            path,
            "WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 2099) "
            "INSERT INTO session_refused SELECT 's', 't' || n, 1000 + n, '{}' FROM n",
        )
        await refused(store, "s", "new", at=3_100.0)
        left = _sql(path, "SELECT at FROM session_refused ORDER BY at")
        assert (len(left), left[0], left[-1]) == (REFUSALS, (1_101.0,), (3_100.0,))
        late = TurnOutcome("late", 3_105.0, ("{}",), "dead")
        assert await store.refuse("s", late, retention=Retention(ids_s=10.0)) == late
        left = _sql(path, "SELECT at FROM session_refused ORDER BY at")
        assert left == [(3_095.0,), (3_096.0,), (3_097.0,), (3_098.0,), (3_099.0,), (3_100.0,), (3_105.0,)]

    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE session_messages SET body = 'not json'",
            "UPDATE session_messages SET body = NULL",
            "UPDATE session_messages SET body = CAST(X'ff' AS TEXT)",
            "UPDATE session_messages SET body = '1,2'",
            "UPDATE session_records SET head = NULL",
            "UPDATE session_records SET head = 7",
            "UPDATE session_records SET version = 9",
            "UPDATE session_records SET version = '1:another'",
            "DELETE FROM session_messages",
            "UPDATE session_turns SET body = '[]'",
            "UPDATE session_turns SET body = NULL, at = 'yesterday'",
            "UPDATE session_turns SET body = NULL, turn_id = CAST(X'ff' AS TEXT)",
        ],
    )
    async def test_a_damaged_row_is_named(self, store: SQLiteSessionStore, path: Path, damage: str) -> None:
        record = make_record(["one"])
        end(record, "t", "r")
        await store.save("the session", record)
        _sql(path, damage)
        with pytest.raises(RecordCorrupt, match="the session"):
            await store.load("the session")

    async def test_a_session_of_before_lives_had_names_goes_on(self, path: Path) -> None:
        """Its saves are checked as before, and what comes after its delete is another session."""
        head = json.loads(codec.encode_head(SessionRecord()))
        del head["born"]
        path.parent.mkdir(parents=True)
        _sql(
            path,
            "CREATE TABLE session_records (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, "
            "version INTEGER NOT NULL, messages INTEGER NOT NULL, head TEXT)",
        )
        _sql(path, "INSERT INTO session_records VALUES (1, 's', 1, 0, ?)", json.dumps(head))
        store = SQLiteSessionStore(path)
        record, stale = await store.load("s"), await store.load("s")
        assert record is not None
        assert stale is not None
        assert await store.is_current("s", stale.stored)
        await store.save("s", record)
        assert await store.load("s") == record
        assert not await store.is_current("s", stale.stored)
        with pytest.raises(VersionConflict, match="version 2"):
            await store.save("s", stale)
        await store.delete("s")
        new = make_record(["new"])
        await store.save("s", new)
        assert not await store.is_current("s", stale.stored)
        with pytest.raises(VersionConflict, match="deleted and created anew"):
            await store.save("s", stale)
        assert await store.load("s") == new
        await store.aclose()

    async def test_rows_that_vanished_are_written_again(self, store: SQLiteSessionStore, path: Path) -> None:
        """Somebody cleaned the tables while the record was in memory: the next save puts all of it back."""
        record = make_record(["one", "two"])
        end(record, "t1", "r")
        await store.save("s", record)
        _sql(path, "DELETE FROM session_turns")
        _sql(path, "UPDATE session_records SET messages = 0")
        _sql(path, "DELETE FROM session_messages")
        end(record, "t2", "r")
        say(record, "three")
        await store.save("s", record)
        assert await store.load("s") == record

    async def test_what_is_no_database_is_named(self, path: Path) -> None:
        path.parent.mkdir(parents=True)
        path.write_text("this is no database, and long enough to be seen as none")
        store = SQLiteSessionStore(path)
        for use in (store.load("s"), store.save("s", SessionRecord()), store.begin("s", "t")):
            with pytest.raises(StoreUnavailable, match=r"sessions\.db.*check that"):
                await use
        await store.aclose()

    async def test_a_held_database_is_reported_and_used_again_later(
        self, store: SQLiteSessionStore, path: Path
    ) -> None:
        """While another process holds a transaction, saves fail with what to do, and loads go on."""
        await store.save("s", make_record(["one"]))
        impatient = SQLiteSessionStore(path, timeout_s=0.05)
        await impatient.load("s")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                await impatient.save("new", SessionRecord())
            loaded = await impatient.load("s")
            other.execute("ROLLBACK")
        assert loaded is not None
        await impatient.save("new", SessionRecord())
        await impatient.aclose()
        assert await store.load("new") is not None

    async def test_a_failing_commit_fails_every_save_in_it(self, store: SQLiteSessionStore) -> None:
        """Ten saves share a transaction whose commit fails: none may say that it was saved, and none is."""
        await store.load("s")
        connection = _FailingCommit(store._thread._connection)
        store._thread._connection = connection  # type: ignore[assignment]
        records = [make_record(["one"]) for _ in range(10)]
        results = await asyncio.gather(
            *(store.save(f"s{n}", record) for n, record in enumerate(records)), return_exceptions=True
        )
        assert {type(result) for result in results} == {StoreUnavailable}
        assert [record.stored.version for record in records] == [0] * 10
        assert [await store.load(f"s{n}") for n in range(10)] == [None] * 10
        connection.fails = False
        await store.save("s0", records[0])
        assert await store.load("s0") == records[0]

    async def test_a_closed_store_opens_again(self, store: SQLiteSessionStore) -> None:
        for n in range(3):
            await store.aclose()
            record = await store.load("s") or SessionRecord()
            say(record, str(n))
            await store.save("s", record)
        assert record.version == 3

    async def test_closing_finishes_what_was_begun(self, store: SQLiteSessionStore) -> None:
        """Closing and saving at the same time, over and over: every save is there or was never promised."""
        for n in range(30):
            save = asyncio.create_task(store.save(f"s{n}", SessionRecord()))
            if n % 2:
                await asyncio.sleep(0)
            await asyncio.gather(store.aclose(), store.load(f"s{n}"), store.aclose())
            await save
            assert await store.load(f"s{n}") is not None

    def test_a_store_is_used_by_one_event_loop_after_another(self, path: Path) -> None:
        store = SQLiteSessionStore(path)
        for n in range(3):
            asyncio.run(store.save(f"s{n}", SessionRecord()))
        assert asyncio.run(store.load("s0")) is not None
        asyncio.run(store.aclose())

    async def test_a_forgotten_store_closes_its_file(self, path: Path) -> None:
        """superdialog's worker knows no close: the database must not stay open until the process ends."""
        store = SQLiteSessionStore(path)
        await store.save("s", SessionRecord())
        thread = store._thread
        executor, connection = thread._executor, thread._connection
        assert executor is not None
        assert connection is not None
        await asyncio.wrap_future(executor.submit(lambda: None))
        del store, thread, executor
        gc.collect()
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


class _FailingCommit:
    """An SQLite connection whose disk is full when it comes to the commit of a write."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._writing = False
        self.fails = True

    def execute(self, statement: str, *parameters: Any) -> Any:
        self._writing = statement == "BEGIN IMMEDIATE" or (self._writing and statement != "ROLLBACK")
        if statement == "COMMIT" and self._writing and self.fails:
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(statement, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _sql(path: Path, statement: str, *parameters: Any) -> list[Any]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
        return connection.execute(statement, parameters).fetchall()
