"""The built-in agent with a think time and a journal, so that the demo can see what it is doing, and interrupt it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from sdqueue.agents import MemoAgent, TurnResult, current_turn

THINK_S = 0.7

KILLED_S = 600.0
"""Seconds that the turn ``DEMO_VICTIM`` takes at its first try: whoever runs it is killed in the middle of it."""


class ThoughtfulAgent(MemoAgent):
    """Thinks a while before it answers, and writes down when it began and when it was done.

    Parameters:
        journal: the file to write to, one line an event: ``started`` or ``ended``, the turn's id, the process.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__()
        self._journal = journal

    async def turn(self, text: str, *, stream: bool = False) -> TurnResult:
        """Answer one message."""
        context = current_turn()
        assert context is not None
        doomed = context.turn_id == os.environ.get("DEMO_VICTIM") and not self._has("started", context.turn_id)
        self._write("started", context.turn_id)
        await asyncio.sleep(KILLED_S if doomed else THINK_S)
        result = await super().turn(text)
        self._write("ended", context.turn_id)
        assert isinstance(result, TurnResult)
        return result

    def _has(self, event: str, turn_id: str) -> bool:
        lines = self._journal.read_text(encoding="utf-8").splitlines() if self._journal.exists() else []
        return any(line.split()[:2] == [event, turn_id] for line in lines)

    def _write(self, event: str, turn_id: str) -> None:
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(f"{event} {turn_id} {os.getpid()}\n")


def make_agent() -> ThoughtfulAgent:
    """What a consumer calls for each session that it takes up."""
    return ThoughtfulAgent(Path(os.environ["DEMO_JOURNAL"]))
