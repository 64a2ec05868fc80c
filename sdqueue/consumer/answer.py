"""Running an agent so that whatever it does harms its own turn only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sdqueue.agents import StreamChunk, TurnContext, TurnResult, as_turn_result, set_current_turn
from sdqueue.consumer.failure import AgentFailed, AgentGaveUp
from sdqueue.consumer.retry import retry_after
from sdqueue.consumer.work import Work
from sdqueue.errors import TurnTimeout
from sdqueue.sessions import SessionHandle

STOP_WITHIN_S = 2.0
"""How long a cancelled agent may take to clean up before it is abandoned."""


class AgentRunner:
    """Lets agents answer, each in a task of its own.

    The task is what keeps an agent that cancels itself, exits or swallows its cancellation from taking the turn's
    own task, or the process, with it.

    Parameters:
        on_stuck: told of an agent that ignores its cancellation; it goes on by itself and its result is dropped.
    """

    def __init__(self, on_stuck: Callable[[Work], None]) -> None:
        self._on_stuck = on_stuck
        self._abandoned: set[asyncio.Task[TurnResult]] = set()

    async def run(
        self, handle: SessionHandle, work: Work, *, timeout: float, on_chunk: Callable[[str], None] | None
    ) -> TurnResult:
        """Let the session's agent answer the turn.

        Parameters:
            handle: the session.
            work: the turn.
            timeout: seconds.
            on_chunk: takes the pieces of a streamed answer; ``None``: do not stream.

        Raises:
            AgentFailed: whatever the agent raised, or TurnTimeout as its cause.
            Stopped: a later turn stopped this one.
        """
        answer = asyncio.create_task(
            _answer(handle, work, on_chunk), name=f"turn {work.turn_id} of session {work.session_id}"
        )
        stopped = asyncio.create_task(work.wait_stopped())
        try:
            await asyncio.wait({answer, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            if not answer.done():
                await self._end(answer, work)
        if answer.done() and not answer.cancelled():
            return answer.result()
        work.check_stopped()
        if answer.done() and not answer.cancelling():
            raise AgentFailed(AgentGaveUp("the agent cancelled its own task; return an answer or raise an error"))
        raise AgentFailed(
            TurnTimeout(
                f"no answer within {timeout:.1f} s; raise SDQUEUE_TURN_TIMEOUT_S, or look why the agent takes so long"
            )
        )

    async def _end(self, answer: asyncio.Task[TurnResult], work: Work) -> None:
        answer.cancel()
        _, stuck = await asyncio.wait({answer}, timeout=STOP_WITHIN_S)
        if stuck:
            self._abandoned.add(answer)
            answer.add_done_callback(self._abandoned.discard)
            answer.add_done_callback(_take_result)
            self._on_stuck(work)


def _take_result(task: asyncio.Task[TurnResult]) -> None:
    if not task.cancelled():
        task.exception()


async def _answer(handle: SessionHandle, work: Work, on_chunk: Callable[[str], None] | None) -> TurnResult:
    turn = work.turn
    assert turn is not None
    set_current_turn(TurnContext(work.turn_id, work.session_id, work.attempts))
    try:
        if on_chunk is None:
            return as_turn_result(await handle.turn(turn.text))
        said = []
        result = None
        async for chunk in await handle.turn(turn.text, stream=True):
            result = _last(chunk) or result
            if chunk.text:
                said.append(chunk.text)
                on_chunk(chunk.text)
        return result or TurnResult("".join(said))
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            ended = AgentGaveUp(f"the agent raised {type(error).__name__}; raise an ordinary error instead")
            raise AgentFailed(ended) from error
        raise AgentFailed(error, retry_after(error, now=time.time())) from error


def _last(chunk: StreamChunk) -> TurnResult | None:
    return as_turn_result(chunk.turn) if chunk.turn is not None else None
