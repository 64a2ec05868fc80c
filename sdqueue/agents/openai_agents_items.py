"""Messages of a conversation as input items of the OpenAI Agents SDK, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sdqueue.agents.chat import ChatMessage, ToolCall
from sdqueue.agents.history import arguments_of, as_text


def to_items(messages: Iterable[ChatMessage]) -> list[dict[str, Any]]:
    """A conversation as input items, in which a call is an item of its own."""
    items: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "tool":
            items.append({"type": "function_call_output", "call_id": message.tool_call_id, "output": message.content})
            continue
        if message.content or not message.tool_calls:
            items.append({"role": message.role, "content": message.content})
        for call in message.tool_calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False, separators=(",", ":"))  # as models write them
            items.append({"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments})
    return items


def from_items(items: Iterable[Any]) -> list[ChatMessage]:
    """Input items as messages; calls belong to the message before them. Reasoning and hosted tools are left out."""
    found: list[ChatMessage] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "message":
            found.append(ChatMessage(item.get("role", "assistant"), _text(item["content"])))
        elif kind == "function_call_output":
            found.append(ChatMessage("tool", _text(item["output"]), tool_call_id=item["call_id"]))
        elif kind == "function_call":
            if not found or found[-1].role != "assistant":
                found.append(ChatMessage("assistant", ""))
            call = ToolCall(item["call_id"], item["name"], arguments_of(item["arguments"]))
            found[-1] = replace(found[-1], tool_calls=(*found[-1].tool_calls, call))
    return found


def _text(content: Any) -> str:
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(part.get("text") or part.get("refusal") or "" for part in content)
    return as_text(content)
