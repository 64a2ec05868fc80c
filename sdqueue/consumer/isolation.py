"""Isolation: a turn that may have killed its process runs alone in one that may die."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sdqueue.agents import ChatContext, FlowState, TurnResult, as_turn_result
from sdqueue.consumer.child import Child, ChildEnded, ChildNotStarted, end_of
from sdqueue.consumer.failure import AgentFailed, IsolatedAgentError, Poisonous
from sdqueue.consumer.work import Work
from sdqueue.errors import TurnTimeout
from sdqueue.sessions import SessionHandle, SessionRecord
from sdqueue.sessions.codec import decode, encode

AT_ONCE: Final = 16
"""Child processes at a time. A crash makes suspects of all turns that ran beside the poison, and each child costs an
interpreter with the agent's imports; most of its life it waits for a model."""

STARTING_AT_ONCE: Final = os.cpu_count() or 1
"""Children being started at a time: more of them would only wait for each other, and the first suspects with them."""

IDLE_S: Final = 10.0
"""Seconds without a turn after which a child is let go."""

START_S: Final = 30.0
"""Seconds for Python to start and the agent to be imported."""

STUCK_S: Final = 5.0
"""Seconds that a child may be late after the turn's own time, by which it ends the turn itself."""

_ASKED_TO_END: Final = (-signal.SIGTERM, -signal.SIGINT)


class Isolation:
    """Runs agents in child processes: one turn at a time in each, one after the other.

    The child gets the saved record and gives back the new one; it touches no store, no lock and no broker, so its
    death harms nothing. The parent goes on with the new state as if its own agent had answered.

    **Only the death of a child that has run nothing else condemns a turn.** In any other one, something that an
    earlier turn has left behind may have been the cause, so the turn is run again in a fresh one.

    Parameters:
        agent: the agent's name for :func:`~sdqueue.agents.load_agent_factory`; ``None`` where it has none.
    """

    def __init__(self, agent: str | None) -> None:
        self._agent = agent
        self._places = asyncio.Semaphore(AT_ONCE)
        self._starting = asyncio.Semaphore(STARTING_AT_ONCE)
        self._idle: dict[Child, asyncio.TimerHandle] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._open = True

    async def run(self, handle: SessionHandle, work: Work, *, timeout: float) -> TurnResult:
        """Let an agent answer in a process of its own, and go on with its state.

        Raises:
            AgentFailed: the agent raised, took too long, or killed the process (``Poisonous`` as its cause).
        """
        if self._agent is None:
            raise AgentFailed(
                Poisonous(
                    f"its process died {handle.begun - 1} times with this turn running, and the agent cannot be "
                    "loaded in another process to see whether it is the cause; give "
                    "ConsumerOptions(agent='package.module:factory')"
                )
            )
        assert work.turn is not None
        assert handle.record is not None
        request = {
            "record": encode(handle.record),
            "session_id": work.session_id,
            "turn_id": work.turn_id,
            "attempt": work.attempts,
            "text": work.turn.text,
            "timeout": timeout,
        }
        answer = await self._ask(json.dumps(request), work, timeout, handle.begun)
        match answer:
            case {"timeout": True}:
                raise AgentFailed(_late(timeout))
            case {"error": error, "reason": reason, "transient": transient, "retry_after_s": retry_after_s}:
                raise AgentFailed(IsolatedAgentError(error, reason=reason, transient=transient), retry_after_s)
        handle.adopt(_Settled(decode(answer["record"])))
        return as_turn_result(answer["result"])

    async def aclose(self) -> None:
        """Let all children go."""
        self._open = False
        while self._idle:
            self._dismiss(next(iter(self._idle)))
        await asyncio.gather(*self._leaving)

    async def _ask(self, request: str, work: Work, timeout: float, begun: int) -> dict[str, Any]:
        with _off_the_clock(work):
            await self._places.acquire()
        try:
            return await self._until_proven(request, work, timeout, begun)
        finally:
            self._places.release()

    async def _until_proven(self, request: str, work: Work, timeout: float, begun: int) -> dict[str, Any]:
        fresh = killed = False
        while True:
            with _off_the_clock(work):
                child = await self._child(fresh=fresh)
            fresh = not child.used
            try:
                answer = await child.ask(request, timeout=timeout + STUCK_S)
            except ChildEnded as ended:
                code = ended.code
            else:
                self._keep(child)
                return answer
            if not fresh:
                fresh = True
            elif code is None:
                raise AgentFailed(_late(timeout))
            elif code in _ASKED_TO_END:
                told = f"its process was told to end ({end_of(code)}) before it had answered"
                raise AgentFailed(IsolatedAgentError(told, transient=True))
            elif code == -signal.SIGKILL and not killed:
                killed = True  # the kernel, short of memory, may have taken it for another; hardly twice
            else:
                raise AgentFailed(Poisonous(f"killed its process {begun} times, the last time alone: {end_of(code)}"))

    async def _child(self, *, fresh: bool) -> Child:
        if not fresh and (child := self._take()):
            return child
        async with self._starting:
            if not fresh and (child := self._take()):
                return child  # another turn has ended meanwhile
            assert self._agent is not None
            try:
                return await Child.start(self._agent, timeout=START_S)
            except ChildNotStarted as error:
                # No proof against the turn, which has not run. It is tried again, as after other passing failures.
                what = f"the agent could not even be started in a process of its own: {error}"
                raise AgentFailed(IsolatedAgentError(what, transient=True)) from error

    def _take(self) -> Child | None:
        while self._idle:
            child, timer = self._idle.popitem()  # the last used, so that those not needed grow old
            timer.cancel()
            if child.living:
                return child
            self._let_go(child)
        return None

    def _keep(self, child: Child) -> None:
        if self._open:
            self._idle[child] = asyncio.get_running_loop().call_later(IDLE_S, self._dismiss, child)
        else:
            self._let_go(child)

    def _dismiss(self, child: Child) -> None:
        self._idle.pop(child).cancel()
        self._let_go(child)

    def _let_go(self, child: Child) -> None:
        leaving = asyncio.create_task(child.close(), name=f"child {child.pid} leaves")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)


@contextmanager
def _off_the_clock(work: Work) -> Iterator[None]:
    """Waiting for a child is not on the agent's time, as waiting for a lock is not."""
    started = time.monotonic()
    try:
        yield
    finally:
        work.seconds_left += time.monotonic() - started


def _late(timeout: float) -> TurnTimeout:
    return TurnTimeout(f"no answer within {timeout:.1f} s, alone in a process of its own")


class _Settled:
    """An agent that has answered elsewhere: its state, to be saved."""

    def __init__(self, record: SessionRecord) -> None:
        self.chat_ctx: ChatContext = record.chat_ctx
        self.flow_state: FlowState | None = record.flow_state
        self._state = record.agent_state

    def dump_state(self) -> Any:
        return self._state
