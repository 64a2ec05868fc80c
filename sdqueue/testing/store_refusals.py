"""The part of SessionStoreSuite that is about what is no record: refused or damaged."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import json
from typing import Any

import pytest

from sdqueue.agents import ChatMessage, FlowState
from sdqueue.errors import RecordError, RecordTooNew
from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.stores.store import SessionStore
from sdqueue.testing.records import UNJSON, make_record


class RefusalCases:
    """What a session store must do with what is no record; run as a part of ``SessionStoreSuite``."""

    async def plant(self, store: SessionStore, session_id: str, head: str) -> bool:
        """See ``SessionStoreSuite``."""
        return False

    # What cannot be saved or read

    @pytest.mark.parametrize("place", ["metadata", "agent_state", "flow_state", "message", "reply"])
    @pytest.mark.parametrize("value", UNJSON, ids=lambda value: type(value).__name__)
    async def test_what_json_cannot_hold_is_refused(
        self, store: SessionStore, session_id: str, place: str, value: Any
    ) -> None:
        """Given a saved session, when a save is refused, then the store and the record are as they were."""
        record = make_record(["one"])
        await store.save(session_id, record)
        saved = await store.load(session_id)
        if place == "metadata":
            record.metadata = {"deep": [{"x": value}]}
        elif place == "agent_state":
            record.agent_state = value
        elif place == "flow_state":
            record.flow_state = FlowState(userdata={"x": value})
        elif place == "message":
            record.chat_ctx.append(ChatMessage("user", value))
        else:
            record.turns.add(TurnOutcome("t", 1.0, (value,)), Retention())
        with pytest.raises(RecordError, match=session_id):
            await store.save(session_id, record)
        assert saved is not None
        assert (record.version, record.stored) == (1, saved.stored)
        assert await store.load(session_id) == saved

    async def test_a_record_of_a_newer_release_is_refused(self, store: SessionStore, session_id: str) -> None:
        await store.save(session_id, make_record(["one"]))
        if await self.plant(store, session_id, json.dumps({"schema": 999, "what": "is new"})):
            with pytest.raises(RecordTooNew, match="999"):
                await store.load(session_id)
            with pytest.raises(RecordTooNew, match=session_id):
                await store.load(session_id)

    @pytest.mark.parametrize("head", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": "1"}', "\x00\xff"])
    async def test_damage_is_named(self, store: SessionStore, session_id: str, head: str) -> None:
        await store.save(session_id, make_record(["one"]))
        if await self.plant(store, session_id, head):
            with pytest.raises(RecordError, match=session_id):
                await store.load(session_id)
            await store.delete(session_id)
            assert await store.load(session_id) is None
