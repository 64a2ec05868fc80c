"""Session and SessionHandle: what a handler may do with a session inside its block."""

from __future__ import annotations

from typing import Any

import pytest

from sdqueue.agents import ChatContext, ChatMessage, FlowState
from sdqueue.errors import RecordError, SessionClosed
from sdqueue.sessions import (
    InMemorySessionStore,
    Retention,
    Session,
    SessionHandle,
    SessionWorker,
    TurnOutcome,
)
from sdqueue.sessions.conversation import added
from tests.sessions.stubs import KINDS, Durable, Lazy, ModelDown, Plain, dialog, said, take


@pytest.fixture
def store() -> InMemorySessionStore:
    return InMemorySessionStore()


# Without a worker


def test_a_note_becomes_a_system_message_and_an_empty_one_nothing() -> None:
    session = Session("s")
    session.assist("be brief")
    session.assist("")
    assert session.chat_ctx.items == [ChatMessage("system", "be brief")]


async def test_a_handle_made_by_hand_passes_turns_and_notes_on() -> None:
    session, agent = Session("s"), Plain()
    handle = SessionHandle(session, agent)
    handle.assist("be brief")
    handle.assist("")
    result = await handle.turn("one")
    note = ChatMessage("system", "be brief")
    assert session.chat_ctx.items == [note]
    assert agent.chat.items == [note, ChatMessage("user", "one"), ChatMessage("assistant", "1: one")]
    assert result.text == "1: one"
    assert (handle.session, handle.agent) == (session, agent)


def test_state_is_the_session_as_a_dict() -> None:
    session = Session("s", flow_state=FlowState("n1"))
    state = SessionHandle(session, Plain()).state
    assert state == {"id": "s", "chat_ctx": session.chat_ctx, "flow_state": session.flow_state}
    assert state["chat_ctx"] is session.chat_ctx


async def test_a_handle_made_by_hand_keeps_its_agent_and_cannot_reset() -> None:
    agent = Plain()
    handle = SessionHandle(Session("s"), agent)
    with pytest.raises(ModelDown):
        await handle.turn("fail")
    assert handle.agent is agent
    with pytest.raises(SessionClosed, match="no SessionWorker"):
        handle.reset()


async def test_keywords_reach_the_agent() -> None:
    class Polyglot(Plain):
        async def turn(self, text: str, *, stream: bool = False, language: str = "en") -> Any:
            return {"text": f"{text} in {language}"}

    assert await SessionHandle(Session("s"), Polyglot()).turn("hi", language="fr") == {"text": "hi in fr"}


@pytest.mark.parametrize("answer", ["text", {"text": "text"}, 42])
async def test_results_are_handed_on_as_they_are(answer: Any) -> None:
    class Odd(Plain):
        async def turn(self, text: str, *, stream: bool = False) -> Any:
            return answer

    assert await SessionHandle(Session("s"), Odd()).turn("hi") is answer


# After the block


async def test_a_handle_is_of_no_use_after_its_block(store: InMemorySessionStore) -> None:
    async with SessionWorker(agent_factory=Plain, store=store).acquire("s") as handle:
        await handle.turn("one")
    with pytest.raises(SessionClosed, match="'s' was released"):
        await handle.turn("two")
    uses: list[Any] = [
        lambda: handle.assist("note"),
        handle.reset,
        lambda: handle.remember(TurnOutcome("t", 1.0), Retention()),
        lambda: handle.adopt(Plain()),
    ]
    for use in uses:
        with pytest.raises(SessionClosed):
            use()
    assert await said(store) == dialog("one")


async def test_a_handle_is_of_no_use_after_a_failed_block(store: InMemorySessionStore) -> None:
    worker, handles = SessionWorker(agent_factory=Plain, store=store), []

    async def fail() -> None:
        async with worker.acquire("s") as handle:
            handles.append(handle)
            raise ModelDown

    with pytest.raises(ModelDown):
        await fail()
    with pytest.raises(SessionClosed):
        await handles[0].turn("late")


# Notes


@pytest.mark.parametrize("agent", KINDS)
async def test_notes_before_between_and_after_turns_stand_where_they_were_given(
    agent: Any, store: InMemorySessionStore
) -> None:
    for restart in range(2):
        worker = SessionWorker(agent_factory=agent, store=store)
        async with worker.acquire(f"s{restart}") as handle:
            handle.assist("a")
            await handle.turn("one")
            handle.assist("b")
            handle.assist("b")
            await handle.turn("two")
            handle.assist("c")
        one, two, three = dialog("one"), dialog("one", "two")[2:], dialog("one", "two", "three")[4:]
        expected = [("system", "a"), *one, ("system", "b"), ("system", "b"), *two, ("system", "c")]
        assert await said(store, f"s{restart}") == expected
        if restart:
            worker = SessionWorker(agent_factory=agent, store=store)
        await take(worker, "three", session_id=f"s{restart}")
        assert await said(store, f"s{restart}") == [*expected, *three]


