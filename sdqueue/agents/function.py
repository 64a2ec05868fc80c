"""FunctionAgent: an async function ``(text, history)`` as an agent."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from sdqueue.agents.agent import StreamChunk, TurnResult, as_turn_result
from sdqueue.agents.chat import ChatContext, ChatMessage


class FunctionAgent:
    """Keeps the history and asks a function for each answer.

    Parameters:
        function: ``async def f(text, history)``, where history is the list of earlier
            :class:`~sdqueue.ChatMessage` objects, oldest first, without ``text``. It returns the answer; an async
            generator yields it in pieces, which become deltas of a streamed reply.
    """

    def __init__(self, function: Callable[[str, list[ChatMessage]], Any]) -> None:
        self._function = function
        self._chat = ChatContext()

    @property
    def chat_ctx(self) -> ChatContext:
        """The conversation so far."""
        return self._chat

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        """Go on from this conversation."""
        self._chat = ctx

    def assist(self, text: str) -> None:
        """Add a system message, which the function finds in the history."""
        self._chat.append(ChatMessage("system", text))

    async def turn(self, text: str, *, stream: bool = False) -> TurnResult | AsyncIterator[StreamChunk]:
        """Answer one message."""
        pieces = self._pieces(text)
        if stream:
            return pieces
        result = None
        async for chunk in pieces:  # to its end: a generator left half-way is cleaned up by nobody in particular
            result = chunk.turn
        assert result is not None, "the last piece carries the turn"
        return result

    async def _pieces(self, text: str) -> AsyncIterator[StreamChunk]:
        answer: Any = self._function(text, list(self._chat.items))
        if inspect.isasyncgen(answer):
            said: list[str] = []
            async with aclosing(answer):
                async for piece in answer:
                    said.append(str(piece))
                    yield StreamChunk(said[-1])
            result = TurnResult("".join(said))
        else:
            result = as_turn_result(await answer)
        self._chat.append(ChatMessage("user", text))
        self._chat.append(ChatMessage("assistant", result.text))
        yield StreamChunk(done=True, turn=result)
