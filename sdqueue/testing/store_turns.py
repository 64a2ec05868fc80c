"""The part of SessionStoreSuite that is about turns: their outcomes, and how often they were begun."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio

import pytest

from sdqueue.errors import VersionConflict
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.ring import Retention, TurnOutcome, TurnRing
from sdqueue.sessions.stores.offers import offers
from sdqueue.sessions.stores.store import SessionStore, StartCounter, TurnCounter, beginnings
from sdqueue.testing.records import end, say


class TurnCases:
    """What a session store must do with turns; run as a part of ``SessionStoreSuite``."""

    counts_beginnings = True
    """Whether the store is a ``TurnCounter`` too, which is optional; one that says so must be."""

    def counter(self, store: SessionStore) -> TurnCounter:
        """The store as what counts beginnings; a test that asks for it is skipped where it need not."""
        if not self.counts_beginnings:
            pytest.skip("this store counts no beginnings, which is optional")
        assert offers(store, TurnCounter)
        return store

    # The ring

    async def test_replies_come_back_byte_for_byte(self, store: SessionStore, session_id: str) -> None:
        replies = ('{"b": 1,  "a":\t2}', '{"text":"é\\u00e9 🦊"}', "not JSON \ud800", "")
        record = SessionRecord()
        end(record, "turn/1", *replies)
        record.turns.add(TurnOutcome("dead", 1_000.5, ("{}",), "dead"), Retention())
        record.turns.add(TurnOutcome("none", 1_000.5, (), "superseded", "turn/3"), Retention())
        await store.save(session_id, record)
        loaded = await store.load(session_id)
        assert loaded is not None
        assert loaded.turns == record.turns
        assert loaded.turns.get("turn/1") == TurnOutcome("turn/1", 1_000.0, replies)
        assert loaded.turns.get("dead") == TurnOutcome("dead", 1_000.5, ("{}",), "dead")
        assert loaded.turns.get("none") == TurnOutcome("none", 1_000.5, (), "superseded", "turn/3")
        assert loaded.turns.get("other") is None

    async def test_the_ring_forgets_as_the_record_does(self, store: SessionStore, session_id: str) -> None:
        """Three outcomes keep their replies, a hundred seconds of ids stay, whatever was before is gone."""
        record: SessionRecord | None = SessionRecord()
        for n in range(30):
            assert record is not None
            end(record, f"t{n}", f"reply {n}", at=1_000.0 + 10 * n, keep=3)
            say(record, f"answer {n}")
            await store.save(session_id, record)
            loaded = await store.load(session_id)
            assert loaded == record
            assert list(loaded.turns) == list(record.turns)
            if n % 3 == 0:
                record = loaded
        assert record is not None
        assert list(record.turns.outcomes) == ["t27", "t28", "t29"]
        assert list(record.turns.ids) == [f"t{n}" for n in range(19, 27)]

    async def test_several_turns_are_saved_at_once(self, store: SessionStore, session_id: str) -> None:
        """More than the ring holds, some of them twice, some forgotten again before they were ever saved."""
        record = SessionRecord()
        end(record, "t0", "r0")
        await store.save(session_id, record)
        for n in range(1, 8):
            end(record, f"t{n}", f"r{n}", at=1_000.0 + 30 * n, keep=2)
        end(record, "t6", "again", at=1_220.0, keep=2)
        end(record, "t0", "again", at=1_221.0, keep=2)
        await store.save(session_id, record)
        loaded = await store.load(session_id)
        assert loaded is not None
        assert list(loaded.turns) == list(record.turns)
        assert list(loaded.turns.outcomes) == ["t6", "t0"]

    async def test_a_second_outcome_replaces_the_first(self, store: SessionStore, session_id: str) -> None:
        """A dead turn that was replayed: one outcome, the newest, at the new end of the ring."""
        record = SessionRecord()
        for turn_id in ("a", "b", "c"):
            end(record, turn_id, "first")
        await store.save(session_id, record)
        end(record, "d", "first", at=1_001.0)
        end(record, "e", "first", at=1_001.0)
        end(record, "d", "second", at=1_001.0)
        end(record, "a", "second", at=1_001.0)
        await store.save(session_id, record)
        loaded = await store.load(session_id)
        assert loaded is not None
        assert list(loaded.turns.outcomes.values()) == list(record.turns.outcomes.values())
        assert list(loaded.turns.outcomes) == ["b", "c", "e", "d", "a"]
        assert loaded.turns.get("a") == TurnOutcome("a", 1_001.0, ("second",))

    async def test_which_replay_ended_is_kept(self, store: SessionStore, session_id: str) -> None:
        record = SessionRecord()
        outcome = TurnOutcome("t", 1_000.0, ("r",), "dead", replay=3)
        record.turns.add(outcome, Retention())
        await store.save(session_id, record)
        loaded = await store.load(session_id)
        assert loaded is not None
        assert loaded.turns.get("t") == outcome

    async def test_the_time_of_an_end_is_kept_to_the_last_digit(self, store: SessionStore, session_id: str) -> None:
        """Of a turn whose id alone is left, it names the end."""
        record = SessionRecord()
        times = {f"t{n}": at for n, at in enumerate((1_764_000_000.123457, 1_764_000_000.1, 1_764_000_001.999999))}
        for turn_id, at in times.items():
            record.turns.add(TurnOutcome(turn_id, at, ("r",)), Retention(replies=1))
            await store.save(session_id, record)
        loaded = await store.load(session_id)
        assert loaded is not None
        assert {outcome.turn_id: outcome.at for outcome in loaded.turns} == times

    async def test_a_ring_without_replies_keeps_ids(self, store: SessionStore, session_id: str) -> None:
        record = SessionRecord()
        for n in range(3):
            end(record, f"t{n}", "reply", keep=0)
            await store.save(session_id, record)
        loaded = await store.load(session_id)
        assert loaded is not None
        assert loaded.turns == record.turns
        assert list(loaded.turns.ids) == ["t0", "t1", "t2"]

    async def test_a_ring_made_by_hand_replaces_the_old(self, store: SessionStore, session_id: str) -> None:
        record = SessionRecord()
        end(record, "old", "r")
        await store.save(session_id, record)
        outcome = TurnOutcome("new", 5.0, ("r",))
        record.turns = TurnRing(outcomes={"new": outcome}, ids={"older": 4.0})
        await store.save(session_id, record)
        loaded = await store.load(session_id)
        assert loaded is not None
        assert list(loaded.turns) == [TurnOutcome("older", 4.0), outcome]
        record.turns = TurnRing()
        await store.save(session_id, record)
        loaded = await store.load(session_id)
        assert loaded is not None
        assert list(loaded.turns) == []

    # Beginnings

    async def test_beginnings_are_counted(self, store: SessionStore, session_id: str) -> None:
        counter = self.counter(store)
        assert [await counter.begin(session_id, "t1") for _ in range(3)] == [1, 2, 3]
        assert await counter.begin(session_id, "t2") == 1
        assert await counter.begin(f"{session_id}-other", "t1") == 1
        assert await store.load(session_id) is None

    async def test_beginnings_are_taken_back(self, store: SessionStore, session_id: str) -> None:
        counter = self.counter(store)
        await counter.begin(session_id, "t1")
        await counter.begin(session_id, "t1")
        await counter.rewind(session_id, "t1")
        assert await counter.begin(session_id, "t1") == 2
        for _ in range(4):
            await counter.rewind(session_id, "t1")
        await counter.rewind(session_id, "never begun")
        assert await counter.begin(session_id, "t1") == 1

    async def test_what_was_taken_back_after_a_start_still_counts(self, store: SessionStore, session_id: str) -> None:
        """So the numbers that a later start gets are greater than all before, and no turn is held for a poison."""
        counter = self.counter(store)
        if not offers(counter, StartCounter):
            pytest.skip("this store does not count starts, which is optional")
        numbers = []
        for _ in range(3):
            numbers.append(beginnings(await counter.begin(session_id, "t")))
            await counter.rewind_started(session_id, "t")
        assert numbers == [(1, 1), (1, 2), (1, 3)]
        await counter.rewind_started(session_id, "t")  # nothing of it is begun: nothing is taken back
        await counter.rewind(session_id, "t")
        await counter.rewind_started(session_id, "never begun")
        assert beginnings(await counter.begin(session_id, "never begun")) == (1, 1)
        assert beginnings(await counter.begin(session_id, "t")) == (1, 4)
        assert beginnings(await counter.begin(session_id, "t")) == (2, 5)
        await counter.rewind(session_id, "t")
        assert beginnings(await counter.begin(session_id, "t")) == (2, 5)
        record = SessionRecord()
        end(record, "t", "r")
        await store.save(session_id, record)
        assert await counter.begin(session_id, "t") == 1

    async def test_an_outcome_ends_beginnings(self, store: SessionStore, session_id: str) -> None:
        counter = self.counter(store)
        for turn_id in ("t1", "t1", "t2"):
            await counter.begin(session_id, turn_id)
        record = SessionRecord()
        end(record, "t1", "r")
        await store.save(session_id, record)
        assert await counter.begin(session_id, "t1") == 1
        assert await counter.begin(session_id, "t2") == 2

    async def test_a_refused_save_leaves_beginnings(self, store: SessionStore, session_id: str) -> None:
        counter = self.counter(store)
        await store.save(session_id, SessionRecord())
        await counter.begin(session_id, "t1")
        stale = SessionRecord()
        end(stale, "t1", "r")
        with pytest.raises(VersionConflict):
            await store.save(session_id, stale)
        assert await counter.begin(session_id, "t1") == 2

    async def test_a_delete_ends_beginnings(self, store: SessionStore, session_id: str) -> None:
        counter = self.counter(store)
        await counter.begin(session_id, "t1")
        await store.delete(session_id)
        assert await counter.begin(session_id, "t1") == 1
        await store.save(session_id, SessionRecord())
        await store.delete(session_id)
        assert await counter.begin(session_id, "t1") == 1

    async def test_beginnings_at_once_are_all_counted(self, store: SessionStore, session_id: str) -> None:
        counter = self.counter(store)
        counts = await asyncio.gather(*(counter.begin(session_id, "t") for _ in range(20)))
        assert sorted(counts) == list(range(1, 21))