@pytest.mark.parametrize("agent", KINDS)
async def test_a_note_before_a_turn_that_fails_is_kept_for_the_next_one(
    agent: Any, store: InMemorySessionStore
) -> None:
    worker = SessionWorker(agent_factory=agent, store=store)
    async with worker.acquire("s") as handle:
        handle.assist("be brief")
        with pytest.raises(ModelDown):
            await handle.turn("fail")
        await handle.turn("one")
    assert await said(store) == [("system", "be brief"), *dialog("one")]


async def test_an_agent_that_cannot_take_notes_and_is_not_built_yet_keeps_its_past(
    store: InMemorySessionStore,
) -> None:
    """It is given the whole conversation with the note; what it reports before its first turn is not the truth."""

    class LazyNoAssist(Lazy):
        assist = property()

    assert not hasattr(LazyNoAssist(), "assist")
    await take(SessionWorker(agent_factory=LazyNoAssist, store=store), "one")
    async with SessionWorker(agent_factory=LazyNoAssist, store=store).acquire("s") as handle:
        handle.assist("be brief")
        await handle.turn("two")
    assert await said(store) == [*dialog("one"), ("system", "be brief"), *dialog("one", "two")[2:]]


async def test_an_agent_that_puts_notes_first_has_them_once(store: InMemorySessionStore) -> None:
    class First(Plain):
        def assist(self, text: str) -> None:
            self.chat.items.insert(0, ChatMessage("system", text))

    worker = SessionWorker(agent_factory=First, store=store)
    async with worker.acquire("s") as handle:
        await handle.turn("one")
        handle.assist("be brief")
    assert await said(store) == [("system", "be brief"), *dialog("one")]


# The agent called directly


async def test_a_turn_of_the_agent_itself_is_saved(store: InMemorySessionStore) -> None:
    worker = SessionWorker(agent_factory=Lazy, store=store)
    async with worker.acquire("s") as handle:
        await handle.agent.turn("one")
        handle.assist("be brief")
    assert await said(store) == [*dialog("one"), ("system", "be brief")]
    record = await store.load("s")
    assert record is not None
    assert record.flow_state is not None
    assert record.flow_state.current_node_id == "n1"


async def test_a_turn_of_an_agent_that_remembers_little_is_seen(store: InMemorySessionStore) -> None:
    """Its conversation has as many messages as before."""

    class Short(Plain):
        async def turn(self, text: str, *, stream: bool = False) -> Any:
            result = await super().turn(text)
            del self.chat.items[:-2]
            return result

    worker = SessionWorker(agent_factory=Short, store=store)
    for text in ("one", "two"):
        async with worker.acquire("s") as handle:
            await handle.agent.turn(text)
    assert await said(store) == [("user", "two"), ("assistant", "2: two")]


async def test_what_is_done_to_the_agent_after_its_turn_is_saved(store: InMemorySessionStore) -> None:
    async with SessionWorker(agent_factory=Lazy, store=store).acquire("s") as handle:
        await handle.turn("one")
        handle.agent.flow.userdata["vip"] = True
    record = await store.load("s")
    assert record is not None
    assert record.flow_state is not None
    assert record.flow_state.userdata["vip"] is True


async def test_a_conversation_rewritten_by_the_agent_is_saved_as_it_is(store: InMemorySessionStore) -> None:
    """An agent that sums up its history makes the conversation shorter, and changes its beginning."""

    class Summing(Plain):
        async def turn(self, text: str, *, stream: bool = False) -> Any:
            if text == "sum up":
                self.chat = ChatContext([ChatMessage("system", f"{len(self.chat.items)} messages so far")])
                return "done"
            return await super().turn(text)

    worker = SessionWorker(agent_factory=Summing, store=store)
    await take(worker, "one", "two", "sum up", "three")
    expected = [("system", "4 messages so far"), *dialog("three")]
    assert await said(store) == expected
    await take(SessionWorker(agent_factory=Summing, store=store), "four")
    assert await said(store) == [*expected, *dialog("three", "four")[2:]]


