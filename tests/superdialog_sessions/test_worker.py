"""What users of superdialog's SessionWorker rely on, on its worker and on ours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.superdialog_sessions.brains import BRAINS, Plain, llm, machine
from tests.superdialog_sessions.conftest import Layer


async def take(worker: Any, session_id: str, *texts: str) -> list[str]:
    """Take each turn in a block of its own."""
    answers = []
    for text in texts:
        async with worker.acquire(session_id) as handle:
            answers.append((await handle.turn(text)).text)
    return answers


async def said(store: Any, session_id: str) -> list[tuple[str, str]]:
    record = await store.load(session_id)
    return [(message.role, message.content) for message in record.chat_ctx.items]


ONE_TWO = [("user", "one"), ("assistant", "1: one"), ("user", "two"), ("assistant", "2: two")]


@pytest.mark.parametrize("brain", BRAINS)
async def test_a_new_session_is_created_and_its_agent_kept(layer: Layer, brain: str) -> None:
    worker = layer.SessionWorker(agent_factory=BRAINS[brain])
    assert worker.cache_size == 0
    assert await take(worker, "new", "one") == ["1: one"]
    assert worker.cache_size == 1


@pytest.mark.parametrize("brain", BRAINS)
async def test_the_end_of_a_block_saves(layer: Layer, brain: str) -> None:
    store = layer.InMemorySessionStore()
    worker = layer.SessionWorker(agent_factory=BRAINS[brain], store=store)
    await take(worker, "s", "one")
    assert await said(store, "s") == ONE_TWO[:2]
    assert (await store.load("s")).metadata == {}


@pytest.mark.parametrize("brain", BRAINS)
async def test_a_closed_session_goes_on_from_the_store(layer: Layer, brain: str) -> None:
    store = layer.InMemorySessionStore()
    worker = layer.SessionWorker(agent_factory=BRAINS[brain], store=store)
    await take(worker, "s", "one")
    await worker.close_session("s")
    assert worker.cache_size == 0
    assert await said(store, "s") == ONE_TWO[:2]
    async with worker.acquire("s") as handle:
        assert (await handle.turn("two")).text == "2: two"
        assert [(m.role, m.content) for m in handle.agent.chat_ctx.items] == ONE_TWO


async def test_closing_what_is_not_in_memory_does_nothing(layer: Layer) -> None:
    store = layer.InMemorySessionStore()
    worker = layer.SessionWorker(agent_factory=Plain, store=store)
    await worker.close_session("s")
    assert worker.cache_size == 0
    assert await store.load("s") is None


async def test_a_machine_in_memory_goes_on_where_it_stands(layer: Layer) -> None:
    worker = layer.SessionWorker(agent_factory=machine)
    async with worker.acquire("s") as handle:
        first = await handle.turn("one")
        agent = handle.agent
    async with worker.acquire("s") as handle:
        assert handle.agent is agent
        second = await handle.turn("two")
    assert (first.metadata["from_node"], first.metadata["to_node"], second.metadata["from_node"]) == (
        "n0", "n1", "n1",
    )  # fmt: skip


async def test_every_session_has_an_agent_of_its_own(layer: Layer) -> None:
    store = layer.InMemorySessionStore()
    worker = layer.SessionWorker(agent_factory=Plain, store=store)
    async with worker.acquire("a") as a, worker.acquire("b") as b:
        assert a.agent is not b.agent
        await a.turn("to a")
        await b.turn("to b")
    assert [await said(store, name) for name in "ab"] == [
        [("user", f"to {name}"), ("assistant", f"1: to {name}")] for name in "ab"
    ]


async def test_blocks_of_one_session_come_one_after_another(layer: Layer) -> None:
    worker = layer.SessionWorker(agent_factory=Plain)
    events: list[str] = []

    async def work(name: str) -> None:
        async with worker.acquire("s") as handle:
            events.append(name)
            await handle.turn(name)
            for _ in range(5):
                await asyncio.sleep(0)
            events.append(name)

    await asyncio.gather(*(work(name) for name in "abc"))
    assert events[::2] == events[1::2]
    assert set(events) == set("abc")


async def test_blocks_of_two_sessions_run_at_once(layer: Layer) -> None:
    worker = layer.SessionWorker(agent_factory=Plain)
    inside = {"a": asyncio.Event(), "b": asyncio.Event()}

    async def work(name: str, other: str) -> None:
        async with worker.acquire(name):
            inside[name].set()
            await inside[other].wait()

    async with asyncio.timeout(60):
        await asyncio.gather(work("a", "b"), work("b", "a"))


async def test_the_session_unused_for_longest_leaves_memory_and_is_stored(layer: Layer) -> None:
    store = layer.InMemorySessionStore()
    built: list[Plain] = []

    def make() -> Plain:
        built.append(Plain())
        return built[-1]

    worker = layer.SessionWorker(agent_factory=make, store=store, max_sessions=2)
    for session_id in "abac":
        await take(worker, session_id, f"to {session_id}")
    assert worker.cache_size == 2
    assert len(built) == 3
    assert await said(store, "b") == [("user", "to b"), ("assistant", "1: to b")]
    assert await take(worker, "a", "again") == ["3: again"]
    assert len(built) == 3, "a was used after b, so b had to go"
    assert await take(worker, "b", "again") == ["2: again"]
    assert len(built) == 4


@pytest.mark.parametrize("brain", BRAINS)
async def test_a_note_before_the_turn_is_known_in_it(layer: Layer, brain: str) -> None:
    store = layer.InMemorySessionStore()
    worker = layer.SessionWorker(agent_factory=BRAINS[brain], store=store)
    async with worker.acquire("s") as handle:
        handle.assist("a VIP")
        assert (await handle.turn("one")).text == "1: one"
        assert ("system", "a VIP") in [(m.role, m.content) for m in handle.agent.chat_ctx.items]
    assert await said(store, "s") == [("system", "a VIP"), *ONE_TWO[:2]]


@pytest.mark.parametrize("brain", BRAINS)
async def test_a_note_without_a_turn_is_saved(layer: Layer, brain: str) -> None:
    """Also for a machine that has not built anything yet."""
    store = layer.InMemorySessionStore()
    async with layer.SessionWorker(agent_factory=BRAINS[brain], store=store).acquire("s") as handle:
        handle.assist("a VIP")
    assert ("system", "a VIP") in await said(store, "s")


async def test_a_call_begins_afresh_with_a_null_store(layer: Layer) -> None:
    worker = layer.SessionWorker(agent_factory=llm, store=layer.NullSessionStore())
    assert await take(worker, "call", "one") == ["1: one"]
    await worker.close_session("call")
    async with worker.acquire("call") as handle:
        assert handle.agent.chat_ctx.items == []


async def test_a_stream_is_read_inside_the_block_and_saved(layer: Layer) -> None:
    store = layer.InMemorySessionStore()
    worker = layer.SessionWorker(agent_factory=llm, store=store)
    async with worker.acquire("s") as handle:
        chunks = [chunk async for chunk in await handle.turn("one", stream=True)]
    assert "".join(chunk.text for chunk in chunks) == "1: one"
    assert [chunk.done for chunk in chunks] == [False, True]
    assert await said(store, "s") == ONE_TWO[:2]


# Factories


class Named(Plain):
    """Made for a plan; it answers in a dict and takes no notes, as agents in superdialog's own tests do."""

    def __init__(self, plan: str = "none") -> None:
        super().__init__()
        self.plan = plan

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        return {"text": f"{self.plan} {(await super().turn(text)).text}"}


