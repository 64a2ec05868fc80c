"""One conversationalist in every library, as a module of a user's would hold it: the library's own objects.

Whatever the library, the model behind it does the same. ``weather CITY`` makes it call a tool; anything else it answers
with the number of messages that it sees and a sum over all of them, so that an answer differs where anything of the
conversation does.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, TypedDict

import aiosqlite
from agents import Agent as OpenAIAgent
from agents import function_tool
from agents.testing import ModelCall, ModelStep, ScriptedModel, assistant_message, function_call
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from sdqueue.agents import current_turn
from sdqueue.agents.langgraph import LangGraphAgent

limbo = asyncio.Semaphore(0)
"""Released by every tool that waits for ever, where ``BRAINS_LIMBO`` is set."""


def answer(seen: list[Any]) -> str:
    """What the model says to all that it sees."""
    sum_ = zlib.crc32(json.dumps(seen).encode())
    return f"{len(seen)} messages, {sum_:08x}"


async def forecast(city: str) -> str:
    """The weather in a city, and for which turn it was asked."""
    if city == "Nowhere":
        raise ConnectionError("no such place")
    if city == "Limbo" and os.environ.get("BRAINS_LIMBO"):
        print("in limbo", flush=True)
        limbo.release()
        await asyncio.Event().wait()
    turn = current_turn()
    return f"sun in {city} [{turn.turn_id if turn else 'no turn'}]"


# LangChain and LangGraph


class Model(BaseChatModel):
    """A chat model of LangChain's."""

    @property
    def _llm_type(self) -> str:
        return "conversationalist"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: Any = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._say(messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: Any = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> Iterator[ChatGenerationChunk]:
        said = self._say(messages)
        for piece in re.findall(r"\S+\s*", said.content) if isinstance(said.content, str) else []:
            yield ChatGenerationChunk(message=AIMessageChunk(piece))
        if said.tool_calls:
            (call,) = said.tool_calls
            chunk = {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"], "index": 0}
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[chunk]))

    def _say(self, messages: list[BaseMessage]) -> AIMessage:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            return AIMessage(f"It is {last.text}.")
        if isinstance(last, HumanMessage) and last.text.startswith("weather "):
            arguments = {"city": last.text.removeprefix("weather ")}
            return AIMessage("", tool_calls=[{"id": f"call-{len(messages)}", "name": "weather", "args": arguments}])
        return AIMessage(answer([[m.type, str(m.text), str(getattr(m, "tool_calls", ""))] for m in messages]))


model = Model()
chain = ChatPromptTemplate([("system", "Be kind."), MessagesPlaceholder("history")]) | model | StrOutputParser()


@tool
async def weather(city: str) -> str:
    """The weather in a city."""
    return await forecast(city)


class State(TypedDict):
    messages: Annotated[list[BaseMessage], add_messages]
    visits: int


def count(state: State) -> dict[str, Any]:
    """More than the messages: lost wherever only those are kept."""
    return {"visits": state.get("visits", 0) + 1}


def talk(state: State) -> dict[str, Any]:
    return {"messages": [model.invoke(state["messages"])]}


def order(state: State) -> dict[str, Any]:
    """Asks twice, in one node."""
    if state["messages"][-1].text != "order":
        return {}
    many = interrupt("How many?")
    sure = interrupt({"sure": many})
    return {"messages": [AIMessage(f"visit {state.get('visits')}: {many}, {sure}")]}


def _route(state: State) -> str:
    return "order" if state["messages"][-1].text == "order" else "talk"


def _talking() -> StateGraph[Any]:
    graph = StateGraph(State)
    graph.add_node("talk", talk)
    graph.add_node("tools", ToolNode([weather]))
    graph.add_edge(START, "talk")
    graph.add_conditional_edges("talk", tools_condition)
    graph.add_edge("tools", "talk")
    return graph


def _asking() -> StateGraph[Any]:
    inner = StateGraph(State)
    inner.add_node("order", order)
    inner.add_edge(START, "order")
    graph = StateGraph(State)
    graph.add_node("count", count)
    graph.add_node("order", inner.compile())
    graph.add_node("talk", _talking().compile())
    graph.add_edge(START, "count")
    graph.add_conditional_edges("count", _route, ["order", "talk"])
    return graph


