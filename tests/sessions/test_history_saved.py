"""History limits at work: what is saved, what agents see of it, and what happens where shortening fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from sdqueue import MemoAgent, MessageLimit, SessionWorker, Summary, TokenLimit
from sdqueue.agents import ChatMessage, keeps_conversation
from sdqueue.sessions import InMemorySessionStore, RedisSessionStore, SessionRecord
from tests.sessions.stubs import KINDS, Durable, NoAssist, Plain, said, take


class CountingStore(InMemorySessionStore):
    """Notes how many messages each save writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[int] = []

    async def save(self, session_id: str, record: Any) -> None:
        self.written.append(len(record.chat_ctx.items) - record.stored.items)
        await super().save(session_id, record)


class Numbered(Plain):
    """Answers with what it has seen."""

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        seen = " ".join(m.content for m in self.chat.items if m.role == "user")
        self.chat.append(ChatMessage("user", text))
        self.chat.append(ChatMessage("assistant", f"seen {seen}"))
        return f"seen {seen}"


class Prompted(Numbered):
    def __init__(self) -> None:
        super().__init__()
        self.chat.append(ChatMessage("system", "You are kind."))


TEXTS = [f"t{n}" for n in range(30)]


async def test_a_cached_agent_sees_what_a_fresh_process_would_load() -> None:
    """Given the same turns in one process and in one process for each turn, then the answers are the same."""
    answers = {}
    for name, cached in (("one process", 1000), ("a process a turn", 0)):
        store = InMemorySessionStore()
        worker = SessionWorker(
            agent_factory=Prompted, store=store, max_sessions=cached, history=[MessageLimit(9), TokenLimit(60)]
        )
        answers[name] = []
        for text in TEXTS:
            async with worker.acquire("s") as handle:
                answers[name].append(await handle.turn(text))
        record = await store.load("s")
        assert record is not None
        assert len(record.chat_ctx.items) <= 9
        assert record.chat_ctx.items[0] == ChatMessage("system", "You are kind.")
    assert answers["one process"] == answers["a process a turn"]
    assert answers["one process"][-1] in ("seen t28", "seen t27 t28", "seen t26 t27 t28", "seen t25 t26 t27 t28")


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_agent_is_kept_within_the_limit(kind: type[Any]) -> None:
    store = InMemorySessionStore()
    worker = SessionWorker(agent_factory=kind, store=store, history=MessageLimit(6))
    await take(worker, *TEXTS)
    conversation = await said(store)
    assert conversation is not None
    assert len(conversation) <= 6
    assert [text for role, text in conversation if role == "user"] == TEXTS[-len(conversation) // 2 :]


async def test_most_turns_append_and_write_only_what_is_new() -> None:
    """A limit that is reached would else have everything written with every turn."""
    store = CountingStore()
    worker = SessionWorker(agent_factory=Prompted, store=store, history=MessageLimit(101))
    await take(worker, *[f"t{n}" for n in range(300)])
    large = [count for count in store.written if count > 3]
    assert len(large) == 18, "one in fourteen, from the 51st turn on"
    assert max(large) <= 75
    assert sum(store.written) / 300 < 8


async def test_a_turn_weighs_only_what_it_adds() -> None:
    weighed = 0

    def count(text: str) -> int:
        nonlocal weighed
        weighed += 1
        return 1

    worker = SessionWorker(agent_factory=Plain, history=TokenLimit(10**6, count=count))
    await take(worker, *[f"t{n}" for n in range(50)])
    assert weighed == 100


@pytest.mark.redis
async def test_on_redis_a_long_session_with_a_limit_writes_few_bytes(redis_url: str, namespace: str) -> None:
    store = RedisSessionStore(redis_url, namespace=namespace)
    history = MessageLimit(200)
    worker = SessionWorker(agent_factory=NoAssist, store=store, history=history)
    sizes = []
    async with Redis.from_url(redis_url) as client:
        for n in range(160):
            before = (await client.info("stats"))["total_net_input_bytes"]
            await take(worker, f"{n} " + "x" * 500)
            sizes.append((await client.info("stats"))["total_net_input_bytes"] - before)
    saved = await said(store)
    await store.aclose()
    assert saved is not None
    assert len(saved) <= 200
    small = sorted(sizes)[: len(sizes) * 9 // 10]
    assert max(small) < 5_000, "nine turns in ten write what is new"
    assert max(sizes) < 150 * 1_000


async def test_a_session_of_before_the_limit_is_shortened_with_its_next_turn() -> None:
    store = InMemorySessionStore()
    await take(SessionWorker(agent_factory=Plain, store=store), *TEXTS)
    worker = SessionWorker(agent_factory=Plain, store=store, history=MessageLimit(6))
    async with worker.acquire("s"):
        pass
    assert len(await said(store) or []) == 60, "to look at a session changes nothing"
    await take(worker, "new")
    assert [text for role, text in await said(store) or [] if role == "user"] == ["t29", "new"]


async def test_an_agent_that_keeps_its_conversation_in_its_state_is_left_alone_and_others_keep_their_state() -> None:
    class Own(Durable):
        history_limited = False

    for kind, kept in ((Own, 60), (Durable, 6)):
        store = CountingStore()
        worker = SessionWorker(agent_factory=kind, store=store, history=MessageLimit(8))
        await take(worker, *TEXTS)
        record = await store.load("s")
        assert record is not None
        assert len(record.chat_ctx.items) in range(kept, kept + 3)
        assert record.agent_state == {"texts": TEXTS}


@pytest.mark.parametrize("cached", [1000, 0])
async def test_a_graph_with_a_checkpointer_keeps_its_messages_and_one_without_is_limited(cached: int) -> None:
    """The checkpoints hold the messages; a session that forgot some of them would tell the graph of them again."""
    pytest.importorskip("langgraph")
    from langchain_core.messages import AIMessage
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, MessagesState, StateGraph

    from sdqueue.agents.langgraph import LangGraphAgent

    def count(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(str(len(state["messages"])))]}

    def graph(checkpointer: Any) -> Any:
        flow = StateGraph(MessagesState)
        flow.add_node("count", count)
        flow.add_edge(START, "count")
        return flow.compile(checkpointer=checkpointer)

    said_by = {}
    for saver in (None, InMemorySaver()):
        worker = SessionWorker(
            agent_factory=lambda saver=saver: LangGraphAgent(graph(saver)),  # type: ignore[misc]
            max_sessions=cached, history=MessageLimit(4),
        )  # fmt: skip
        said_by[saver is None] = []
        for text in "abcdef":
            async with worker.acquire("s") as handle:
                said_by[saver is None].append(int((await handle.turn(text)).text))
    assert said_by[True] == [1, 3, 5, 3, 5, 3]
    assert said_by[False] == [1, 3, 5, 7, 9, 11]


def test_who_keeps_a_conversation_in_a_state_of_its_own() -> None:
    """Not whoever has a state: what an agent dumps is what it has beyond the conversation."""
    assert not keeps_conversation(MemoAgent())
    assert not keeps_conversation(Plain())


# Where shortening fails


class Hook:
    """Summarises as the test says."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.hang = False
        self.began = asyncio.Event()
        self.calls = 0

    async def __call__(self, messages: Sequence[ChatMessage]) -> str:
        self.calls += 1
        self.began.set()
        if self.error is not None:
            raise self.error
        if self.hang:
            await asyncio.Event().wait()
        return f"{len(messages)} messages"


async def test_a_hook_that_fails_loses_nothing_and_is_called_again_next_turn(caplog: Any) -> None:
    hook, store = Hook(), InMemorySessionStore()
    worker = SessionWorker(agent_factory=Plain, store=store, history=Summary(MessageLimit(8), hook))
    await take(worker, *TEXTS[:4])
    hook.error = ConnectionError("the model is away")
    with caplog.at_level(logging.WARNING, "sdqueue.sessions"):
        async with worker.acquire("s") as handle:
            assert (await handle.turn("t4")).text == "5: t4"
    assert "history stays as it is: ConnectionError('the model is away')" in caplog.text
    assert len(await said(store) or []) == 10
    hook.error = None
    await take(worker, "t5")
    assert (await said(store) or [])[0] == ("system", "Summary of the conversation so far:\n6 messages")
    assert [text for role, text in await said(store) or [] if role == "user"] == TEXTS[3:6]


async def test_past_twice_the_limit_the_oldest_go_without_a_summary() -> None:
    hook, store = Hook(), InMemorySessionStore()
    hook.error = ConnectionError("away for good")
    worker = SessionWorker(agent_factory=Plain, store=store, history=Summary(MessageLimit(8), hook))
    sizes = []
    for text in TEXTS:
        await take(worker, text)
        sizes.append(len(await said(store) or []))
    assert max(sizes) == 16
    assert min(sizes[10:]) == 6


async def test_a_cancellation_while_the_hook_runs_saves_nothing() -> None:
    hook, store = Hook(), InMemorySessionStore()
    worker = SessionWorker(agent_factory=Plain, store=store, history=Summary(MessageLimit(8), hook))
    await take(worker, *TEXTS[:4])
    hook.hang = True
    task = asyncio.create_task(take(worker, "t4"))
    await hook.began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await said(store) or []) == 8
    hook.hang = False
    async with worker.acquire("s") as handle:
        assert (await handle.turn("again")).text == "5: again"


async def test_a_policy_of_ones_own_is_mended_and_may_fail_in_everything() -> None:
    class Clumsy:
        """Parts a call from its result, and cannot even cut."""

        limit = 4

        def weigh(self, message: ChatMessage) -> int:
            return 1

        async def shorten(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
            if messages[-1].content.endswith("fail"):
                return [object()]  # type: ignore[list-item]
            return list(messages[-4:])

        def cut(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
            raise RuntimeError("no")

    class Tools(Plain):
        async def turn(self, text: str, *, stream: bool = False) -> Any:
            self.chat.append(ChatMessage("tool", "of nothing", tool_call_id="9"))
            return await super().turn(text)

    store = InMemorySessionStore()
    worker = SessionWorker(agent_factory=Tools, store=store, history=[Clumsy()])
    await take(worker, "one", "two", "three")
    assert [m[1] for m in await said(store) or []] == ["two", "2: two", "three", "3: three"]
    await take(worker, "to fail")
    assert len(await said(store) or []) == 6


async def test_a_count_that_raises_is_reported_and_loses_no_answer(caplog: Any) -> None:
    def count(text: str) -> int:
        raise LookupError("no such encoding")

    store = InMemorySessionStore()
    worker = SessionWorker(agent_factory=Plain, store=store, history=TokenLimit(5, count=count))
    with caplog.at_level(logging.WARNING, "sdqueue.sessions"):
        await take(worker, "one", "two")
    assert await said(store) == [("user", "one"), ("assistant", "1: one"), ("user", "two"), ("assistant", "2: two")]
    assert caplog.text.count("no such encoding") == 2


async def test_a_turn_that_is_too_long_by_itself_does_not_cost_the_agent_its_place() -> None:
    """Nothing can be dropped, so nothing is written anew and the agent stays in memory."""
    store = CountingStore()
    worker = SessionWorker(agent_factory=Plain, store=store, history=MessageLimit(1))
    await take(worker, "one")
    assert (worker.cache_size, store.written) == (1, [2])


async def test_metadata_and_notes_are_not_lost_with_the_oldest_turns() -> None:
    store = InMemorySessionStore()
    worker = SessionWorker(agent_factory=Numbered, store=store, history=MessageLimit(4))
    await take(worker, "one", "two")
    async with worker.acquire("s") as handle:
        handle.session.metadata["k"] = 1
        await handle.turn("three")
        handle.assist("be brief")
    record: SessionRecord | None = await store.load("s")
    assert record is not None
    assert record.metadata == {"k": 1}
    assert [m.content for m in record.chat_ctx.items] == ["three", "seen one two", "be brief"]
