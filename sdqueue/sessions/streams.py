"""TurnStream: an answer in pieces, kept whole whatever the listener does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from sdqueue.agents import ChatMessage, StreamChunk, as_turn_result
from sdqueue.errors import SessionClosed


class TurnStream:
    """Iterates over an agent's answer.

    An agent that cannot stream gives one piece. A listener that stops early (barge-in) leaves what was said until
    then in the conversation; one that goes on after the block gets :class:`~sdqueue.errors.SessionClosed`, since
    what comes then could not be saved.

    Parameters:
        result: what the agent's ``turn`` returned.
        agent: the agent, whose conversation is completed after a barge-in.
        text: what was asked.
        heard: how many messages the conversation had before.
    """

    def __init__(self, result: Any, agent: Any, text: str, heard: int) -> None:
        self._pieces: AsyncIterator[Any] = aiter(result) if hasattr(result, "__aiter__") else _single(result)
        self._agent = agent
        self._text = text
        self._heard = heard
        self._said: list[str] = []
        self._exhausted = False
        self._done = False
        self.closed = False

    def __aiter__(self) -> TurnStream:
        return self

    async def __anext__(self) -> StreamChunk:
        if self.closed:
            raise SessionClosed("the stream was read after its acquire block ended; consume it inside the block")
        try:
            chunk: StreamChunk = await anext(self._pieces)
        except StopAsyncIteration:
            self._exhausted = True
            raise
        self._said.append(chunk.text or "")
        self._done = self._done or bool(chunk.done)
        return chunk

    async def finish(self) -> None:
        """Leave the conversation whole: read to the end what is done, break off what is not, and keep what was said."""
        if self._exhausted:
            return
        self._exhausted = True
        if self._done:
            async for _ in self._pieces:
                pass
            return
        await self.abort()
        context = self._agent.chat_ctx.copy()
        new = context.items[self._heard :]
        if not any(m.role == "user" for m in new):
            context.items.append(ChatMessage("user", self._text))
        if not any(m.role == "assistant" for m in new):
            context.items.append(ChatMessage("assistant", "".join(self._said)))
        if len(context.items) > self._heard + len(new):
            self._agent.load_chat_ctx(context)

    async def abort(self) -> None:
        """Break off, keeping nothing."""
        self._exhausted = True
        if isinstance(self._pieces, AsyncGenerator):
            await self._pieces.aclose()


async def _single(result: Any) -> AsyncIterator[StreamChunk]:
    turn = as_turn_result(result)
    yield StreamChunk(turn.text, done=True, turn=turn)