graph = _talking().compile()
remembering = _asking().compile(checkpointer=InMemorySaver())


connections: dict[str, aiosqlite.Connection] = {}
"""Opened by :func:`stored`; whoever goes on after its loop closes them."""


def stored() -> LangGraphAgent:
    """A graph whose checkpoints are in a database, made within the loop that serves it."""
    path = os.environ["BRAINS_DB"]
    if path not in connections:
        connections[path] = aiosqlite.connect(path)
    return LangGraphAgent(_asking().compile(checkpointer=AsyncSqliteSaver(connections[path])))


# PydanticAI


def _native(messages: list[ModelMessage]) -> list[Any]:
    kinds = ("system-prompt", "user-prompt", "tool-return", "text", "tool-call")
    parts = [part for message in messages for part in message.parts if part.part_kind in kinds]
    return [[p.part_kind, getattr(p, "content", None) or str(getattr(p, "args", None))] for p in parts]


def _reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    last = messages[-1].parts[-1]
    if isinstance(last, ToolReturnPart):
        return ModelResponse(parts=[TextPart(f"It is {last.content}.")])
    text = str(getattr(last, "content", ""))
    if text.startswith("weather "):
        call = ToolCallPart("weather", {"city": text.removeprefix("weather ")}, tool_call_id=f"call-{len(messages)}")
        return ModelResponse(parts=[call])
    return ModelResponse(parts=[TextPart(answer(_native(messages)))])


async def _reply_in_pieces(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, Any]]:
    for part in _reply(messages, info).parts:
        if isinstance(part, ToolCallPart):
            yield {0: DeltaToolCall(part.tool_name, json.dumps(part.args), tool_call_id=part.tool_call_id)}
        elif isinstance(part, TextPart):
            for piece in re.findall(r"\S+\s*", part.content):
                yield piece


pydantic: PydanticAgent[None, str] = PydanticAgent(
    FunctionModel(_reply, stream_function=_reply_in_pieces), system_prompt="Be kind."
)
pydantic.tool_plain(forecast, name="weather")


# The OpenAI Agents SDK


def _items(call: ModelCall) -> list[Any]:
    found = []
    for item in call.input:
        said = item.get("content") or item.get("arguments") or item.get("output")
        found.append([item.get("role"), said if isinstance(said, str) else said[0]["text"]])
    return [call.system_instructions, *found]


def scripted(script: Any) -> ScriptedModel:
    """The SDK's model for tests, with one answer for every call."""
    model = ScriptedModel()

    def respond(call: ModelCall) -> Any:
        model.enqueue(ModelStep.respond(respond))
        return script(call)

    model.enqueue(ModelStep.respond(respond))
    return model


def _respond(call: ModelCall) -> list[Any]:
    last = call.input[-1]
    if last.get("type") == "function_call_output" and last["output"].startswith("sun"):
        return [assistant_message(f"It is {last['output']}.")]
    text = str(last.get("content", ""))
    if text.startswith("weather "):
        arguments = {"city": text.removeprefix("weather ")}
        return [function_call("weather", arguments, call_id=f"call-{len(call.input)}")]
    if text == "sales" and call.handoffs:
        return [function_call(call.handoffs[0].tool_name, {}, call_id=f"call-{len(call.input)}")]
    return [assistant_message(answer(_items(call)))]


_weather = function_tool(forecast, name_override="weather", failure_error_function=None)
sales = OpenAIAgent(name="sales", instructions="Sell.", model=scripted(_respond), tools=[_weather])
openai_agent = OpenAIAgent(
    name="desk",
    instructions="Be kind.",
    model=scripted(_respond),
    tools=[_weather],
    handoffs=[sales],
)

BRAINS = {
    "langchain": model,
    "chain": chain,
    "langgraph": graph,
    "remembering": remembering,
    "stored": stored,
    "pydantic-ai": pydantic,
    "openai-agents": openai_agent,
}

CALLING = sorted({*BRAINS} - {"langchain", "chain"})
"""Those that run tools themselves."""
