"""LangGraphAgent: where the state of a graph is kept, and what a turn that runs again starts from."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import aiosqlite
import pytest
from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send, interrupt

from sdqueue.agents import ChatContext, ChatMessage, TurnResult
from sdqueue.agents.langgraph import LangGraphAgent
from sdqueue.errors import AgentResultError, ConfigurationError
from sdqueue.sessions import InMemorySessionStore, SessionWorker


def graph_of(*nodes: Any, checkpointer: Any = None, state: Any = MessagesState) -> Any:
    """The nodes one after the other."""
    graph = StateGraph(state)
    before = START
    for node in nodes:
        graph.add_node(node.__name__, node)
        graph.add_edge(before, node.__name__)
        before = node.__name__
    return graph.compile(checkpointer=checkpointer)


def echo(state: MessagesState) -> Any:
    texts = [message.text for message in state["messages"]]
    return {"messages": [AIMessage(f"{len(texts)}: {texts[-1]}")]}


def twice(state: MessagesState) -> Any:
    return {"messages": [AIMessage(f"{interrupt('a?')} and {interrupt('b?')}")]}


def resumed(agent: LangGraphAgent) -> LangGraphAgent:
    """The agent in another process."""
    other = LangGraphAgent(agent._graph)
    other.load_state(copy.deepcopy(agent.dump_state()))
    other.load_chat_ctx(agent.chat_ctx.copy())
    return other


async def text_of(agent: LangGraphAgent, text: str) -> str:
    result = await agent.turn(text)
    assert isinstance(result, TurnResult)
    return result.text


async def test_a_graph_without_a_checkpointer_has_no_state_but_the_conversation() -> None:
    """So that what is written for a turn does not grow with the conversation."""
    agent = LangGraphAgent(graph_of(echo))
    first = [await text_of(agent, "one"), await text_of(agent, "two")]
    assert first == ["1: one", "3: two"]
    assert agent.dump_state() is None


async def test_what_a_graph_removes_is_gone_and_the_rest_is_untouched() -> None:
    """A graph that shortens its own history, by the ids of messages, has its way."""

    def forget(state: MessagesState) -> Any:
        return {"messages": [RemoveMessage(id=m.id) for m in state["messages"][:-2] if m.id]}

    agent = LangGraphAgent(graph_of(echo, forget))
    for text in ("one", "two", "three"):
        await agent.turn(text)
    assert [m.content for m in agent.chat_ctx.items] == ["three", "3: three"]


async def test_a_question_without_a_checkpointer_is_refused() -> None:
    with pytest.raises(AgentResultError, match="compile it with a checkpointer"):
        await LangGraphAgent(graph_of(twice)).turn("hi")


async def test_a_question_is_the_reply_and_the_next_turn_its_answer() -> None:
    agent = LangGraphAgent(graph_of(twice, checkpointer=InMemorySaver()))
    said = []
    for text in ("hi", "1", "2"):
        agent = resumed(agent)
        said.append(await text_of(agent, text))
    assert said == ["a?", "b?", "1 and 2"]
    assert [(m.role, m.content) for m in agent.chat_ctx.items] == [
        *(("user", "hi"), ("assistant", "a?"), ("user", "1"), ("assistant", "b?"), ("user", "2")),
        ("assistant", "1 and 2"),
    ]


async def test_questions_of_several_nodes_are_asked_one_after_the_other() -> None:
    def ask(number: int) -> Any:
        return {"messages": [AIMessage(f"{number}: {interrupt(f'{number}?')}")]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_conditional_edges(START, lambda _: [Send("ask", 1), Send("ask", 2)], ["ask"])
    agent = LangGraphAgent(graph.compile(checkpointer=InMemorySaver()))
    said = []
    for text in ("hi", "x", "y"):
        agent = resumed(agent)
        said.append(await text_of(agent, text))
    assert said[:2] == ["1?", "2?"]
    assert [m.content for m in agent.chat_ctx.items] == ["hi", "1?", "x", "2?", "y", "1: x", "2: y"]


async def test_a_note_reaches_a_graph_that_waits_for_an_answer() -> None:
    def count(state: MessagesState) -> Any:
        answer = interrupt("go on?")
        return {"messages": [AIMessage(f"{answer}, knowing {[m.text for m in state['messages']]}")]}

    agent = LangGraphAgent(graph_of(count, checkpointer=InMemorySaver()))
    await agent.turn("hi")
    agent.assist("be brief")
    agent = resumed(agent)
    assert await text_of(agent, "yes") == "yes, knowing ['hi', 'be brief']"
    assert [m.content for m in agent.chat_ctx.items].count("be brief") == 1


async def test_an_answer_that_the_graph_makes_only_after_its_oldest_messages_were_dropped_elsewhere() -> None:
    """A session's limit on its history does not confuse what the graph has heard with what it has not."""
    agent = LangGraphAgent(graph_of(echo, checkpointer=InMemorySaver()))
    for text in ("one", "two", "three"):
        await agent.turn(text)
    other = resumed(agent)
    other.load_chat_ctx(ChatContext([*agent.chat_ctx.items[-2:], ChatMessage("system", "be brief")]))
    assert await text_of(other, "four") == "8: four"


async def test_what_is_saved_of_a_graph_in_memory_is_its_last_checkpoint_only() -> None:
    """Not its past, and nothing of what subgraphs did on the way."""
    inner = graph_of(echo)
    outer = StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner")
    agent = LangGraphAgent(outer.compile(checkpointer=InMemorySaver()))
    sizes = []
    for number in range(4):
        await agent.turn(f"turn {number}")
        state = agent.dump_state()
        assert state is not None
        sizes.append(len(state["checkpoints"]))
    assert sizes == [1, 1, 1, 1]


