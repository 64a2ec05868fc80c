"""Isolation: a turn that may have killed its process runs alone in one that may die."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sdqueue.agents import ChatContext, FlowState, TurnResult, as_turn_result
from sdqueue.consumer.child import Child, ChildEnded, ChildNotStarted, end_of
from sdqueue.consumer.children import Children
from sdqueue.consumer.failure import AgentFailed, IsolatedAgentError, Poisonous
from sdqueue.consumer.work import Work
from sdqueue.errors import TurnTimeout
from sdqueue.sessions import SessionHandle, SessionRecord
from sdqueue.sessions.codec import decode, encode

STUCK_S: Final = 5.0
"""Seconds that a child may be late after the turn's own time, by which it ends the turn itself."""

Again = Callable[[], Awaitable[None]]
OnSaid = Callable[[str], None]

_ASKED_TO_END: Final = (-signal.SIGTERM, -signal.SIGINT)


class Isolation:
    """Runs agents in child processes: one turn at a time in each, one after the other.

    The child gets the saved record and gives back the new one; it touches no store, no lock and no broker, so its
    death harms nothing. The parent goes on with the new state as if its own agent had answered.

    **Only the death of a child that has run nothing else condemns a turn.** In any other one, something that an
    earlier turn has left behind may have been the cause, so the turn is run again in a fresh one.

    Parameters:
        agent: the agent's name for :func:`~sdqueue.agents.load_agents`; ``None`` where it has none.
    """

    def __init__(self, agent: str | None) -> None:
        self._children = None if agent is None else Children(agent)

    async def run(
        self, handle: SessionHandle, work: Work, *, timeout: float, again: Again, on_said: OnSaid | None = None
    ) -> TurnResult:
        """Let an agent answer in a process of its own, and go on with its state.

        Parameters:
            handle: the session.
            work: the turn.
            timeout: seconds.
            again: called before each start of the agent but the first; it counts them.
            on_said: takes the pieces of a streamed answer; ``None``: do not stream.

        Raises:
            AgentFailed: the agent raised, took too long, or killed the process (``Poisonous`` as its cause).
        """
        if self._children is None:
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
            # None of a new session: it begins with what the agent that is built there has to begin with.
            "record": encode(handle.record) if handle.record.stored.version else None,
            "init": {"metadata": handle.session.metadata, "channel": work.turn.channel},
            "session_id": work.session_id,
            "turn_id": work.turn_id,
            "metadata": work.metadata,
            "text": work.turn.text,
            "stream": on_said is not None,
            "timeout": timeout,
        }
        handle.started = True
        answer = await self._ask(self._children, request, work, handle.begun, again, on_said)
        match answer:
            case {"timeout": True}:
                raise AgentFailed(_late(timeout))
            case {"error": error, "trace": trace, "reason": reason, "transient": transient, "retry_after_s": seconds}:
                failure = IsolatedAgentError(error, reason=reason, transient=transient, trace=trace)
                raise AgentFailed(failure, seconds)
        handle.adopt(_Settled(decode(answer["record"])))
        return as_turn_result(answer["result"])

    async def aclose(self) -> None:
        """Let all children go."""
        if self._children is not None:
            await self._children.aclose()

    async def _ask(
        self,
        children: Children,
        request: dict[str, Any],
        work: Work,
        begun: int,
        again: Again,
        on_said: OnSaid | None,
    ) -> dict[str, Any]:
        timeout = request["timeout"]
        fresh = killed = False
        for number in itertools.count():
            child = await _taken(children, work, fresh=fresh)
            fresh = not child.used
            try:
                if number:
                    await again()
                asked = json.dumps(request | {"attempt": work.attempt})
                return await child.ask(asked, timeout=timeout + STUCK_S, on_said=on_said)
            except ChildEnded as ended:
                code = ended.code
            finally:
                children.give_back(child)
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
        raise AssertionError  # it counts without an end


async def _taken(children: Children, work: Work, *, fresh: bool) -> Child:
    started = time.monotonic()
    try:
        return await children.take(fresh=fresh)
    except ChildNotStarted as error:
        # No proof against the turn, which has not run. It is tried again, as after other passing failures.
        what = f"the agent could not even be started in a process of its own: {error}"
        raise AgentFailed(IsolatedAgentError(what, transient=True)) from error
    finally:
        work.seconds_left += time.monotonic() - started  # not the agent's time, as waiting for a lock is not


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
