"""A brain answers in a session as it does alone, in its own library's way of going on from turn to turn."""

from __future__ import annotations

from typing import Any

from agents import RunConfig, Runner
from langchain_core.messages import HumanMessage
from langgraph.types import Command

from sdqueue.agents import as_agent_factory
from tests.agents.brains import bots

TEXTS = ["hello", "weather Oslo", "order", "two", "yes", "sales", "weather Rome", "bye"]


async def in_session(brain: Any) -> list[str]:
    agent = as_agent_factory(brain)()
    return [(await agent.turn(text)).text for text in TEXTS]


async def test_a_graph_with_a_checkpointer_answers_as_alone() -> None:
    """Alone it keeps its thread in memory, and is resumed with plain answers."""
    config: Any = {"configurable": {"thread_id": "alone"}}
    alone = []
    asked = False
    for text in TEXTS:
        todo: Any = Command(resume=text) if asked else {"messages": [HumanMessage(text)]}
        state = await bots.remembering.ainvoke(todo, config)
        asked = "__interrupt__" in state
        alone.append(state["__interrupt__"][0].value if asked else state["messages"][-1].text)

    alone = [said if isinstance(said, str) else '{"sure":"two"}' for said in alone]
    assert await in_session(bots.remembering) == alone


async def test_a_graph_without_a_checkpointer_answers_as_alone() -> None:
    alone: list[str] = []
    messages: list[Any] = []
    for text in TEXTS:
        messages = (await bots.graph.ainvoke({"messages": [*messages, HumanMessage(text)]}))["messages"]
        alone.append(messages[-1].text)

    assert await in_session(bots.graph) == alone


async def test_an_agent_of_pydantic_ai_answers_as_alone() -> None:
    alone = []
    history: Any = None
    for text in TEXTS:
        result = await bots.pydantic.run(text, message_history=history)
        history = result.all_messages()
        alone.append(result.output)

    assert await in_session(bots.pydantic) == alone


async def test_an_agent_of_the_agents_sdk_answers_as_alone() -> None:
    """Its handoffs too: who was handed a conversation keeps it."""
    alone = []
    items: Any = []
    agent = bots.openai_agent
    for text in TEXTS:
        result = await Runner.run(
            agent, [*items, {"role": "user", "content": text}], run_config=RunConfig(tracing_disabled=True)
        )
        items, agent = result.to_input_list(), result.last_agent
        alone.append(result.final_output)

    assert await in_session(bots.openai_agent) == alone
