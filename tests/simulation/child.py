"""SimulatedChild: a process that a consumer starts for a suspect turn, in this world."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Callable
from typing import Any, Self

from sdqueue.agents import load_agent_factory
from sdqueue.consumer import isolated
from sdqueue.consumer.child import ChildEnded
from tests.simulation.loop import OWNER
from tests.simulation.process import Process

EXIT_CODE = 1
"""What a poisonous turn ends its process with."""


class SimulatedChild:
    """Stands in for :class:`sdqueue.consumer.child.Child`: the child's own code, in a process that dies alone.

    Parameters:
        process: it.
        agent: the name of the agent.
    """

    pid = 1

    def __init__(self, process: Process, agent: str) -> None:
        self.used = False
        self._process = process
        self._agent = load_agent_factory(agent)

    @classmethod
    async def start(cls, agent: str, *, timeout: float) -> Self:
        """A child of the process that calls this."""
        parent = OWNER.get()
        assert isinstance(parent, Process)
        process = parent.child(f"{parent.name} child")
        await asyncio.sleep(0.5)  # Python takes its time
        return cls(process, agent)

    @property
    def living(self) -> bool:
        """Whether it has not died."""
        return not self._process.dead

    async def ask(
        self, request: str, *, timeout: float, on_said: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Let it run a turn."""
        self.used = True
        parent = contextvars.copy_context()  # who hears it is another process than who says it

        def say(text: str) -> None:
            if on_said is not None:
                asyncio.get_running_loop().call_soon(on_said, text, context=parent)

        task = self._process.start(isolated.answer(self._agent, json.loads(request), say))
        try:
            await asyncio.wait({task, self._process.died}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._process.kill()
            raise
        if not task.done():
            code = EXIT_CODE if self._process.dead else None
            self._process.kill()
            raise ChildEnded(code)
        answer: dict[str, Any] = json.loads(task.result())
        return answer

    async def close(self) -> None:
        """Let it go."""
        self._process.kill()