async def test_a_channel_that_needs_the_whole_past_is_refused() -> None:
    """Rather than losing it without a word."""

    class State(TypedDict):
        messages: Annotated[list[BaseMessage], DeltaChannel(lambda state, writes: [*state, *writes])]

    def silent(state: Any) -> Any:
        return {}

    with pytest.raises(ConfigurationError, match="messages is a DeltaChannel"):
        await LangGraphAgent(graph_of(silent, checkpointer=InMemorySaver(), state=State)).turn("hi")


async def test_a_turn_that_runs_again_starts_from_the_saved_checkpoint(tmp_path: Path) -> None:
    """With a checkpointer of its own, whose newest checkpoint is that of the turn that was not saved."""
    async with aiosqlite.connect(tmp_path / "db") as connection:
        saver = AsyncSqliteSaver(connection)
        agent = LangGraphAgent(graph_of(echo, checkpointer=saver))
        await agent.turn("one")
        lost, again = resumed(agent), resumed(agent)

        assert await text_of(lost, "two") == "3: two"  # and its process dies before the session is saved
        assert await text_of(again, "two") == "3: two"

        assert await text_of(resumed(again), "three") == "5: three"


async def test_a_first_turn_that_runs_again_starts_from_nothing(tmp_path: Path) -> None:
    async with aiosqlite.connect(tmp_path / "db") as connection:
        graph = graph_of(echo, checkpointer=AsyncSqliteSaver(connection))
        assert [await text_of(LangGraphAgent(graph), "one") for _ in range(2)] == ["1: one", "1: one"]


async def test_a_session_that_was_deleted_begins_anew(tmp_path: Path) -> None:
    """What it has left in the checkpointer is not found again under its name."""
    async with aiosqlite.connect(tmp_path / "db") as connection:
        graph = graph_of(echo, checkpointer=AsyncSqliteSaver(connection))
        store = InMemorySessionStore()
        worker = SessionWorker(agent_factory=lambda: LangGraphAgent(graph), store=store)
        for _ in range(2):
            async with worker.acquire("s") as handle:
                assert (await handle.turn("one")).text == "1: one"
            await store.delete("s")


async def test_checkpoints_are_found_by_the_session(tmp_path: Path) -> None:
    """So that they can be looked at, or erased, from outside."""
    from sdqueue.agents import TurnContext, set_current_turn

    set_current_turn(TurnContext("t", "user-42"))
    async with aiosqlite.connect(tmp_path / "db") as connection:
        saver = AsyncSqliteSaver(connection)
        agent = LangGraphAgent(graph_of(echo, checkpointer=saver))
        await agent.turn("one")
        found = [each async for each in saver.alist(None, filter={"session_id": "user-42"})]
    assert found
    assert found[0].config["configurable"]["thread_id"].startswith("user-42:")


async def test_a_graph_in_memory_goes_on_anywhere_though_its_saver_does_not() -> None:
    """Nothing is left in the saver that it was compiled with, which would grow for ever."""
    saver = InMemorySaver()
    agent = LangGraphAgent(graph_of(echo, checkpointer=saver))
    await agent.turn("one")
    assert await text_of(resumed(agent), "two") == "3: two"
    assert list(saver.list(None)) == []


async def test_a_state_without_messages_is_refused() -> None:
    class State(TypedDict):
        text: str

    def node(state: State) -> Any:
        return {"text": "hi"}

    with pytest.raises(ConfigurationError, match="no messages"):
        await LangGraphAgent(graph_of(node, state=State)).turn("hi")


@pytest.fixture(params=["in memory", "in a database"])
async def saver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "in memory":
        yield InMemorySaver()
        return
    async with aiosqlite.connect(tmp_path / "db") as connection:
        yield AsyncSqliteSaver(connection)


async def test_an_answer_that_is_given_again_after_a_crash_answers_one_question(saver: Any) -> None:
    """The run that was lost has left nothing where the next one goes on, in a subgraph neither."""
    outer = StateGraph(MessagesState).add_node("inner", graph_of(twice)).add_edge(START, "inner")
    for graph in (graph_of(twice, checkpointer=saver), outer.compile(checkpointer=saver)):
        agent = LangGraphAgent(graph)
        await agent.turn("hi")
        for lost in ("lost", "lost too"):
            assert await text_of(resumed(agent), lost) == "b?"
        again = resumed(agent)
        assert await text_of(again, "1") == "b?"
        assert await text_of(resumed(again), "lost") == "1 and lost"
        assert await text_of(resumed(again), "2") == "1 and 2"


async def test_a_subgraph_that_remembers_knows_nothing_of_a_turn_that_was_lost(saver: Any) -> None:
    """Its memory is one of its own, beside the checkpoint that the session names."""

    class Visits(MessagesState):
        visits: int

    def visit(state: Visits) -> Any:
        visits = state.get("visits", 0) + 1
        return {"visits": visits, "messages": [AIMessage(f"visit {visits}")]}

    inner = graph_of(visit, checkpointer=True, state=Visits)
    outer = StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner")
    agent = LangGraphAgent(outer.compile(checkpointer=saver))
    for number in range(1, 4):
        for _ in range(2):
            again = resumed(agent)
            assert await text_of(again, "hi") == f"visit {number}"
        agent = again
