"""SessionStoreSuite: what every session store must do, as a pytest class to derive from."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from sdqueue.agents import ChatContext, ChatMessage, FlowState, ToolCall
from sdqueue.errors import VersionConflict
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.stores.offers import offers
from sdqueue.sessions.stores.store import RevisionCheck, SessionStore
from sdqueue.testing.records import HOSTILE_IDS, end, make_record, say
from sdqueue.testing.store_foreign import ForeignCases
from sdqueue.testing.store_refusals import RefusalCases
from sdqueue.testing.store_turns import TurnCases


class SessionStoreSuite(TurnCases, RefusalCases, ForeignCases):
    """Every session store passes these. Derive from it, and give it your store by a fixture::

        class TestMyStore(SessionStoreSuite):
            @pytest.fixture
            async def store(self, tmp_path):
                store = MyStore(tmp_path)
                yield store
                await store.aclose()

    The tests are coroutines, for pytest-asyncio in auto mode. Their session ids are
    their own, but for ``HOSTILE_IDS``: give a shared store a namespace for each test. Overriding
    :meth:`reopen` and :meth:`plant` tests more; a store that
    counts no beginnings sets ``counts_beginnings = False``.
    """

    async def reopen(self, store: SessionStore) -> SessionStore:
        """Another store object on the same data, as another process has it; whoever makes it closes it.

        Default: the store itself, where data lives in the object.
        """
        return store

    async def plant(self, store: SessionStore, session_id: str, head: str) -> bool:
        """Replace the head (the JSON object with ``schema``) of a saved session.

        Returns whether that was done.

        Default: not done, and what damaged data does is not tested.
        """
        return False

    @pytest.fixture
    def session_id(self) -> str:
        """A session that nobody else has."""
        return f"suite-{uuid4().hex}"

    # What comes back

    async def test_there_is_nothing_before_the_first_save(self, store: SessionStore, session_id: str) -> None:
        assert await store.load(session_id) is None

    async def test_everything_comes_back(self, store: SessionStore, session_id: str) -> None:
        record = SessionRecord(
            chat_ctx=ChatContext(
                [
                    ChatMessage("system", "be kind"),
                    ChatMessage("user", ""),
                    ChatMessage("assistant", "", (ToolCall("c1", "weather", {"place": ["Oslo", 1]}),)),
                    ChatMessage("tool", "rain", tool_call_id="c1"),
                    ChatMessage("assistant", "ünï 🦊 \u2028 \x00 \\ \" '"),
                    ChatMessage("tool", "\ud800 alone"),
                ]
            ),
            flow_state=FlowState(
                "node", {"k": [1, 2.5, None]}, {"n": {"s": True}}, {"n": False}, {"n": 3}, [{"edge_id": "e"}]
            ),
            created_at=1.25,
            last_turn_at=2.5,
            metadata={"a": {"b": ["c", None, 1e300]}, "ключ": "\ud83d"},
            agent_state={"facts": {"name": "Ada"}},
            seq=7,
            parked_by="turn-\ud800",
            route="metadata.plan:\ud800",
        )
        end(record, "turn-1", '{"text":"один"}', "")
        await store.save(session_id, record)
        loaded = await store.load(session_id)
        assert loaded == record
        assert loaded is not None
        assert loaded.stored == record.stored == Stored(1, 6, record.stored.born)

    async def test_an_empty_record_comes_back(self, store: SessionStore, session_id: str) -> None:
        record = SessionRecord()
        await store.save(session_id, record)
        assert await store.load(session_id) == record

    async def test_a_long_history_comes_back_in_order(self, store: SessionStore, session_id: str) -> None:
        record = make_record([f"message {n}" for n in range(5_000)])
        await store.save(session_id, record)
        say(record, "the last")
        await store.save(session_id, record)
        assert await store.load(session_id) == record

    async def test_every_value_of_agent_state_comes_back(self, store: SessionStore, session_id: str) -> None:
        record = SessionRecord()
        states: list[Any] = [{}, [], "", 0, False, ["x"], None]
        for state in states:
            record.agent_state = state
            await store.save(session_id, record)
            loaded = await store.load(session_id)
            assert loaded is not None
            assert loaded.agent_state == state
            assert type(loaded.agent_state) is type(state)

    async def test_loaded_records_are_independent(self, store: SessionStore, session_id: str) -> None:
        """What is done to a record after a save or a load changes neither the store nor other loads."""
        record = make_record(["one"], metadata={"list": [1]}, flow_state=FlowState(userdata={"k": [1]}))
        record.agent_state = {"list": [1]}
        end(record, "t1", "r")
        await store.save(session_id, record)
        before = await store.load(session_id)
        for mine in (record, await store.load(session_id)):
            assert mine is not None
            assert mine.flow_state is not None
            say(mine, "unsaved")
            mine.metadata["list"].append(2)
            mine.agent_state["list"].append(2)
            mine.flow_state.userdata["k"].append(2)
            end(mine, "t2", "r")
            mine.seq = 99
        assert await store.load(session_id) == before

    async def test_sessions_do_not_mix(self, store: SessionStore) -> None:
        """Ids that look alike, or like paths, keys or patterns, are all different sessions."""
        mark = uuid4().hex[:8]
        marked = [f"{mark}{name}"[:256] for name in HOSTILE_IDS]
        marked += [f"{name}{mark}"[-256:] for name in HOSTILE_IDS]
        names = list(dict.fromkeys(marked))
        for name in names:
            await store.save(name, make_record([name]))
        for name in names:
            loaded = await store.load(name)
            assert loaded is not None
            assert loaded.chat_ctx.items == [ChatMessage("user", name)]
        for name in names[::2]:
            await store.delete(name)
        left = [await store.load(name) for name in names]
        assert [record is None for record in left] == [n % 2 == 0 for n in range(len(names))]

    @pytest.mark.parametrize("name", HOSTILE_IDS, ids=lambda name: ascii(name)[1:25])
    async def test_hostile_ids_are_just_ids(self, store: SessionStore, name: str) -> None:
        await store.delete(name)
        assert await store.load(name) is None
        await store.save(name, make_record([name]))
        loaded = await store.load(name)
        assert loaded is not None
        assert loaded.chat_ctx.items[0].content == name
        await store.delete(name)
        assert await store.load(name) is None

    # Versions

    async def test_versions_count_saves(self, store: SessionStore, session_id: str) -> None:
        record = make_record(["one"], created_at=42.0)
        for version in (1, 2, 3):
            say(record, f"answer {version}")
            await store.save(session_id, record)
            loaded = await store.load(session_id)
            assert record.version == version
            assert (record.stored.version, record.stored.items) == (version, 1 + version)
            assert loaded == record
            assert loaded is not None
            assert loaded.created_at == 42.0

    async def test_a_stale_writer_changes_nothing(self, store: SessionStore, session_id: str) -> None:
        """A loads, B loads, B saves, A saves: A is told so, and what B saved stays."""
        await store.save(session_id, make_record(["one"]))
        stale, fresh = await store.load(session_id), await store.load(session_id)
        assert stale is not None
        assert fresh is not None
        say(fresh, "fresh")
        end(fresh, "t1", "fresh")
        await store.save(session_id, fresh)
        say(stale, "stale")
        end(stale, "t1", "stale")
        stale.metadata["stale"] = True
        as_it_was = replace(stale, turns=stale.turns.copy())
        with pytest.raises(VersionConflict) as conflict:
            await store.save(session_id, stale)
        error = conflict.value
        assert (error.session_id, error.expected, error.found) == (session_id, 1, 2)
        assert await store.load(session_id) == fresh
        assert stale == as_it_was
        assert stale.stored == as_it_was.stored
        assert stale.turns.fresh == as_it_was.turns.fresh

    async def test_of_two_creators_one_wins(self, store: SessionStore, session_id: str) -> None:
        records = [make_record([str(n)]) for n in range(8)]
        results = await asyncio.gather(*(store.save(session_id, r) for r in records), return_exceptions=True)
        winners = [record for record, result in zip(records, results, strict=True) if result is None]
        assert len(winners) == 1
        assert sum(isinstance(result, VersionConflict) for result in results) == 7
        assert await store.load(session_id) == winners[0]

    async def test_of_many_writers_one_wins_each_version(self, store: SessionStore, session_id: str) -> None:
        """Eight tasks add five messages each, loading again after a conflict: none is lost, none doubled."""
        other = await self.reopen(store)

        async def write(writer: int) -> None:
            mine = (store, other)[writer % 2]
            attempts = 0
            for n in range(5):
                while True:
                    record = await mine.load(session_id) or SessionRecord()
                    say(record, f"{writer}.{n}")
                    end(record, f"{writer}.{n}", "r")
                    try:
                        await mine.save(session_id, record)
                    except VersionConflict:
                        attempts += 1
                        assert attempts < 1000, "every save conflicts: is the version stored, and given back by load?"
                        await asyncio.sleep(0)
                    else:
                        break

        await asyncio.gather(*(write(writer) for writer in range(8)))
        loaded = await store.load(session_id)
        assert loaded is not None
        assert loaded.version == 40
        texts = [message.content for message in loaded.chat_ctx.items]
        assert sorted(texts) == [f"{writer}.{n}" for writer in range(8) for n in range(5)]
        assert list(loaded.turns.outcomes) == texts

    async def test_many_sessions_are_saved_at_once(self, store: SessionStore, session_id: str) -> None:
        """One writer's conflict among many others' saves is its own."""
        await store.save(f"{session_id}-25", SessionRecord())
        records = [make_record([f"hello {n}"]) for n in range(50)]
        results = await asyncio.gather(
            *(store.save(f"{session_id}-{n}", r) for n, r in enumerate(records)), return_exceptions=True
        )
        assert [n for n, result in enumerate(results) if result is not None] == [25]
        loaded = await asyncio.gather(*(store.load(f"{session_id}-{n}") for n in range(50)))
        assert [a == b for a, b in zip(loaded, records, strict=True)] == [n != 25 for n in range(50)]

    async def test_a_deleted_session_is_new(self, store: SessionStore, session_id: str) -> None:
        record = make_record(["one", "two"])
        end(record, "t1", "r")
        await store.save(session_id, record)
        await store.delete(session_id)
        assert await store.load(session_id) is None
        say(record, "three")
        with pytest.raises(VersionConflict) as conflict:
            await store.save(session_id, record)
        assert (conflict.value.expected, conflict.value.found) == (1, None)
        assert await store.load(session_id) is None
        new = make_record(["other"])
        await store.save(session_id, new)
        assert new.version == 1
        assert await store.load(session_id) == new

    @pytest.mark.parametrize("restored", [False, True])
    async def test_a_writer_of_a_deleted_session_changes_nothing_in_the_next(
        self, store: SessionStore, session_id: str, restored: bool
    ) -> None:
        """A loads, the session is deleted, B creates it anew and comes to A's version, A saves: A is told so.

        B's may even be a copy of what was deleted, so nothing that an application can set tells the two apart.
        """
        other = await self.reopen(store)
        first = make_record(["first"], created_at=1.0)
        for _ in range(2):
            end(first, "t1", "first")
            await store.save(session_id, first)
        stale = await store.load(session_id)
        assert stale is not None
        await other.delete(session_id)
        second = replace(first, stored=Stored()) if restored else make_record(["second"], created_at=1.0)
        await other.save(session_id, second)
        say(second, "by B")
        await other.save(session_id, second)
        say(stale, "by A")
        end(stale, "t2", "stale")
        as_it_was = replace(stale, turns=stale.turns.copy())
        with pytest.raises(VersionConflict, match="deleted and created anew") as conflict:
            await store.save(session_id, stale)
        assert (conflict.value.expected, conflict.value.found) == (2, 2)
        assert (stale, stale.stored, stale.turns.fresh) == (as_it_was, as_it_was.stored, as_it_was.turns.fresh)
        loaded = await store.load(session_id)
        assert loaded == second
        assert loaded is not None
        say(loaded, "and on")
        await store.save(session_id, loaded)
        assert await other.load(session_id) == loaded

    async def test_a_state_is_current_until_the_next(self, store: SessionStore, session_id: str) -> None:
        """Until the next save or delete, of whichever life; asked of other openings too, and what has none is never."""
        other = await self.reopen(store)
        record = make_record(["one"], created_at=1.0)
        await _expect_current(store, session_id, Stored(), current=False)
        await store.save(session_id, record)
        first = record.stored
        for opening in (store, other):
            await _expect_current(opening, session_id, first, current=True)
            await _expect_current(opening, session_id, replace(first, items=0), current=True)
            await _expect_current(opening, session_id, Stored(), current=False)
            await _expect_current(opening, f"{session_id}-other", first, current=False)
        await other.delete(session_id)
        await _expect_current(store, session_id, first, current=False)
        anew = make_record(["one"], created_at=1.0)
        await other.save(session_id, anew)
        assert anew.stored.version == first.version
        await _expect_current(store, session_id, first, current=False)
        await _expect_current(store, session_id, anew.stored, current=True)
        before = anew.stored
        await store.save(session_id, anew)
        await _expect_current(other, session_id, before, current=False)
        await _expect_current(other, session_id, anew.stored, current=True)

    async def test_a_record_can_be_stored_anew(self, store: SessionStore, session_id: str) -> None:
        """Moving a session: a record that belonged elsewhere, with ``stored`` taken off, is written whole."""
        record = make_record(["one", "two"])
        end(record, "t1", "r")
        await store.save(f"{session_id}-old", record)
        moved = replace(record, stored=Stored())
        await store.save(session_id, moved)
        assert moved.version == 1
        assert await store.load(session_id) == moved

    async def test_deleting_twice_does_nothing(self, store: SessionStore, session_id: str) -> None:
        await store.delete(session_id)
        await store.save(session_id, SessionRecord())
        await store.delete(session_id)
        await store.delete(session_id)
        assert await store.load(session_id) is None

    # The conversation

    async def test_a_loaded_conversation_goes_on(self, store: SessionStore, session_id: str) -> None:
        await store.save(session_id, make_record(["one"]))
        for n in range(3):
            record = await store.load(session_id)
            assert record is not None
            say(record, f"answer {n}", f"more {n}")
            await store.save(session_id, record)
            assert await store.load(session_id) == record

    async def test_a_save_without_news_keeps_all(self, store: SessionStore, session_id: str) -> None:
        record = make_record(["one", "two"])
        end(record, "t1", "r")
        await store.save(session_id, record)
        await store.save(session_id, record)
        assert await store.load(session_id) == record

    @pytest.mark.parametrize("kept", [0, 1, 2])
    async def test_a_rewritten_conversation_replaces_the_old(
        self, store: SessionStore, session_id: str, kept: int
    ) -> None:
        """An agent sums up or edits its history: ``stored.items`` says how much of the start still holds."""
        record = make_record(["one", "two", "three", "four"])
        await store.save(session_id, record)
        record.chat_ctx.items[kept:] = [ChatMessage("system", "summary"), ChatMessage("user", "new")]
        record.stored = replace(record.stored, items=kept)
        await store.save(session_id, record)
        assert (record.stored.version, record.stored.items) == (2, kept + 2)
        assert await store.load(session_id) == record

    @pytest.mark.parametrize("left", [0, 1, 3])
    @pytest.mark.parametrize("claims", ["nothing", "all"])
    async def test_a_shortened_conversation_is_short(
        self, store: SessionStore, session_id: str, left: int, claims: str
    ) -> None:
        """Also where the record still claims that the store has more messages than it holds itself."""
        record = make_record(["one", "two", "three", "four"])
        await store.save(session_id, record)
        del record.chat_ctx.items[left:]
        if claims == "nothing":
            record.stored = replace(record.stored, items=0)
        await store.save(session_id, record)
        assert await store.load(session_id) == record
        say(record, "and on")
        await store.save(session_id, record)
        assert await store.load(session_id) == record

    async def test_an_untrue_claim_costs_a_rewrite(self, store: SessionStore, session_id: str) -> None:
        """A record that says more of it is stored than is: nothing of it may be missing afterwards."""
        record = make_record(["one"])
        await store.save(session_id, record)
        say(record, "two", "three")
        record.stored = replace(record.stored, items=3)
        await store.save(session_id, record)
        assert await store.load(session_id) == record

    async def test_state_can_be_cleared(self, store: SessionStore, session_id: str) -> None:
        record = make_record(["one"], flow_state=FlowState("node"), agent_state={"a": 1}, metadata={"m": 1})
        await store.save(session_id, record)
        record.flow_state = record.agent_state = None
        record.metadata = {}
        await store.save(session_id, record)
        loaded = await store.load(session_id)
        assert loaded is not None
        assert (loaded.flow_state, loaded.agent_state, loaded.metadata) == (None, None, {})

    # Several openings

    async def test_another_opening_sees_the_same_sessions(self, store: SessionStore, session_id: str) -> None:
        other = await self.reopen(store)
        counter, other_counter = self.counter(store), self.counter(other)
        record = make_record(["one"])
        end(record, "t1", "r")
        await store.save(session_id, record)
        loaded = await other.load(session_id)
        assert loaded == record
        assert loaded is not None
        say(loaded, "two")
        await other.save(session_id, loaded)
        assert await store.load(session_id) == loaded
        with pytest.raises(VersionConflict):
            await store.save(session_id, record)
        assert [await c.begin(session_id, "t") for c in (counter, other_counter, counter)] == [1, 2, 3]
        await other.delete(session_id)
        assert await store.load(session_id) is None

    # Cancellation

    async def test_a_cancelled_save_happens_wholly_or_not(self, store: SessionStore, session_id: str) -> None:
        """A save is cancelled after 0, 1, 2 … steps of the event loop, and is then there wholly or not at all.

        Each save brings two messages and one outcome, so any part of one would show.
        """
        await store.save(session_id, SessionRecord())
        for steps in range(12):
            record = await store.load(session_id)
            assert record is not None
            say(record, f"{steps}.a", f"{steps}.b")
            end(record, f"t{steps}", "r")
            save = asyncio.create_task(store.save(session_id, record))
            for _ in range(steps):
                await asyncio.sleep(0)
            save.cancel()
            await asyncio.gather(save, return_exceptions=True)
            after = await store.load(session_id)
            assert after is not None
            expected = [f"{turn_id[1:]}.{half}" for turn_id in after.turns.outcomes for half in "ab"]
            assert [message.content for message in after.chat_ctx.items] == expected
            assert after.version == 1 + len(after.turns.outcomes)

    # Manners

    async def test_an_empty_store_is_a_store(self, store: SessionStore) -> None:
        """``store or default`` must never replace it."""
        assert isinstance(store, SessionStore)
        assert not hasattr(store, "__len__")
        assert not hasattr(store, "__bool__")

    async def test_closing_twice_is_fine(self, store: SessionStore, session_id: str) -> None:
        await store.save(session_id, SessionRecord())
        close = getattr(store, "aclose", None)
        if close is not None:
            await close()
            await close()
        assert callable(store.save)


async def _expect_current(store: SessionStore, session_id: str, known: Stored, *, current: bool) -> None:
    """What is loaded says whether this state is current, and so does the store where it can be asked."""
    loaded = await store.load(session_id)
    assert (loaded is not None and known.is_same(loaded.stored)) is current
    if offers(store, RevisionCheck):
        assert await store.is_current(session_id, known) is current
