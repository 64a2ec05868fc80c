"""LangChainAgent: any LangChain runnable as an agent."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from sdqueue.agents.chat import ChatContext, ChatMessage
from sdqueue.agents.extras import extra
from sdqueue.agents.history import Answer, HistoryAgent
from sdqueue.agents.langchain_messages import from_langchain
from sdqueue.errors import AgentResultError

with extra("langchain"):
    from langchain_core.messages import AIMessage, BaseMessage, BaseMessageChunk, HumanMessage
    from langchain_core.runnables import AddableDict


class LangChainAgent(HistoryAgent):
    """Gives a runnable the conversation, and takes its answer from what comes out.

    Made as superdialog's agent of this name, with the same input for the runnable, but it streams by ``astream``
    and carries tool calls.

    Parameters:
        runnable: gets the messages as a list of dicts in OpenAI's form (``role``, ``content``, and for tools
            ``tool_calls`` and ``tool_call_id``), which models and message placeholders take as they are; a function of
            your own calls LangChain's ``convert_to_messages`` for objects. It returns text, a message, a list of
            messages, or a dict with ``messages`` or ``output``.
        chat_ctx: a conversation to go on from.
    """

    def __init__(self, runnable: Any, *, chat_ctx: ChatContext | None = None) -> None:
        super().__init__(chat_ctx)
        self._runnable = runnable

    async def _answer(self, text: str, *, stream: bool) -> AsyncGenerator[str | Answer, None]:
        said = ChatMessage("user", text)
        messages = [_as_dict(message) for message in [*self._chat.items, said]]
        if stream:
            whole: Any = None
            async for piece in self._runnable.astream(messages):
                joins = isinstance(piece, (str, BaseMessageChunk, AddableDict)) and whole is not None
                whole = whole + piece if joins else piece
                if isinstance(piece, (str, AIMessage)):
                    yield piece if isinstance(piece, str) else str(piece.text)
        else:
            whole = await self._runnable.ainvoke(messages)
        found = _messages(whole)
        result = next((message.content for message in reversed(found) if message.role == "assistant"), "")
        yield Answer(result, [said, *found])


def _messages(output: Any) -> list[ChatMessage]:
    if isinstance(output, dict):
        output = output.get("messages", output.get("output"))
    if isinstance(output, str):
        return [ChatMessage("assistant", output)]
    found = output if isinstance(output, list) else [output]
    if not found or not all(isinstance(message, BaseMessage) for message in found):
        raise AgentResultError(f"the runnable returned {type(output).__name__}; return text, or LangChain's messages")
    last = max((i for i, message in enumerate(found) if isinstance(message, HumanMessage)), default=-1)
    return from_langchain(found[last + 1 :])


def _as_dict(message: ChatMessage) -> dict[str, Any]:
    line: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        called = [(c.id, {"name": c.name, "arguments": json.dumps(c.arguments)}) for c in message.tool_calls]
        line["tool_calls"] = [{"id": id_, "type": "function", "function": function} for id_, function in called]
    return line if message.tool_call_id is None else {**line, "tool_call_id": message.tool_call_id}
