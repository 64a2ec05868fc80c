"""The built-in agents, agents by name, and answers of every shape."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdqueue.agents import (
    Agent,
    ChatContext,
    ChatMessage,
    DurableAgent,
    FlowState,
    FunctionAgent,
    MemoAgent,
    StreamChunk,
    ToolCall,
    TurnContext,
    TurnResult,
    as_agent_factory,
    as_turn_result,
    current_turn,
    load_agent_factory,
    set_current_turn,
)
from sdqueue.errors import AgentResultError, ConfigurationError
from tests.agents import mybot

HERE = "tests.agents.mybot"


async def stream(agent: Any, text: str) -> list[StreamChunk]:
    return [chunk async for chunk in await agent.turn(text, stream=True)]


def lines(agent: Any) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in agent.chat_ctx.items]


# FunctionAgent


async def test_a_function_gets_the_earlier_messages_and_its_answer_is_kept() -> None:
    agent = FunctionAgent(mybot.answer)
    assert (await agent.turn("one")).text == "0: one"  # type: ignore[union-attr]
    agent.assist("be brief")
    assert (await agent.turn("two")).text == "3: two"  # type: ignore[union-attr]
    assert lines(agent) == [
        ("user", "one"),
        ("assistant", "0: one"),
        ("system", "be brief"),
        ("user", "two"),
        ("assistant", "3: two"),
    ]


async def test_a_function_that_changes_its_history_does_not_change_the_agents() -> None:
    async def careless(text: str, history: list[Any]) -> str:
        history.clear()
        return "ok"

    agent = FunctionAgent(careless)
    await agent.turn("one")
    await agent.turn("two")
    assert len(agent.chat_ctx.items) == 4


async def test_a_generators_pieces_are_streamed_and_joined() -> None:
    agent = FunctionAgent(mybot.pieces)
    chunks = await stream(agent, "one")
    assert [(c.text, c.done) for c in chunks] == [("0: ", False), ("one", False), ("", True)]
    assert chunks[-1].turn == TurnResult("0: one")
    assert await agent.turn("two") == TurnResult("2: two")


async def test_a_function_streams_its_answer_at_once() -> None:
    (chunk,) = await stream(FunctionAgent(mybot.answer), "one")
    assert (chunk.done, chunk.turn) == (True, TurnResult("0: one"))


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_function_that_raises_leaves_the_history(streamed: bool) -> None:
    async def broken(text: str, history: list[Any]) -> AsyncIterator[str]:
        yield "half"
        raise OSError("no model")

    agent = FunctionAgent(broken)
    with pytest.raises(OSError, match="no model"):
        await (stream(agent, "one") if streamed else agent.turn("one"))
    assert lines(agent) == []


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_generator_is_closed_within_its_turn(streamed: bool) -> None:
    """Not whenever the garbage is collected: its connection to a model is given back, or told to stop."""
    closed = asyncio.Event()

    async def careful(text: str, history: list[Any]) -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            closed.set()

    agent = FunctionAgent(careful)
    if streamed:
        pieces = await agent.turn("one", stream=True)
        assert not isinstance(pieces, TurnResult)
        await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
    else:
        await agent.turn("one")
    assert closed.is_set()


async def test_a_function_may_return_results_and_not_nonsense() -> None:
    async def rich(text: str, history: list[Any]) -> Any:
        return {"text": "hi", "metadata": {"a": 1}} if text == "ok" else 42

    agent = FunctionAgent(rich)
    assert await agent.turn("ok") == TurnResult("hi", metadata={"a": 1})
    with pytest.raises(AgentResultError, match="int '42', which is no answer"):
        await agent.turn("bad")


# MemoAgent


async def test_the_built_in_agent_remembers_what_it_was_told() -> None:
    agent = MemoAgent()
    answers = []
    for text in ("My name is Ada.", "what's my NAME?", "what is my age?", "hi", "what do you know"):
        answers.append((await agent.turn(text)).text)  # type: ignore[union-attr]
    assert answers == [
        "I will remember that your name is Ada.",
        "Your name is Ada.",
        "You have not told me your age.",
        "Message 4 of this session: hi",
        "I know that your name is Ada.",
    ]


async def test_the_built_in_agents_of_two_sessions_know_nothing_of_each_other() -> None:
    ada, bob = MemoAgent(), MemoAgent()
    await ada.turn("my name is Ada")
    answer = await bob.turn("what do you know about me")
    assert answer == TurnResult("You have not told me anything yet.")


async def test_the_built_in_agent_goes_on_from_its_state() -> None:
    first, second = MemoAgent(), MemoAgent()
    await first.turn("my name is Ada")
    state = first.dump_state()
    second.load_state(state)
    second.load_chat_ctx(first.chat_ctx.copy())
    await second.turn("my name is Bob")
    assert await first.turn("what is my name?") == TurnResult("Your name is Ada.")
    assert await second.turn("hi") == TurnResult("Message 3 of this session: hi")
    assert state == {"facts": {"name": "Ada"}, "heard": 1}


async def test_the_built_in_agent_streams_words() -> None:
    chunks = await stream(MemoAgent(), "hello  world")
    assert len(chunks) > 3
    assert chunks[-1].turn == TurnResult("".join(c.text for c in chunks))
    assert [c.done for c in chunks] == [False] * (len(chunks) - 1) + [True]


def test_the_built_in_agents_keep_the_protocols() -> None:
    assert isinstance(MemoAgent(), Agent)
    assert isinstance(MemoAgent(), DurableAgent)
    assert isinstance(FunctionAgent(mybot.answer), Agent)


# Agents by name


@pytest.mark.parametrize("name", [None, ""])
def test_no_name_is_the_built_in_agent(name: str | None) -> None:
    assert load_agent_factory(name) is MemoAgent


@pytest.mark.parametrize("attribute", ["make", "Box.make"])
def test_a_factory_is_found_by_name(attribute: str) -> None:
    assert load_agent_factory(f"{HERE}:{attribute}") is MemoAgent


@pytest.mark.parametrize("attribute", ["answer", "pieces"])
async def test_an_async_function_becomes_an_agent_for_each_session(attribute: str) -> None:
    factory = load_agent_factory(f"{HERE}:{attribute}")
    one, two = factory(), factory()
    await one.turn("hi")
    assert await one.turn("hi") == TurnResult("2: hi")
    assert await two.turn("hi") == TurnResult("0: hi")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mybot", "must have the form package.module:factory"),
        (":make", "must have the form"),
        ("mybot:", "must have the form"),
        ("no.such.module:make", "cannot import 'no.such.module': ModuleNotFoundError"),
        (f"{HERE}:nothing", f"'{HERE}' has no 'nothing'"),
        (f"{HERE}:Box.nothing", "has no 'Box.nothing'"),
        (f"{HERE}:NUMBER", "is int, not a factory"),
        (f"{HERE}:make_with", "needs the arguments model, key"),
        (f"{HERE}:make_later", "cannot be called with \\(text, history\\)"),
    ],
)
def test_a_name_that_cannot_work_is_named_with_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_agent_factory(name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"), [("1 / 0", "ZeroDivisionError"), ("raise SystemExit(3)", "SystemExit: 3")]
)
def test_a_module_that_fails_while_it_is_imported_is_named(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sdqueue_test_broken_bot.py").write_text(source)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ConfigurationError, match=message):
        load_agent_factory("sdqueue_test_broken_bot:make")


def test_modules_are_found_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sdqueue_test_local_bot.py").write_text("def make():\n    return 'agent'\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert load_agent_factory("sdqueue_test_local_bot:make")() == "agent"
    assert sys.modules.pop("sdqueue_test_local_bot")


def test_builtins_without_a_signature_are_factories() -> None:
    assert as_agent_factory(dict) is dict


# Answers


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("text", TurnResult("text")),
        ({"text": ""}, TurnResult("")),
        ({"text": "a", "tool_calls": None, "metadata": None}, TurnResult("a")),
        (
            {"text": "a", "tool_calls": [{"id": 1, "name": "look", "arguments": {"x": 1}}], "metadata": {"m": 1}},
            TurnResult("a", [ToolCall("1", "look", {"x": 1})], {"m": 1}),
        ),
        (
            SimpleNamespace(text="a", tool_calls=[SimpleNamespace(id="1", name="look", arguments=None)]),
            TurnResult("a", [ToolCall("1", "look")]),
        ),
    ],
)
def test_answers_of_every_shape_become_results(answer: Any, result: TurnResult) -> None:
    assert as_turn_result(answer) == result


@pytest.mark.parametrize("answer", [None, 42, b"bytes", [], {}, {"text": None}, SimpleNamespace(text=1)])
def test_what_is_no_answer_is_named(answer: Any) -> None:
    with pytest.raises(AgentResultError, match=f"returned {type(answer).__name__}"):
        as_turn_result(answer)


@pytest.mark.parametrize(
    "more", [{"tool_calls": 1}, {"tool_calls": [{"arguments": '{"x": 1}'}]}, {"metadata": "many"}, {"metadata": 1}]
)
def test_an_answer_with_unreadable_parts_is_named(more: dict[str, Any]) -> None:
    with pytest.raises(AgentResultError, match="tool_calls or metadata"):
        as_turn_result({"text": "a", **more})


def test_a_result_is_independent_of_what_the_agent_keeps() -> None:
    metadata = {"a": 1}
    as_turn_result({"text": "a", "metadata": metadata}).metadata["b"] = 2
    assert metadata == {"a": 1}


# Values


def test_a_copied_conversation_is_independent() -> None:
    one = ChatContext([ChatMessage("user", "hi")])
    two = one.copy()
    two.append(ChatMessage("assistant", "hello"))
    assert (len(one.items), len(two.items)) == (1, 2)
    assert one != two


def test_a_machine_gets_a_position_of_its_own() -> None:
    """superdialog's machines load a state by asking it to apply itself to their context."""
    state = FlowState("n1", {"name": "Ada"}, {"n1": {"a": 1}}, {"n1": True}, {"n1": 2}, [{"to": "n1"}])
    context = SimpleNamespace(other="stays")
    assert state.apply_to(context) is context
    context.userdata["name"] = context.node_slots["n1"]["a"] = context.transition_log[0]["to"] = "changed"
    assert state == FlowState("n1", {"name": "Ada"}, {"n1": {"a": 1}}, {"n1": True}, {"n1": 2}, [{"to": "n1"}])
    assert (context.current_node_id, context.visit_count, context.other) == ("n1", {"n1": 2}, "stays")


async def test_each_task_sees_the_turn_that_it_answers() -> None:
    async def answer(turn_id: str) -> str:
        set_current_turn(TurnContext(turn_id, "s"))
        await asyncio.sleep(0)
        context = current_turn()
        assert context is not None
        return context.turn_id

    assert await asyncio.gather(*(asyncio.create_task(answer(name)) for name in "ab")) == ["a", "b"]
    assert current_turn() is None
