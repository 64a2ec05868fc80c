"""HistoryAgent: what the adapters of other libraries share, a conversation that is whole after every turn."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic_core import to_json

from sdqueue.agents.agent import StreamChunk, TurnResult
from sdqueue.agents.chat import ChatContext, ChatMessage


@dataclass(frozen=True)
class Answer:
    """How a turn ended.

    Parameters:
        text: what is replied.
        new: what the turn adds to the conversation, from what the user said on.
        kept: the messages before that; ``None``: all. An agent that shortens its history names those that are left.
        metadata: for the reply.
    """

    text: str
    new: list[ChatMessage]
    kept: list[ChatMessage] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class HistoryAgent:
    """Keeps the conversation and lets a library answer.

    The conversation changes in one step, when the answer is whole: a turn that fails, is cancelled or is not listened
    to leaves it as it was.

    Parameters:
        chat_ctx: a conversation to go on from.
    """

    def __init__(self, chat_ctx: ChatContext | None = None) -> None:
        self._chat = ChatContext() if chat_ctx is None else chat_ctx

    @property
    def chat_ctx(self) -> ChatContext:
        """The conversation so far."""
        return self._chat

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        """Go on from this conversation."""
        self._chat = ctx

    def assist(self, text: str) -> None:
        """Add a system message, which the next answer takes into account; an empty one is ignored."""
        if text:
            self._chat.append(ChatMessage("system", text))

    async def turn(self, text: str, *, stream: bool = False) -> TurnResult | AsyncIterator[StreamChunk]:
        """Answer one message; with ``stream`` in pieces, as the library brings them."""
        pieces = self._pieces(text, stream=stream)
        if stream:
            return pieces
        result = None
        async with aclosing(pieces):
            async for chunk in pieces:
                result = chunk.turn
        assert result is not None, "the last piece carries the turn"
        return result

    def _answer(self, text: str, *, stream: bool) -> AsyncGenerator[str | Answer, None]:
        """Yield the pieces of the answer, where they are asked for, and at last the answer."""
        raise NotImplementedError

    async def _pieces(self, text: str, *, stream: bool) -> AsyncGenerator[StreamChunk, None]:
        answer = None
        async with aclosing(self._answer(text, stream=stream)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Answer):
                    answer = piece
                elif piece:
                    yield StreamChunk(piece)
        assert answer is not None, "an answer comes last"
        items = self._chat.items
        items[:] = [*(items if answer.kept is None else answer.kept), *_paired(answer.new)]
        calls = [call for message in answer.new for call in message.tool_calls]
        yield StreamChunk(done=True, turn=TurnResult(answer.text, calls, answer.metadata))


def _paired(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Without calls that have no result: they are for the client, and models refuse a conversation with them."""
    answered = {message.tool_call_id for message in messages}
    found = []
    for message in messages:
        calls = tuple(call for call in message.tool_calls if call.id in answered)
        if calls or message.content or message.role != "assistant":
            found.append(message if calls == message.tool_calls else replace(message, tool_calls=calls))
    return found


def arguments_of(text: Any) -> dict[str, Any]:
    """The arguments of a tool call, which models write as JSON; what is no JSON object is kept under ``arguments``."""
    if isinstance(text, dict):
        return text
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = text
    return found if isinstance(found, dict) else {"arguments": found}


def as_text(value: Any) -> str:
    """An output, a tool's result or a question, for the conversation: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else to_json(value, fallback=str).decode()
