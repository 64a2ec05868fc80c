"""Messages of a conversation as PydanticAI's, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from sdqueue.agents.chat import ChatMessage, ToolCall
from sdqueue.agents.extras import extra
from sdqueue.agents.history import arguments_of

with extra("pydantic-ai"):
    from pydantic_ai.messages import (
        ModelMessage,
        ModelRequest,
        ModelResponse,
        RetryFeedbackPart,
        SystemPromptPart,
        TextPart,
        ToolCallPart,
        ToolReturnPart,
        UserPromptPart,
    )


def to_pydantic_ai(messages: Iterable[ChatMessage]) -> list[ModelMessage]:
    """A conversation as PydanticAI's message history: what lies between two answers is one request."""
    found: list[ModelMessage] = []
    names: dict[str | None, str] = {}
    for is_answer, group in groupby(messages, key=lambda message: message.role == "assistant"):
        if is_answer:
            answers = list(group)
            found += [_response(message) for message in answers]
            names.update({call.id: call.name for message in answers for call in message.tool_calls})
        else:
            found.append(ModelRequest(parts=[_request_part(message, names) for message in group]))
    return found


def from_pydantic_ai(messages: Iterable[ModelMessage]) -> Iterator[ChatMessage]:
    """PydanticAI's messages as ours, with the text of what they say; files and reasoning are no part of it."""
    for message in messages:
        if isinstance(message, ModelResponse):
            calls = [ToolCall(c.tool_call_id, c.tool_name, arguments_of(c.args)) for c in message.tool_calls]
            yield ChatMessage("assistant", message.text or "", tuple(calls))
            continue
        for part in message.parts:
            match part:
                case SystemPromptPart():
                    yield ChatMessage("system", part.content)
                case UserPromptPart():
                    said = [part.content] if isinstance(part.content, str) else part.content
                    yield ChatMessage("user", "\n\n".join(piece for piece in said if isinstance(piece, str)))
                case ToolReturnPart():
                    yield ChatMessage("tool", part.model_response_str(), tool_call_id=part.tool_call_id)
                case RetryFeedbackPart():
                    yield ChatMessage("user", part.model_response())


def _response(message: ChatMessage) -> ModelResponse:
    calls = [ToolCallPart(call.name, call.arguments, tool_call_id=call.id) for call in message.tool_calls]
    return ModelResponse(parts=[*([TextPart(message.content)] if message.content else []), *calls])


def _request_part(
    message: ChatMessage, names: dict[str | None, str]
) -> SystemPromptPart | UserPromptPart | ToolReturnPart:
    match message.role:
        case "system":
            return SystemPromptPart(message.content)
        case "tool":
            called = message.tool_call_id
            return ToolReturnPart(names.get(called, "tool"), message.content, tool_call_id=called or "")
        case _:
            return UserPromptPart(message.content)