async def test_a_factory_may_be_told_what_the_session_is_created_with(layer: Layer, init: Any) -> None:
    inits: list[Any] = []

    def make(told: Any) -> Named:
        inits.append(told)
        return Named(told.metadata["plan"])

    worker = layer.SessionWorker(agent_factory_ctx=make)
    for session_id in ("gold", "iron", "gold"):
        async with worker.acquire(session_id, init=init(session_id, {"plan": session_id})) as handle:
            answer = await handle.turn("hello")
            assert answer["text"].startswith(f"{session_id} ")
            assert handle.session.metadata == {"plan": session_id}
    assert [(told.session_id, told.metadata) for told in inits] == [
        ("gold", {"plan": "gold"}), ("iron", {"plan": "iron"}),
    ], "the agent is made when the session is created, and kept"  # fmt: skip


async def test_without_init_the_factory_is_told_the_session(layer: Layer, init: Any) -> None:
    inits: list[Any] = []

    def make(told: Any) -> Named:
        inits.append(told)
        return Named()

    async with layer.SessionWorker(agent_factory_ctx=make).acquire("s"):
        pass
    assert inits == [init("s")]


@pytest.mark.usefixtures("init")
def test_exactly_one_factory_is_needed(layer: Layer) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        layer.SessionWorker()
    with pytest.raises(ValueError, match="exactly one"):
        layer.SessionWorker(agent_factory=Named, agent_factory_ctx=lambda told: Named())


async def test_the_answer_of_an_agent_is_passed_on_as_it_is(layer: Layer) -> None:
    async with layer.SessionWorker(agent_factory=Named).acquire("s") as handle:
        assert await handle.turn("hello") == {"text": "none 1: hello"}


@pytest.mark.usefixtures("init")
async def test_a_session_closed_without_persist_is_forgotten(layer: Layer) -> None:
    """A conversation that has come to its end must not be resumed, wherever it is in memory."""
    store = layer.InMemorySessionStore()
    worker, elsewhere = (layer.SessionWorker(agent_factory=Plain, store=store) for _ in "ab")
    for closing in (worker, elsewhere):
        await take(worker, "s", "one")
        await closing.close_session("s", persist=False)
        assert await store.load("s") is None
        await worker.close_session("s", persist=False)
