"""Tool calls and their results are kept in pairs, and mended where they are not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdqueue.agents import ChatContext, ChatMessage, StreamChunk, ToolCall
from sdqueue.sessions import InMemorySessionStore, SessionRecord, SessionWorker
from sdqueue.sessions.pairs import INTERRUPTED, are_whole, beginning_of, mended


def user(text: str = "u") -> ChatMessage:
    return ChatMessage("user", text)


def says(text: str = "a") -> ChatMessage:
    return ChatMessage("assistant", text)


def calls(*ids: str, text: str = "") -> ChatMessage:
    return ChatMessage("assistant", text, tuple(ToolCall(i, "look_up", {"n": 1}) for i in ids))


def result(of: str | None, text: str = "42") -> ChatMessage:
    return ChatMessage("tool", text, tool_call_id=of)


def broken(of: str) -> ChatMessage:
    return result(of, INTERRUPTED)


def note() -> ChatMessage:
    return ChatMessage("system", "n")


CASES: dict[str, tuple[list[ChatMessage], list[ChatMessage]]] = {
    "a call without results": ([user(), calls("1", "2")], [user(), calls("1", "2"), broken("1"), broken("2")]),
    "one of two results": ([calls("1", "2"), result("2"), user()], [calls("1", "2"), result("2"), broken("1"), user()]),
    "a result without its call": ([user(), result("9"), says()], [user(), says()]),
    "a result twice": ([calls("1"), result("1", "a"), result("1", "b")], [calls("1"), result("1", "a")]),
    "a result before its call": ([result("1"), calls("1")], [calls("1"), broken("1")]),
    "a result that stands too late": ([calls("1"), note(), result("1")], [calls("1"), result("1"), note()]),
    "an id that is used again": (
        [calls("1"), user(), calls("1"), result("1")],
        [calls("1"), broken("1"), user(), calls("1"), result("1")],
    ),
    "calls without ids": ([calls("", ""), result("")], [calls("", ""), result(""), broken("")]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_broken_is_mended(name: str) -> None:
    before, after = CASES[name]
    assert not are_whole(before)
    assert mended(before) == after
    assert are_whole(after)


def test_tool_messages_without_an_id_are_nobody_s_and_stay() -> None:
    """As superdialog writes them."""
    items = [user(), result(None), says(), result(None), result(None), user()]
    assert are_whole(items)
    assert mended(items) == items


ids = st.sampled_from(["", "1", "2", "3"])
messages = st.one_of(
    st.builds(user, st.text(max_size=3)),
    st.builds(says, st.text(max_size=3)),
    st.just(note()),
    st.lists(ids, min_size=1, max_size=3).map(lambda i: calls(*i)),
    st.builds(result, st.one_of(st.none(), ids), st.text(max_size=3)),
)
anything = st.lists(messages, max_size=14)


@st.composite
def whole(draw: st.DrawFn) -> list[ChatMessage]:
    """Conversations as they should be."""
    items: list[ChatMessage] = []
    for message in draw(anything):
        if message.role == "tool" and message.tool_call_id is not None:
            continue
        items.append(message)
        if message.tool_calls:
            items += [result(i) for i in draw(st.permutations([call.id for call in message.tool_calls]))]
    return items


def follows_the_rule(items: list[ChatMessage]) -> bool:
    """What models demand, said in another way than the code does."""
    at = 0
    while at < len(items):
        message = items[at]
        at += 1
        if message.role == "tool" and message.tool_call_id is not None:
            return False
        answers = items[at : at + len(message.tool_calls)]
        if any(a.role != "tool" or a.tool_call_id is None for a in answers):
            return False
        if Counter(a.tool_call_id for a in answers) != Counter(call.id for call in message.tool_calls):
            return False
        at += len(answers)
    return True


@given(anything)
def test_whatever_comes_is_whole_afterwards_and_mending_again_changes_nothing(items: list[ChatMessage]) -> None:
    after = mended(items)
    assert are_whole(after)
    assert follows_the_rule(after)
    assert mended(after) == after
    # Nothing but results is added, dropped or moved.
    others = [m for m in items if m.tool_call_id is None]
    assert [m for m in after if m.tool_call_id is None] == others
    given_results = Counter(m.content for m in items if m.tool_call_id is not None)
    assert Counter(m.content for m in after if m.tool_call_id is not None and m.content != INTERRUPTED) <= given_results


@given(whole())
def test_what_is_whole_is_not_touched(items: list[ChatMessage]) -> None:
    assert follows_the_rule(items)
    assert are_whole(items)
    assert mended(items) == items


@given(anything)
def test_the_quick_look_says_what_the_rule_says(items: list[ChatMessage]) -> None:
    assert are_whole(items) == follows_the_rule(items)


@given(whole(), anything, st.integers(0, 20))
def test_looking_at_what_is_new_is_enough(old: list[ChatMessage], new: list[ChatMessage], kept: int) -> None:
    """What was saved is whole; an agent may have taken back the end of it, even between a call and its result."""
    items = old[:kept] + new
    same = min(kept, len(old))
    start = beginning_of(items, same)
    assert are_whole(items, start) == are_whole(items)
    assert are_whole([*items[:start], *mended(items[start:])])


# Saving and loading


class Calling:
    """Writes a call down, streams, calls again, and waits for a tool that the listener does not wait for."""

    def __init__(self) -> None:
        self.chat_ctx = ChatContext()
        self.seen: list[list[ChatMessage]] = []

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        self.chat_ctx = ctx

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        assert are_whole(self.chat_ctx.items), "the model would refuse this conversation"
        self.chat_ctx.append(user(text))
        if not stream:
            self.chat_ctx.append(says(f"to {text}"))
            return f"to {text}"
        return self._pieces()

    async def _pieces(self) -> Any:
        self.chat_ctx.append(calls("1", "2", text="Let me see. "))
        yield StreamChunk("Let me see. ")
        self.chat_ctx.append(result("1"))
        yield StreamChunk("It is")
        yield StreamChunk(" 42.", done=True)


class _Counting(InMemorySessionStore):
    """Counts the messages that are written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[int] = []

    async def save(self, session_id: str, record: Any) -> None:
        self.written.append(len(record.chat_ctx.items) - record.stored.items)
        await super().save(session_id, record)


