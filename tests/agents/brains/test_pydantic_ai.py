"""PydanticAIAgent: prompts, outputs, retries and options."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    ModelMessage,
    ModelResponse,
    ModelRetry,
    RunContext,
    TextPart,
    ToolCallPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from sdqueue.agents import ChatContext, ChatMessage, ToolCall, TurnResult
from sdqueue.agents.pydantic_ai import PydanticAIAgent
from sdqueue.agents.pydantic_ai_messages import from_pydantic_ai, to_pydantic_ai
from sdqueue.errors import AgentResultError

TALK = [
    ChatMessage("system", "Be kind."),
    ChatMessage("user", "look"),
    ChatMessage("assistant", "I look.", (ToolCall("c1", "look", {"x": 1}), ToolCall("c2", "look"))),
    ChatMessage("tool", "found", tool_call_id="c1"),
    ChatMessage("tool", "lost", tool_call_id="c2"),
    ChatMessage("assistant", "Found one."),
    ChatMessage("user", "bye"),
]


def test_a_conversation_comes_back_as_it_was() -> None:
    """What lies between two answers is one request, as PydanticAI has it."""
    native = to_pydantic_ai(TALK)
    assert [message.kind for message in native] == ["request", "response", "request", "response", "request"]
    assert list(from_pydantic_ai(native)) == TALK


async def test_the_agents_own_prompt_comes_first_whatever_was_noted_before() -> None:
    """PydanticAI leaves it out where there is a history, and a note would be one."""
    seen: list[list[Any]] = []

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.append([info.instructions, *((p.part_kind, getattr(p, "content", "")) for m in messages for p in m.parts)])
        return ModelResponse(parts=[TextPart("ok")])

    agent = PydanticAIAgent(Agent(FunctionModel(model), system_prompt="Be kind."), instructions="Say little.")
    agent.assist("The customer is a VIP.")
    await agent.turn("one")
    await agent.turn("two")

    assert seen[0] == ["The customer is a VIP.\n\nSay little.", ("system-prompt", "Be kind."), ("user-prompt", "one")]
    assert seen[1] == [
        "Say little.",
        *(("system-prompt", "The customer is a VIP."), ("system-prompt", "Be kind."), ("user-prompt", "one")),
        *(("text", "ok"), ("user-prompt", "two")),
    ]


async def test_what_was_said_before_the_first_answer_is_not_lost() -> None:
    """A listener had gone before a word was said."""
    agent = PydanticAIAgent(Agent(TestModel()), chat_ctx=ChatContext([ChatMessage("user", "hello?")]))
    await agent.turn("are you there?")
    assert agent.chat_ctx.items[0] == ChatMessage("user", "hello?\n\nare you there?")


async def test_an_output_of_a_type_is_json_and_dependencies_are_handed_on() -> None:
    class Order(BaseModel):
        size: int

    agent: Agent[str, Order] = Agent(TestModel(custom_output_args={"size": 3}), output_type=Order, deps_type=str)
    got = []

    @agent.tool
    def look(ctx: RunContext[str]) -> str:
        got.append(ctx.deps)
        return "found"

    result = await PydanticAIAgent(agent, deps="a database").turn("order")
    assert isinstance(result, TurnResult)
    assert (result.text, got) == ('{"size":3}', ["a database"])
    assert "look" in [call.name for call in result.tool_calls]


async def test_a_tool_that_asks_for_another_try_is_part_of_the_conversation() -> None:
    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) < 4:
            return ModelResponse(parts=[ToolCallPart("look", {"x": len(messages)}, tool_call_id=f"c{len(messages)}")])
        return ModelResponse(parts=[TextPart("done")])

    native = Agent(FunctionModel(model))

    @native.tool_plain
    def look(x: int) -> str:
        if x == 1:
            raise ModelRetry("another x")
        return "found"

    agent = PydanticAIAgent(native)
    await agent.turn("hi")
    assert [m.role for m in agent.chat_ctx.items] == ["user", *["assistant", "tool"] * 2, "assistant"]
    assert [m.tool_call_id for m in agent.chat_ctx.items if m.role == "tool"] == ["c1", "c3"]
    assert "another x" in agent.chat_ctx.items[2].content


async def test_a_tool_that_waits_for_approval_is_refused() -> None:
    native = Agent(TestModel(), output_type=[str, DeferredToolRequests])

    @native.tool_plain(requires_approval=True)
    def pay() -> str:
        raise AssertionError

    agent = PydanticAIAgent(native)
    with pytest.raises(AgentResultError, match="approved or run elsewhere"):
        await agent.turn("pay")
    assert agent.chat_ctx.items == []
