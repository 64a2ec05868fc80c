"""The part of SessionStoreSuite that is about records of superdialog's own worker."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sdqueue.agents import ChatMessage, FlowState, ToolCall
from sdqueue.errors import RecordError, VersionConflict
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.stores.store import SessionStore
from sdqueue.testing.records import ForeignContext, ForeignMessage, ForeignRecord, end, make_record, say

UNBUILT = FlowState("start")
"""What a DialogMachine reports before its first turn, whatever it was given to go on from."""


class ForeignCases:
    """What a session store must do with records that have no version; run as a part of ``SessionStoreSuite``."""

    async def test_a_foreign_record_is_saved_on_what_is_there(self, store: SessionStore, session_id: str) -> None:
        """What it knows nothing of stays, but for what an agent had dumped before this conversation went on."""
        record = make_record(
            ["one"], agent_state={"a": 1}, created_at=1.0, metadata={"old": True}, seq=3, parked_by="t0", route="r"
        )
        record.flow_state = FlowState("node")
        end(record, "t1", "r")
        await store.save(session_id, record)
        context = ForeignContext([ForeignMessage("user", "one"), ForeignMessage("assistant", "two")])
        for version in (2, 3):
            context.items.append(ForeignMessage("user", f"more {version}"))
            foreign: Any = ForeignRecord(context, FlowState("other"), metadata={"new": True})
            await store.save(session_id, foreign)
            loaded = await _load(store, session_id)
            assert _said(loaded) == [m.content for m in context.items]
            assert all(type(m) is ChatMessage for m in loaded.chat_ctx.items)
            assert (loaded.version, loaded.created_at, loaded.last_turn_at) == (version, 1.0, 6.0)
            assert (loaded.metadata, loaded.flow_state) == ({"new": True}, FlowState("other"))
            assert (loaded.turns, loaded.agent_state) == (record.turns, None)
            assert (loaded.seq, loaded.parked_by, loaded.route) == (3, "t0", "r")

    async def test_a_foreign_record_may_be_the_first(self, store: SessionStore, session_id: str) -> None:
        foreign: Any = ForeignRecord(ForeignContext([ForeignMessage("user", "one")]))
        await store.save(session_id, foreign)
        loaded = await _load(store, session_id)
        assert (loaded.version, loaded.created_at) == (1, 5.0)
        assert loaded.chat_ctx.items == [ChatMessage("user", "one")]

    async def test_a_foreign_record_that_changes_nothing_is_not_written(
        self, store: SessionStore, session_id: str
    ) -> None:
        """superdialog's worker saves a session also where it was only looked at, and again when it is evicted."""
        record = make_record(["one"], agent_state={"a": 1}, metadata={"a": [1]}, last_turn_at=6.0)
        record.flow_state = FlowState("node")
        await store.save(session_id, record)
        foreign: Any = ForeignRecord(
            ForeignContext([ForeignMessage("user", "one")]), FlowState("node"), metadata={"a": [1]}
        )
        await store.save(session_id, replace(foreign, last_turn_at=9.0))
        loaded = await _load(store, session_id)
        assert (loaded.version, loaded.last_turn_at) == (1, 6.0)
        await store.save(session_id, replace(foreign, metadata={"a": [2]}))
        loaded = await _load(store, session_id)
        assert (loaded.version, loaded.metadata, loaded.agent_state) == (2, {"a": [2]}, {"a": 1})
        await store.save(session_id, replace(foreign, flow_state=FlowState("next")))
        loaded = await _load(store, session_id)
        assert (loaded.version, loaded.flow_state, loaded.agent_state) == (3, FlowState("next"), None)

    async def test_tool_calls_stay_under_messages_that_cannot_carry_them(
        self, store: SessionStore, session_id: str
    ) -> None:
        record = make_record(["one"])
        record.chat_ctx.append(ChatMessage("assistant", "", (ToolCall("c1", "look", {"at": "it"}),)))
        record.chat_ctx.append(ChatMessage("tool", "found", tool_call_id="c1"))
        await store.save(session_id, record)
        items = [ForeignMessage(m.role, m.content) for m in record.chat_ctx.items]
        foreign: Any = ForeignRecord(ForeignContext([*items, ForeignMessage("user", "two")]))
        await store.save(session_id, foreign)
        loaded = await _load(store, session_id)
        assert loaded.chat_ctx.items == [*record.chat_ctx.items, ChatMessage("user", "two")]

    # Who has saved meanwhile

    async def test_a_foreign_record_is_refused_where_somebody_else_has_saved(
        self, store: SessionStore, session_id: str
    ) -> None:
        """Made from what the store handed out last, it would undo what was saved since; and so it stays."""
        record = make_record(["one"])
        await store.save(session_id, record)
        await store.load(session_id)
        say(record, "two")
        await store.save(session_id, record)
        foreign: Any = ForeignRecord(ForeignContext([ForeignMessage("user", t) for t in ("one", "lost")]))
        for _ in range(2):
            with pytest.raises(VersionConflict, match="version 2") as caught:
                await store.save(session_id, foreign)
            assert "close_session" in caught.value.__notes__[0]
        assert _said(await _load(store, session_id)) == ["one", "two"]
        foreign.chat_ctx.items[1:] = [ForeignMessage("assistant", "two"), ForeignMessage("user", "three")]
        await store.save(session_id, foreign)
        assert _said(await _load(store, session_id)) == ["one", "two", "three"]

    async def test_of_two_openings_the_stale_one_is_refused(self, store: SessionStore, session_id: str) -> None:
        """Each has its own turns in memory, as superdialog's workers in two processes have."""
        other = await self.reopen(store)
        if other is store:
            return
        here: Any = ForeignRecord(ForeignContext([ForeignMessage("user", "one")]))
        await store.save(session_id, here)
        there: Any = ForeignRecord(ForeignContext(list((await _load(other, session_id)).chat_ctx.items)))  # type: ignore[arg-type]
        for text in ("two", "three"):
            there.chat_ctx.items.append(ForeignMessage("user", text))
            await other.save(session_id, there)
        here.chat_ctx.items.append(ForeignMessage("user", "lost"))
        with pytest.raises(VersionConflict):
            await store.save(session_id, here)
        assert _said(await _load(other, session_id)) == ["one", "two", "three"]

    async def test_a_foreign_record_does_not_bring_back_a_deleted_session(
        self, store: SessionStore, session_id: str
    ) -> None:
        foreign: Any = ForeignRecord(ForeignContext([ForeignMessage("user", "one")]))
        await store.save(session_id, foreign)
        await store.delete(session_id)
        with pytest.raises(VersionConflict, match="no record"):
            await store.save(session_id, foreign)
        assert await store.load(session_id) is None
        await store.save(session_id, foreign)
        assert _said(await _load(store, session_id)) == ["one"]

    async def test_a_session_begun_twice_is_refused_once(self, store: SessionStore, session_id: str) -> None:
        """Nobody had it when this process looked; somebody has begun it since."""
        assert await store.load(session_id) is None
        await store.save(session_id, make_record(["one"]))
        foreign: Any = ForeignRecord(ForeignContext([ForeignMessage("user", "lost")]))
        with pytest.raises(VersionConflict):
            await store.save(session_id, foreign)
        assert _said(await _load(store, session_id)) == ["one"]

    # Machines that build their state at their first turn

    async def test_a_machine_that_was_not_asked_anything_loses_nothing(
        self, store: SessionStore, session_id: str
    ) -> None:
        """Looked at, evicted before its turn, or failing in it: until then it reports an empty state."""
        record = await self._resumed(store, session_id)
        for _ in range(2):
            unbuilt: Any = ForeignRecord(flow_state=UNBUILT, metadata=record.metadata)
            await store.save(session_id, unbuilt)
        assert await _load(store, session_id) == record

    async def test_a_note_for_a_machine_that_was_not_asked_anything_is_added_once(
        self, store: SessionStore, session_id: str
    ) -> None:
        record = await self._resumed(store, session_id)
        notes = ForeignContext()
        for text in ("first", "second"):
            notes.items.append(ForeignMessage("system", text))
            unbuilt: Any = ForeignRecord(notes, UNBUILT, metadata=record.metadata)
            for _ in range(2):
                await store.save(session_id, unbuilt)
        loaded = await _load(store, session_id)
        assert _said(loaded) == ["one", "two", "first", "second"]
        assert (loaded.version, loaded.flow_state) == (3, record.flow_state)

    async def test_a_machine_that_was_reset_after_a_turn_is_saved_as_it_is(
        self, store: SessionStore, session_id: str
    ) -> None:
        await self._resumed(store, session_id)
        built: Any = ForeignRecord(
            ForeignContext([ForeignMessage("user", text) for text in ("one", "two", "three")]),
            FlowState("end", visit_count={"end": 1}),
        )
        await store.save(session_id, built)
        await store.save(session_id, ForeignRecord(flow_state=UNBUILT))  # type: ignore[arg-type]
        loaded = await _load(store, session_id)
        assert (_said(loaded), loaded.flow_state) == ([], UNBUILT)

    async def test_a_conversation_that_was_cleared_is_saved_as_it_is(
        self, store: SessionStore, session_id: str
    ) -> None:
        """An agent without a position has no state to build: an empty conversation is meant."""
        await self._resumed(store, session_id)
        await store.save(session_id, ForeignRecord())  # type: ignore[arg-type]
        assert _said(await _load(store, session_id)) == []

    async def test_what_is_no_record_is_refused(self, store: SessionStore, session_id: str) -> None:
        nothing: Any = {"chat_ctx": []}
        with pytest.raises(RecordError, match="dict"):
            await store.save(session_id, nothing)
        assert await store.load(session_id) is None

    async def reopen(self, store: SessionStore) -> SessionStore:
        """See ``SessionStoreSuite``."""
        return store

    async def _resumed(self, store: SessionStore, session_id: str) -> SessionRecord:
        """A session of a machine, as a process has it that has just loaded it."""
        record = make_record(["one", "two"])
        record.flow_state = FlowState("middle", {"name": "Ada"}, visit_count={"middle": 1})
        await store.save(session_id, record)
        return await _load(store, session_id)


async def _load(store: SessionStore, session_id: str) -> SessionRecord:
    record = await store.load(session_id)
    assert record is not None
    return record


def _said(record: SessionRecord) -> list[str]:
    return [message.content for message in record.chat_ctx.items]