async def _listen(handle: Any, pieces: int) -> None:
    stream = await handle.turn("how many?", stream=True)
    for _ in range(pieces):
        await anext(stream)


async def test_a_call_that_was_broken_off_is_saved_with_a_result() -> None:
    """Given a listener who goes away while tools run, then the next turn has a conversation that a model takes."""
    store = InMemorySessionStore()
    worker = SessionWorker(agent_factory=Calling, store=store)
    async with worker.acquire("s") as handle:
        await _listen(handle, 1)
    record = await store.load("s")
    assert record is not None
    assert record.chat_ctx.items == [
        user("how many?"),
        calls("1", "2", text="Let me see. "),
        broken("1"),
        broken("2"),
    ]
    async with worker.acquire("s") as handle:
        assert await handle.turn("hello?") == "to hello?"
    async with SessionWorker(agent_factory=Calling, store=store).acquire("s") as handle:
        assert await handle.turn("again?") == "to again?"


async def test_an_agent_that_leaves_a_call_open_is_mended_before_the_save() -> None:
    """As one that hands its calls on to whoever asked, and one that was interrupted and says so as its answer."""

    class Open(Calling):
        async def turn(self, text: str, *, stream: bool = False) -> Any:
            assert are_whole(self.chat_ctx.items), "the model would refuse this conversation"
            self.chat_ctx.append(user(text))
            self.chat_ctx.append(calls("1"))
            return "asked"

    store = _Counting()
    worker = SessionWorker(agent_factory=Open, store=store)
    for text in ("one", "two", "three"):
        async with worker.acquire("s") as handle:
            await handle.turn(text)
    record = await store.load("s")
    assert record is not None
    assert record.chat_ctx.items == [m for t in ("one", "two", "three") for m in (user(t), calls("1"), broken("1"))]
    assert store.written == [3, 3, 3], "only what is new"


async def test_what_was_heard_behind_a_result_is_kept_too() -> None:
    worker = SessionWorker(agent_factory=Calling)
    async with worker.acquire("s") as handle:
        await _listen(handle, 2)
        assert await handle.turn("in the same block") == "to in the same block"
        items = handle.session.chat_ctx.items
    assert items[1:5] == [calls("1", "2", text="Let me see. "), result("1"), broken("2"), says("It is")]


async def test_a_broken_record_of_before_is_mended_when_it_is_loaded() -> None:
    store = _Counting()
    old = [user("one"), says("first"), user("two"), calls("1")]
    await store.save("s", SessionRecord(chat_ctx=ChatContext(list(old))))
    worker = SessionWorker(agent_factory=Calling, store=store)
    for text in ("three", "four"):
        async with worker.acquire("s") as handle:
            await handle.turn(text)
    record = await store.load("s")
    assert record is not None
    assert record.chat_ctx.items[:6] == [*old, broken("1"), user("three")]
    assert store.written == [4, 3, 2], "what was whole is not written again"


async def test_an_agent_that_keeps_its_conversation_in_a_state_of_its_own_is_left_alone() -> None:
    """Its chat_ctx only shows what its state holds; what is changed in it would come back with the next turn."""

    class Own(Calling):
        history_limited = False

        def dump_state(self) -> Any:
            return {"own": True}

        def load_state(self, state: Any) -> None:
            assert state == {"own": True}

    store = InMemorySessionStore()
    worker = SessionWorker(agent_factory=Own, store=store)
    async with worker.acquire("s") as handle:
        await _listen(handle, 1)
        agent = handle.agent
    record = await store.load("s")
    assert record is not None
    assert record.chat_ctx.items == [user("how many?"), calls("1", "2", text="Let me see. ")]
    async with worker.acquire("s") as handle:
        assert handle.agent is agent
