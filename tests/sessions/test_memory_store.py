"""The stores in memory and of nothing: the suites that they pass, and what is theirs alone."""

from __future__ import annotations

import pytest

from sdqueue.errors import VersionConflict
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.stores import InMemorySessionStore, NullSessionStore
from sdqueue.sessions.stores.backlog import REFUSALS, Deferred
from sdqueue.testing import NullStoreSuite, SessionStoreSuite, TurnBacklogSuite
from sdqueue.testing.backlogs import put
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

    async def test_nothing_is_left_of_a_backlog(self, store: InMemorySessionStore) -> None:
        await put(store, "s", "a", "b")
        (mark,) = (await store.backlogged()).values()
        await store.undefer("s", ["a", "b"])
        await store.unlist("s", mark)
        assert await store.refuse("s", TurnOutcome("t", 1_000.0, ("{}",), "dead"), retention=Retention())
        assert await store.defer("s", [Deferred("t", b"")], limit=10) == [False]
        await store.delete("s")
        assert not store._deferred
        assert not store._refused
        assert not store._marks

    async def test_refusals_are_bounded(self, store: InMemorySessionStore) -> None:
        """By their age, and by their number, so that a flood costs no more than a prefetch."""
        for n in range(REFUSALS + 50):
            await store.refuse("s", TurnOutcome(f"t{n}", 1_000.0 + n, ("{}",), "dead"), retention=Retention())
        assert list(store._refused["s"]) == [f"t{n}" for n in range(50, REFUSALS + 50)]
        late = TurnOutcome("late", 1_000.0 + REFUSALS + 55, ("{}",), "dead")
        await store.refuse("s", late, retention=Retention(ids_s=10.0))
        assert list(store._refused["s"]) == [*(f"t{n}" for n in range(REFUSALS + 45, REFUSALS + 50)), "late"]


async def test_a_conflict_names_what_to_do() -> None:
    store = InMemorySessionStore()
    await store.save("s", SessionRecord())
    with pytest.raises(VersionConflict, match="load the session again"):
        await store.save("s", SessionRecord())
