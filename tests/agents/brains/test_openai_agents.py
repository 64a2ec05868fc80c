"""OpenAIAgentsAgent: handoffs, outputs, approvals, and what leaves the process."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from agents import Agent, RunConfig, function_tool, handoff
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tracing import TracingProcessor, set_trace_processors
from pydantic import BaseModel

from sdqueue.agents import ChatMessage, ToolCall, TurnResult
from sdqueue.agents.openai_agents import OpenAIAgentsAgent
from sdqueue.errors import AgentResultError, RecordError


def desk(steps: list[Any], **options: Any) -> Agent[Any]:
    return Agent(name="desk", model=ScriptedModel(steps), **options)


def test_who_took_a_session_over_is_found_again_however_it_is_listed() -> None:
    """Behind two handoffs, one of them an object with options."""
    last = Agent(name="last")
    first = Agent(name="first", handoffs=[Agent(name="other"), handoff(Agent(name="middle", handoffs=[handoff(last)]))])
    middle = Agent(name="middle", handoffs=[last])
    first.handoffs[1] = handoff(middle)
    agent = OpenAIAgentsAgent(first)
    agent.load_state({"agent": "last"})
    assert agent.dump_state() == {"agent": "last"}
    agent.load_state({"agent": "first"})
    assert agent.dump_state() is None


def test_who_is_no_longer_there_is_named() -> None:
    agent = OpenAIAgentsAgent(Agent(name="desk", handoffs=[Agent(name="sales")]))
    with pytest.raises(RecordError, match=r"'gone' had taken this session over.*'desk' \(sales, desk\)"):
        agent.load_state({"agent": "gone"})


async def test_a_failed_turn_hands_nothing_over() -> None:
    sales: Agent[Any] = Agent(name="sales", model=ScriptedModel([ConnectionError("no model")]))
    agent = OpenAIAgentsAgent(desk([[function_call("transfer_to_sales", {}, call_id="c1")]], handoffs=[sales]))
    with pytest.raises(ConnectionError, match="no model"):
        await agent.turn("buy")
    assert agent.dump_state() is None
    assert agent.chat_ctx.items == []


async def test_an_output_of_a_type_is_json() -> None:
    class Order(BaseModel):
        size: int

    agent = OpenAIAgentsAgent(desk([[assistant_message('{"size": 3}')]], output_type=Order))
    assert await agent.turn("order") == TurnResult('{"size":3}')


async def test_calls_at_once_are_one_message_and_arguments_are_kept_as_they_can() -> None:
    @function_tool
    async def look(where: str) -> dict[str, Any]:
        """Look."""
        return {"found": where}

    calls = [function_call("look", {"where": "a"}, call_id="c1"), function_call("look", {"where": "ü"}, call_id="c2")]
    model = ScriptedModel(
        [[assistant_message("I look."), *calls], [assistant_message("done")], [assistant_message("!")]]
    )
    agent = OpenAIAgentsAgent(Agent(name="desk", model=model, tools=[look]))
    result = await agent.turn("hi")
    await agent.turn("and?")

    asked = (ToolCall("c1", "look", {"where": "a"}), ToolCall("c2", "look", {"where": "ü"}))
    assert result == TurnResult("done", list(asked))
    assert agent.chat_ctx.items[1] == ChatMessage("assistant", "I look.", asked)
    assert agent.chat_ctx.items[2].tool_call_id == "c1"
    # The model is sent the same calls again.
    last = model.last_call
    assert last is not None
    assert [item["arguments"] for item in last.input if item.get("type") == "function_call"] == [
        '{"where":"a"}',
        '{"where":"ü"}',
    ]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_tool_that_waits_for_approval_is_refused(stream: bool) -> None:
    @function_tool(needs_approval=True)
    def pay() -> str:
        """Pay."""
        raise AssertionError

    agent = OpenAIAgentsAgent(desk([[function_call("pay", {}, call_id="c1")]], tools=[pay]))

    async def run() -> Any:
        answer = await agent.turn("pay", stream=stream)
        return answer if isinstance(answer, TurnResult) else [chunk async for chunk in answer]

    with pytest.raises(AgentResultError, match="needs approval"):
        await run()
    assert agent.chat_ctx.items == []


class Traces(TracingProcessor):
    """Writes down the groups of the traces that it is given."""

    def __init__(self) -> None:
        self.groups: list[Any] = []

    def on_trace_start(self, trace: Any) -> None:
        self.groups.append(trace.export()["group_id"])

    def on_trace_end(self, trace: Any) -> None: ...

    def on_span_start(self, span: Any) -> None: ...

    def on_span_end(self, span: Any) -> None: ...

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...


async def test_nothing_is_traced_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces hold what users say, and go to OpenAI by default. Whoever wants them gives a run_config."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setattr(socket.socket, "connect", None)
    traces = Traces()
    set_trace_processors([traces])
    try:
        steps = [[assistant_message("hi")], [assistant_message("hi")]]
        await OpenAIAgentsAgent(desk(steps[:1])).turn("hi")
        assert traces.groups == []

        await OpenAIAgentsAgent(desk(steps[1:]), run_config=RunConfig(group_id="user-42")).turn("hi")
        assert traces.groups == ["user-42"]
    finally:
        set_trace_processors([])
