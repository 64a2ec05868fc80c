"""Messages of a conversation as LangChain's, and back."""

from __future__ import annotations

from collections.abc import Iterable

from sdqueue.agents.chat import ChatMessage, ToolCall
from sdqueue.agents.extras import extra

with extra("langchain"):
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage


def to_langchain(message: ChatMessage, id: str | None = None) -> BaseMessage:  # noqa: A002 -- LangChain's name
    """A message as LangChain has it.

    Parameters:
        message: one of ours.
        id: by which it is recognised later.
    """
    match message.role:
        case "user":
            return HumanMessage(message.content, id=id)
        case "assistant":
            calls = [{"id": c.id, "name": c.name, "args": c.arguments, "type": "tool_call"} for c in message.tool_calls]
            return AIMessage(message.content, id=id, tool_calls=calls)
        case "tool":
            return ToolMessage(message.content, id=id, tool_call_id=message.tool_call_id or "")
        case _:
            return SystemMessage(message.content, id=id)


def from_langchain(messages: Iterable[BaseMessage]) -> list[ChatMessage]:
    """LangChain's messages as ours, with the text of what they say; pictures and reasoning are no part of it."""
    return [_from_langchain(message) for message in messages]


def _from_langchain(message: BaseMessage) -> ChatMessage:
    text = str(message.text)
    if isinstance(message, AIMessage):
        calls = tuple(ToolCall(c["id"] or "", c["name"], dict(c["args"])) for c in message.tool_calls)
        return ChatMessage("assistant", text, calls)
    if isinstance(message, ToolMessage):
        return ChatMessage("tool", text, tool_call_id=message.tool_call_id)
    return ChatMessage("user" if isinstance(message, HumanMessage) else "system", text)
