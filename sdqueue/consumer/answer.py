"""Running an agent so that whatever it does harms its own turn only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sdqueue.agents import StreamChunk, TurnContext, TurnResult, as_turn_result, set_current_turn
from sdqueue.consumer.failure import AgentFailed, AgentGaveUp, Stopped
from sdqueue.consumer.retry import retry_after
from sdqueue.consumer.work import Work
from sdqueue.errors import SessionError, TurnTimeout
from sdqueue.sessions import SessionHandle

STOP_WITHIN_S = 2.0
"""How long a cancelled agent may take to clean up before it is abandoned."""


Made = TypeVar("Made")


class AgentRunner:
    """Lets agents answer, each in a task of its own.

    The task is what keeps an agent that cancels itself, exits or swallows its cancellation from taking the turn's
    own task, or the process, with it.

    Parameters:
        on_stuck: told of an agent that ignores its cancellation; it goes on by itself and its result is dropped.
    """

    def __init__(self, on_stuck: Callable[[Work], None]) -> None:
        self._on_stuck = on_stuck
        self._abandoned: set[asyncio.Task[Any]] = set()

    async def run(self, work: Work, answer: Coroutine[Any, Any, Made], *, timeout: float | None) -> Made:
        """Let an answer be made, or whatever else the agent's side has to do for it.

        Parameters:
            work: the turn.
            answer: makes it, see :func:`ask` for the answer.
            timeout: seconds; ``None`` where it keeps its own time.

        Raises:
            AgentFailed: whatever the agent raised, or TurnTimeout as its cause.
            Stopped: a later turn stopped this one.
        """
        task = asyncio.create_task(answer, name=f"turn {work.turn_id} of session {work.session_id}")
        task.add_done_callback(_take_result)
        either: set[asyncio.Future[Any]] = {task, work.stopping()}
        try:
            done, _ = await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                await self._end(task, work)
        if task in done:
            if task.cancelled():
                raise AgentFailed(AgentGaveUp("the agent cancelled its own task; return an answer or raise an error"))
            return task.result()
        # Whatever an agent makes of its cancellation, an answer or another error, comes too late.
        work.check_stopped()
        raise AgentFailed(
            TurnTimeout(
                f"no answer within {timeout:.1f} s; raise SDQUEUE_TURN_TIMEOUT_S, or look why the agent takes so long"
            )
        )

    async def _end(self, task: asyncio.Task[Any], work: Work) -> None:
        task.cancel()
        _, stuck = await asyncio.wait({task}, timeout=STOP_WITHIN_S)
        if stuck:
            self._abandoned.add(task)
            task.add_done_callback(self._abandoned.discard)
            self._on_stuck(work)


async def ask(handle: SessionHandle, work: Work, on_chunk: Callable[[str], None] | None) -> TurnResult:
    """Let the session's agent answer the turn, in a task of its own.

    Parameters:
        handle: the session.
        work: the turn.
        on_chunk: takes the pieces of a streamed answer; ``None``: do not stream.

    Raises:
        AgentFailed: whatever the agent raised.
    """
    set_current_turn(
        TurnContext(work.answering.turn_id, work.session_id, work.answering.attempt, work.answering.metadata)
    )
    try:
        if on_chunk is None:
            return as_turn_result(await handle.turn(work.text))
        return await in_pieces(await handle.turn(work.text, stream=True), on_chunk)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise _failed(error) from error


async def in_pieces(chunks: AsyncIterator[StreamChunk], on_chunk: Callable[[str], None]) -> TurnResult:
    """Listen to an agent's answer to its end.

    Parameters:
        chunks: what the agent says.
        on_chunk: takes each piece.

    Returns:
        The result that the agent gave at the end, else all that it has said.
    """
    said = []
    result = None
    async for chunk in chunks:
        result = _last(chunk) or result
        if chunk.text:
            said.append(chunk.text)
            on_chunk(chunk.text)
    return result or TurnResult("".join(said))


@contextmanager
def agents_code() -> Iterator[None]:
    """Turn what agents raise inside the turn's own task into :class:`AgentFailed`.

    Their factory, their loading and their dumping run there, while the session is taken up and saved.
    """
    try:
        yield
    except (SessionError, Stopped, AgentFailed):
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # somebody asked for it: the consumer stops
        raise AgentFailed(AgentGaveUp("the agent raised CancelledError; raise an ordinary error instead")) from error
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise _failed(error) from error


def _failed(error: BaseException) -> AgentFailed:
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return AgentFailed(AgentGaveUp(f"the agent raised {type(error).__name__}; raise an ordinary error instead"))
    return AgentFailed(error, retry_after(error, now=time.time()))


def _last(chunk: StreamChunk) -> TurnResult | None:
    return as_turn_result(chunk.turn) if chunk.turn is not None else None


def _take_result(task: asyncio.Task[Any]) -> None:
    # An answer that comes too late fails nobody, and asyncio need not complain that nobody looked.
    if not task.cancelled():
        task.exception()