async def test_messages_of_another_library_are_stored_as_ours(store: InMemorySessionStore) -> None:
    class Foreign(Plain):
        @property
        def chat_ctx(self) -> Any:
            message = type("Message", (), {})
            items = []
            for own in self.chat.items:
                item = message()
                item.role, item.content = own.role, own.content
                items.append(item)
            return type("Context", (), {"items": items})()

    worker = SessionWorker(agent_factory=Foreign, store=store)
    await take(worker, "one", "two")
    assert await said(store) == dialog("one", "two")


async def test_something_that_is_no_message_is_named(store: InMemorySessionStore) -> None:
    class Dicts(Plain):
        async def turn(self, text: str, *, stream: bool = False) -> Any:
            self.chat.items = [ChatMessage("user", text), {"role": "assistant"}, ChatMessage("user", "x")]  # type: ignore[list-item]
            return "done"

    with pytest.raises(RecordError, match="a dict in the agent's chat_ctx is no message"):
        await take(SessionWorker(agent_factory=Dicts, store=store), "one")


async def test_an_agent_that_starts_with_a_prompt_keeps_it(store: InMemorySessionStore) -> None:
    class Prompted(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.chat.append(ChatMessage("system", "you are kind"))

    worker = SessionWorker(agent_factory=Prompted, store=store, max_sessions=0)
    async with worker.acquire("s") as handle:
        handle.assist("be brief")
        with pytest.raises(ModelDown):
            await handle.turn("fail")
    await take(worker, "one")
    assert await said(store) == [("system", "you are kind"), ("system", "be brief"), *dialog("one")]


# Reset


@pytest.mark.parametrize("agent", KINDS)
async def test_reset_after_a_turn_begins_anew_and_keeps_metadata_and_outcomes(
    agent: Any, store: InMemorySessionStore
) -> None:
    worker = SessionWorker(agent_factory=agent, store=store)
    async with worker.acquire("s") as handle:
        handle.session.metadata["name"] = "Ada"
        handle.remember(TurnOutcome("t", 1.0, ("reply",)), Retention())
        await handle.turn("one")
    async with worker.acquire("s") as handle:
        await handle.turn("two")
        handle.reset()
        handle.assist("be brief")
        await handle.turn("again")
    assert await said(store) == [("system", "be brief"), *dialog("again")]
    record = await store.load("s")
    assert record is not None
    assert record.metadata == {"name": "Ada"}
    assert record.turns.get("t") == TurnOutcome("t", 1.0, ("reply",))
    if agent is Durable:
        assert record.agent_state == {"texts": ["again"]}
    if agent is Lazy:
        assert record.flow_state is not None
        assert record.flow_state.userdata == {"texts": ["again"]}


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("agent", KINDS)
async def test_reset_while_a_stream_is_open_forgets_that_too(
    agent: Any, read: bool, store: InMemorySessionStore
) -> None:
    worker = SessionWorker(agent_factory=agent, store=store)
    async with worker.acquire("s") as handle:
        stream = await handle.turn("one", stream=True)
        if read:
            await anext(stream)
        handle.reset()
    assert await said(store) == []
    await take(worker, "again")
    assert await said(store) == dialog("again")


# Going on with an agent that answered elsewhere


async def test_an_adopted_agents_state_is_saved(store: InMemorySessionStore) -> None:
    worker = SessionWorker(agent_factory=Durable, store=store)
    elsewhere = Durable()
    await elsewhere.turn("one")
    async with worker.acquire("s") as handle:
        handle.adopt(elsewhere)
    assert await said(store) == dialog("one")
    record = await store.load("s")
    assert record is not None
    assert record.agent_state == {"texts": ["one"]}


async def test_who_withdraws_creates_no_session_and_takes_a_beginning_back(store: InMemorySessionStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    async with worker.acquire("s", turn_id="t") as handle:
        assert handle.begun == 1
        handle.withdraw()
    assert await store.load("s") is None
    async with worker.acquire("s", turn_id="t") as handle:
        assert handle.begun == 1
        await handle.turn("one")
    assert await said(store) == dialog("one")
    async with worker.acquire("s") as handle:
        agent = handle.agent
        handle.withdraw()
    async with worker.acquire("s") as handle:
        assert handle.agent is agent, "an agent that is in its session's state was thrown away"


def test_messages_added_are_found_also_where_the_oldest_were_dropped() -> None:
    a, b, c, d = (ChatMessage("user", text) for text in "abcd")
    assert added([a, b, c], [a, b]) == [c]
    assert added([c, d], [a, b, c]) == [d]
    assert added([c, d], [b, a]) == [c, d]
    assert added([a], []) == [a]
