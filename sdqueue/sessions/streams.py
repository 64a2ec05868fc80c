"""TurnStream: an answer in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sdqueue.agents import StreamChunk, as_turn_result
from sdqueue.errors import SessionClosed


class TurnStream:
    """Iterates over an agent's answer, and knows how far it was listened to.

    An agent that cannot stream gives one piece. A listener that goes on after the block, or after the next turn has
    begun, gets :class:`~sdqueue.errors.SessionClosed`, since what comes then could not be saved.

    Parameters:
        result: what the agent's ``turn`` returned.
        agent: the agent.
        text: what was asked.
    """

    def __init__(self, result: Any, agent: Any, text: str) -> None:
        self.agent = agent
        self.text = text
        self.notes: list[str] = []
        """What the agent is to be told when it has ended."""
        self.said: list[str] = []
        """The pieces that were listened to."""
        self.whole = False
        """Whether the agent has come to its end."""
        self.failed = False
        """Whether the agent has raised."""
        self._pieces: AsyncIterator[Any] = aiter(result) if hasattr(result, "__aiter__") else _single(result)
        self._done = False
        self._closed = False

    def __aiter__(self) -> TurnStream:
        return self

    async def __anext__(self) -> StreamChunk:
        if self.whole:
            raise StopAsyncIteration
        if self._closed:
            raise SessionClosed(
                "the stream was read after its turn had ended; consume it inside the acquire block, before the next "
                "turn of the session"
            )
        chunk: StreamChunk = await self._next()
        self.said.append(chunk.text or "")
        self._done = self._done or bool(chunk.done)
        return chunk

    async def finish(self) -> None:
        """End it: read to the end what is done, and break off what is not."""
        if self._closed or not self._done:
            await self.break_off()
            return
        self._closed = True
        # Agents complete their history after the last piece, when a listener may have turned away.
        while not self.whole:
            try:
                await self._next()
            except StopAsyncIteration:
                return

    async def break_off(self) -> None:
        """End it where it is."""
        if self._closed:
            return
        self._closed = True
        close = getattr(self._pieces, "aclose", None)
        if not self.whole and close is not None:
            await close()

    async def _next(self) -> Any:
        cancelled = times_cancelled()
        try:
            piece = await anext(self._pieces)
            check_cancelled(cancelled)
        except StopAsyncIteration:
            self.whole = True
            raise
        except asyncio.CancelledError:
            raise  # it is the listener that was stopped
        except BaseException:
            self.failed = True
            raise
        return piece


def times_cancelled() -> int:
    """How many requests to cancel the current task has had that nobody has taken back."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def check_cancelled(before: int) -> None:
    """Raise CancelledError where the task was cancelled since, and the agent has swallowed that.

    Parameters:
        before: what :func:`times_cancelled` said then.
    """
    if times_cancelled() > before:
        raise asyncio.CancelledError


async def _single(result: Any) -> AsyncIterator[StreamChunk]:
    turn = as_turn_result(result)
    yield StreamChunk(turn.text, done=True, turn=turn)
