"""FileSessionStore: the suite that every store passes, and what is its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sdqueue.errors import RecordCorrupt, StoreUnavailable
from sdqueue.sessions.locks.file import drop_flock, safe_name, try_flock
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.stores import FileSessionStore
from sdqueue.sessions.stores.backlog import REFUSALS
from sdqueue.sessions.stores.turn_folder import Entry, TurnFolder
from sdqueue.testing import SessionStoreSuite, TurnBacklogSuite
from sdqueue.testing.backlog_refusals import refused
from sdqueue.testing.backlogs import put, waiting
from sdqueue.testing.records import end, make_record, say


class TestFile(SessionStoreSuite, TurnBacklogSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FileSessionStore:
        return FileSessionStore(tmp_path / "not" / "there")

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return tmp_path / "not" / "there"

    async def reopen(self, store: Any) -> FileSessionStore:
        return FileSessionStore(store._files.directory)

    async def plant(self, store: Any, session_id: str, head: str) -> bool:
        store._files.path(session_id, "json").write_text(head)
        return True

    async def test_one_file_a_session(self, store: FileSessionStore, directory: Path) -> None:
        """No lock file, no temporary file, and no beginnings of turns that have ended stay behind."""
        await store.begin("a/b", "t")
        record = make_record(["one"])
        end(record, "t", "r")
        await store.save("a/b", record)
        say(record, "two")
        await store.save("a/b", record)
        assert [path.name for path in directory.iterdir()] == [f"{safe_name('a/b')}.json"]
        await store.delete("a/b")
        assert not list(directory.iterdir())

    async def test_a_save_that_dies_before_the_rename_changes_nothing(
        self, store: FileSessionStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = make_record(["one"])
        await store.save("s", record)
        say(record, "two")
        monkeypatch.setattr(Path, "replace", _fail)
        with pytest.raises(StoreUnavailable, match="no such luck"):
            await store.save("s", record)
        monkeypatch.undo()
        assert record.stored.version == 1
        loaded = await store.load("s")
        assert loaded is not None
        assert [m.content for m in loaded.chat_ctx.items] == ["one"]
        await store.save("s", record)
        assert record.version == 2

    async def test_a_directory_that_is_none_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        store = FileSessionStore(tmp_path / "file")
        for use in (store.load("s"), store.save("s", SessionRecord()), store.delete("s"), store.begin("s", "t")):
            with pytest.raises(StoreUnavailable, match=r"file.*check that"):
                await use

    async def test_damaged_beginnings_are_named(self, store: FileSessionStore, directory: Path) -> None:
        await store.begin("s", "t")
        for damage in ("{", "[]", '{"t": "1"}'):
            (directory / f"{safe_name('s')}.begun").write_text(damage)
            with pytest.raises(RecordCorrupt, match="'s'"):
                await store.begin("s", "t")

    async def test_positions_go_on_growing_where_the_clock_was_set_back(
        self, store: FileSessionStore, directory: Path
    ) -> None:
        await put(store, "s", "a")
        (first,) = await store.deferred("s", count=1)
        (directory / f"{safe_name('s')}.backlog" / "newest").write_text(str(first.position + 10**12))
        await store.undefer("s", ["a"])
        await put(store, "s", "b")
        (second,) = await store.deferred("s", count=1)
        assert second.position == first.position + 10**12 + 1

    async def test_refusals_are_bounded(self, store: FileSessionStore, directory: Path) -> None:
        """By their age, and by their number, so that a flood costs no more than a prefetch."""
        await refused(store, "s", "old", at=900.0)
        folder = TurnFolder(directory / f"{safe_name('s')}.refused")
        for n in range(2_100):
            (folder.path / str(Entry.of((1_000 + n) * 10**6, f"t{n}"))).write_text("{}")
        await refused(store, "s", "new", at=3_100.0)
        left = [entry.number // 10**6 for entry in folder.entries()]
        assert (len(left), left[0], left[-1]) == (REFUSALS, 1_101, 3_100)
        late = TurnOutcome("late", 3_105.0, ("{}",), "dead")
        assert await store.refuse("s", late, retention=Retention(ids_s=10.0)) == late
        left = [entry.number // 10**6 for entry in folder.entries()]
        assert left == [3_095, 3_096, 3_097, 3_098, 3_099, 3_100, 3_105]

    async def test_damage_to_a_backlog_is_named(self, store: FileSessionStore, directory: Path) -> None:
        await put(store, "s", "a")
        (path,) = (directory / f"{safe_name('s')}.backlog").glob("*.a-*")
        for damage in (b"", b"{", b"1\nbody", b'"b"\nbody', b"\xff\nbody"):
            path.write_bytes(damage)
            with pytest.raises(RecordCorrupt, match="'s'"):
                await store.deferred("s", count=1)
        (path,) = (directory / "backlogged").iterdir()
        for damage in (b"", b"[]", b"1", b'{"a": 1}', b"[1, 2]", b"\xff"):
            path.write_bytes(damage)
            with pytest.raises(RecordCorrupt, match=path.name):
                await store.backlogged()

    async def test_what_a_crash_left_of_an_append_is_no_turn(self, store: FileSessionStore, directory: Path) -> None:
        """Temporary files of an append that died, and of the list: they are not seen, and do not stay."""
        await put(store, "s", "a")
        backlog = directory / f"{safe_name('s')}.backlog"
        (backlog / "0.tmp").write_bytes(b"half")
        (directory / "backlogged" / f"{safe_name('s')}.tmp").write_bytes(b"half")
        assert await waiting(store, "s") == ["a"]
        assert (await store.standing("s", "a")).waiting == 1
        assert set(await store.backlogged()) == {"s"}
        await put(store, "s", "b")
        assert await waiting(store, "s") == ["a", "b"]
        assert not list(directory.rglob("*.tmp"))

    async def test_a_stopped_writer_is_reported(self, directory: Path) -> None:
        """A process that holds a session's file lock and does nothing: others say so instead of waiting for ever."""
        store = FileSessionStore(directory, timeout_s=0.05)
        lock = directory / f"{safe_name('s')}.lock"
        fd = try_flock(lock)
        assert fd is not None
        with pytest.raises(StoreUnavailable, match="stopped process"):
            await store.save("s", SessionRecord())
        drop_flock(lock, fd)
        await store.save("s", SessionRecord())
        assert await store.load("s") is not None


def test_a_file_store_keeps_readable_json(tmp_path: Path) -> None:
    asyncio.run(FileSessionStore(tmp_path).save("s", make_record(["hello"])))
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["chat_ctx"] == [{"role": "user", "content": "hello"}]


def _fail(*args: Any) -> None:
    raise OSError("no such luck")
