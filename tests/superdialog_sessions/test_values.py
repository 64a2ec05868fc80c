"""Sessions, records and handles by themselves, on superdialog's classes and on ours."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.superdialog_sessions.conftest import Layer


class Recording:
    """The least of an agent: notes what it is told, and answers with a dict."""

    def __init__(self, layer: Layer) -> None:
        self.chat = layer.ChatContext()
        self.notes: list[str] = []

    @property
    def chat_ctx(self) -> Any:
        return self.chat

    def load_chat_ctx(self, ctx: Any) -> None:
        self.chat = ctx

    def assist(self, text: str) -> None:
        self.notes.append(text)

    async def turn(self, text: str, *, stream: bool = False) -> dict[str, Any]:
        return {"text": text.upper(), "stream": stream}


def test_a_session_takes_notes_as_system_messages(layer: Layer) -> None:
    session = layer.Session(id="s")
    session.assist("be kind")
    assert session.chat_ctx.items == [layer.ChatMessage("system", "be kind")]


def test_an_empty_note_is_none(layer: Layer) -> None:
    session = layer.Session(id="s")
    session.assist("")
    assert session.chat_ctx.items == []


def test_a_new_session_is_empty(layer: Layer) -> None:
    session = layer.Session("s")
    assert (session.id, session.chat_ctx.items, session.flow_state, session.metadata) == ("s", [], None, {})


def test_the_state_of_a_handle_is_that_of_its_session(layer: Layer) -> None:
    session = layer.Session(id="s")
    session.chat_ctx.append(layer.ChatMessage("user", "hello"))
    handle = layer.SessionHandle(session, Recording(layer))
    assert handle.state == {"id": "s", "chat_ctx": session.chat_ctx, "flow_state": None}
    assert handle.state["chat_ctx"] is session.chat_ctx
    assert handle.session is session


def test_a_note_reaches_session_and_agent(layer: Layer) -> None:
    session, agent = layer.Session(id="s"), Recording(layer)
    layer.SessionHandle(session, agent).assist("be kind")
    assert session.chat_ctx.items == [layer.ChatMessage("system", "be kind")]
    assert agent.notes == ["be kind"]


async def test_a_handle_returns_what_its_agent_returns(layer: Layer) -> None:
    """Whatever that is: superdialog's protocol is not checked."""
    handle = layer.SessionHandle(layer.Session(id="s"), Recording(layer))
    assert await handle.turn("hello") == {"text": "HELLO", "stream": False}


def test_a_new_record_is_of_version_one(layer: Layer) -> None:
    record = layer.SessionRecord()
    assert (record.version, record.flow_state, record.metadata, record.chat_ctx.items) == (1, None, {}, [])


def test_what_a_session_is_created_with(init: Any) -> None:
    told = init("s")
    assert (told.session_id, told.metadata) == ("s", {})
    assert init("s", {"a": 1}).metadata == {"a": 1}


def test_a_conversation_comes_back_from_dicts(layer: Layer) -> None:
    context = layer.ChatContext([layer.ChatMessage(role, "text") for role in ("system", "user", "assistant", "tool")])
    fields = dataclasses.asdict(context)
    assert layer.ChatContext([layer.ChatMessage(**message) for message in fields["items"]]) == context


def test_a_copied_conversation_goes_its_own_way(layer: Layer) -> None:
    one = layer.ChatContext()
    one.append(layer.ChatMessage(role="user", content="hello"))
    two = one.copy()
    two.append(layer.ChatMessage("assistant", "hello"))
    assert (len(one.items), len(two.items)) == (1, 2)


# Stores


@pytest.mark.parametrize("session_id", ["s", "never saved"])
async def test_a_store_in_memory_gives_back_what_it_took(layer: Layer, session_id: str) -> None:
    store = layer.InMemorySessionStore()
    record = layer.SessionRecord(
        chat_ctx=layer.ChatContext(items=[layer.ChatMessage("user", "hello")]), metadata={"name": "Ada"}
    )
    await store.save("s", record)
    assert await store.load(session_id) == (record if session_id == "s" else None)
    await store.delete(session_id)
    assert await store.load(session_id) is None


async def test_a_null_store_keeps_nothing(layer: Layer) -> None:
    store = layer.NullSessionStore()
    await store.save("s", layer.SessionRecord())
    assert await store.load("s") is None
    await store.delete("s")
