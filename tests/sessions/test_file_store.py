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
from sdqueue.sessions.stores import FileSessionStore
from sdqueue.testing import SessionStoreSuite, TurnBacklogSuite
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
