"""LangChainAgent: what a runnable gets, and what becomes of what it returns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.language_models.fake_chat_models import FakeListChatModelError
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage, convert_to_messages
from langchain_core.runnables import RunnableGenerator, RunnableLambda

from sdqueue.agents import ChatContext, ChatMessage, StreamChunk, ToolCall, TurnResult
from sdqueue.agents.langchain import LangChainAgent
from sdqueue.errors import AgentResultError

CALL = {"id": "c1", "name": "look", "args": {"x": 1}, "type": "tool_call"}


async def pieces(agent: LangChainAgent, text: str) -> list[StreamChunk]:
    answer = await agent.turn(text, stream=True)
    assert not isinstance(answer, TurnResult)
    return [chunk async for chunk in answer]


async def test_a_runnable_gets_what_superdialogs_agent_gives_it() -> None:
    """The conversation as dicts, the new message last."""
    got: list[Any] = []
    agent = LangChainAgent(runnable=RunnableLambda(lambda messages: got.append(messages) or "hi"))
    agent.assist("be brief")
    agent.assist("")
    await agent.turn("one")
    await agent.turn("two")
    assert got[0] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one"}]
    assert got[1][2:] == [{"role": "assistant", "content": "hi"}, {"role": "user", "content": "two"}]


async def test_the_library_reads_earlier_tool_calls() -> None:
    """Those of a conversation that another agent has begun, too."""
    chat = ChatContext(
        [
            ChatMessage("user", "look"),
            ChatMessage("assistant", "", (ToolCall("c1", "look", {"x": 1}),)),
            ChatMessage("tool", "found", tool_call_id="c1"),
        ]
    )
    got: list[Any] = []
    agent = LangChainAgent(
        RunnableLambda(lambda messages: got.extend(convert_to_messages(messages)) or "ok"), chat_ctx=chat
    )
    await agent.turn("and?")
    assert got == [
        HumanMessage("look"),
        AIMessage("", tool_calls=[CALL], additional_kwargs=got[1].additional_kwargs),
        ToolMessage("found", tool_call_id="c1"),
        HumanMessage("and?"),
    ]


async def test_a_models_answer_is_streamed_as_it_comes() -> None:
    agent = LangChainAgent(GenericFakeChatModel(messages=iter([AIMessage("hello dear world"), AIMessage("bye")])))
    chunks = await pieces(agent, "hi")
    assert [chunk.text for chunk in chunks] == ["hello", " ", "dear", " ", "world", ""]
    assert chunks[-1] == StreamChunk(done=True, turn=TurnResult("hello dear world"))
    assert await agent.turn("now") == TurnResult("bye")
    assert [m.content for m in agent.chat_ctx.items] == ["hi", "hello dear world", "now", "bye"]


async def test_tool_calls_are_in_the_reply_and_not_left_open_in_the_conversation() -> None:
    """Nobody answers them there, and models refuse a conversation in which a call has no result."""
    agent = LangChainAgent(GenericFakeChatModel(messages=iter([AIMessage("I look.", tool_calls=[CALL])])))
    assert await agent.turn("hi") == TurnResult("I look.", [ToolCall("c1", "look", {"x": 1})])
    assert agent.chat_ctx.items == [ChatMessage("user", "hi"), ChatMessage("assistant", "I look.")]


async def test_streamed_tool_calls_are_put_together() -> None:
    async def stream(_: Any) -> AsyncIterator[AIMessageChunk]:
        for name, arguments in (("look", '{"x"'), (None, ": 1}")):
            yield AIMessageChunk(
                "", tool_call_chunks=[{"id": "c1" if name else None, "name": name, "args": arguments, "index": 0}]
            )

    (chunk,) = await pieces(LangChainAgent(RunnableGenerator(stream)), "hi")
    assert chunk.turn == TurnResult("", [ToolCall("c1", "look", {"x": 1})])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("streamed", [True, False])
async def test_an_agent_that_ran_its_tools_itself_leaves_them_in_the_conversation(whole: bool, streamed: bool) -> None:
    new = [AIMessage("", tool_calls=[CALL]), ToolMessage("found", tool_call_id="c1"), AIMessage("It is found.")]

    async def run(messages: Any) -> Any:
        return {"messages": [*convert_to_messages(messages), *new]} if whole else new

    agent = LangChainAgent(RunnableLambda(run))
    result = (await pieces(agent, "hi"))[-1].turn if streamed else await agent.turn("hi")
    assert result == TurnResult("It is found.", [ToolCall("c1", "look", {"x": 1})])
    assert [m.role for m in agent.chat_ctx.items] == ["user", "assistant", "tool", "assistant"]


async def test_an_output_key_is_an_answer_and_nonsense_is_none() -> None:
    assert await LangChainAgent(RunnableLambda(lambda _: {"output": "hi"})).turn("x") == TurnResult("hi")
    for nonsense in (42, {"answer": "hi"}, [], ["text"]):
        agent = LangChainAgent(RunnableLambda(lambda _, nonsense=nonsense: nonsense))
        with pytest.raises(AgentResultError, match="return text, or LangChain's messages"):
            await agent.turn("x")


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_model_that_fails_half_way_leaves_the_conversation(streamed: bool) -> None:
    agent = LangChainAgent(FakeListChatModel(responses=["abc"], error_on_chunk_number=1))
    if streamed:
        with pytest.raises(FakeListChatModelError):
            await pieces(agent, "hi")
        assert agent.chat_ctx.items == []

    async def broken(_: Any) -> AsyncIterator[str]:
        yield "half"
        raise TimeoutError("model")

    agent = LangChainAgent(RunnableGenerator(broken))
    with pytest.raises(TimeoutError, match="model"):
        await (pieces(agent, "hi") if streamed else agent.turn("hi"))
    assert agent.chat_ctx.items == []
