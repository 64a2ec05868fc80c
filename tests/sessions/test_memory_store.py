"""The stores in memory and of nothing: the suites that they pass, and what is theirs alone."""

from __future__ import annotations

import pytest

from sdqueue.errors import VersionConflict
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.stores import InMemorySessionStore, NullSessionStore
from sdqueue.testing import NullStoreSuite, SessionStoreSuite, TurnBacklogSuite
from sdqueue.testing.records import end


class TestNull(NullStoreSuite):
    @pytest.fixture
    def store(self) -> NullSessionStore:
        return NullSessionStore()


class TestInMemory(SessionStoreSuite, TurnBacklogSuite):
    @pytest.fixture
    def store(self) -> InMemorySessionStore:
        return InMemorySessionStore()

    async def test_nothing_is_left_of_a_session(self, store: InMemorySessionStore) -> None:
        await store.begin("s", "t")
        await store.begin("s", "t2")
        record = SessionRecord()
        end(record, "t", "r")
        await store.save("s", record)
        await store.rewind("s", "t2")
        await store.delete("s")
        assert not store._kept
        assert not store._begun


async def test_a_conflict_names_what_to_do() -> None:
    store = InMemorySessionStore()
    await store.save("s", SessionRecord())
    with pytest.raises(VersionConflict, match="load the session again"):
        await store.save("s", SessionRecord())
