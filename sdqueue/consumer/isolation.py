"""Isolation: a turn that may have killed its process runs alone in one that may die."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from sdqueue.agents import ChatContext, FlowState, TurnResult, as_turn_result
from sdqueue.consumer.failure import AgentFailed, IsolatedAgentError, Poisonous
from sdqueue.consumer.work import Work
from sdqueue.errors import TurnTimeout
from sdqueue.sessions import SessionHandle, SessionRecord
from sdqueue.sessions.codec import decode, encode

AT_ONCE: Final = 8
"""Child processes at a time. A crash makes suspects of all turns that ran beside the poison, and each child costs an
interpreter with the agent's imports; most of its life it waits for a model."""

START_S = 20.0
"""Seconds on top of the turn's own for Python to start and the agent to be imported."""

_ASKED_TO_END: Final = (-signal.SIGTERM, -signal.SIGINT)


class Isolation:
    """Runs agents in child processes, each for one turn.

    The child gets the saved record and gives back the new one; it touches no store, no lock and no broker, so its
    death harms nothing. The parent goes on with the new state as if its own agent had answered.

    Parameters:
        agent: the agent's name for :func:`~sdqueue.agents.load_agent_factory`; ``None`` where it has none.
    """

    def __init__(self, agent: str | None) -> None:
        self._agent = agent
        self._places = asyncio.Semaphore(AT_ONCE)

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
            "agent": self._agent,
            "record": encode(handle.record),
            "session_id": work.session_id,
            "turn_id": work.turn_id,
            "attempt": work.attempts,
            "text": work.turn.text,
            "timeout": timeout,
        }
        async with self._places:
            answer = await self._ask_child(request, timeout, handle.begun)
        match answer:
            case {"timeout": True}:
                raise AgentFailed(_late(timeout))
            case {"error": error, "reason": reason, "transient": transient, "retry_after_s": retry_after_s}:
                raise AgentFailed(IsolatedAgentError(error, reason=reason, transient=transient), retry_after_s)
        handle.adopt(_Settled(decode(answer["record"])))
        return as_turn_result(answer["result"])

    async def _ask_child(self, request: dict[str, Any], timeout: float, begun: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="sdqueue-turn-") as folder:
            result = Path(folder) / "answer.json"
            # In a group of its own: Ctrl-C in a terminal is for the consumer, and must not look like the turn's doing.
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sdqueue.consumer.isolated", str(result)),
                stdin=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            late = False
            try:
                async with asyncio.timeout(timeout + START_S):
                    await child.communicate(json.dumps(request).encode())
            except TimeoutError:
                late = True
            finally:
                if child.returncode is None:
                    child.kill()
                    await child.wait()
            if result.is_file():
                answer: dict[str, Any] = json.loads(result.read_text())
                return answer
            if late:
                raise AgentFailed(_late(timeout))
            assert child.returncode is not None
            if child.returncode in _ASKED_TO_END:
                ended = f"its process was told to end ({_end(child.returncode)}) before it had answered"
                raise AgentFailed(IsolatedAgentError(ended, transient=True))
            raise AgentFailed(
                Poisonous(f"killed its process {begun} times, the last time alone: {_end(child.returncode)}")
            )


def _late(timeout: float) -> TurnTimeout:
    return TurnTimeout(f"no answer within {timeout:.1f} s, alone in a process of its own")


def _end(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class _Settled:
    """An agent that has answered elsewhere: its state, to be saved."""

    def __init__(self, record: SessionRecord) -> None:
        self.chat_ctx: ChatContext = record.chat_ctx
        self.flow_state: FlowState | None = record.flow_state
        self._state = record.agent_state

    def dump_state(self) -> Any:
        return self._state
