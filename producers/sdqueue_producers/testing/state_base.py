"""StateBase: what the suites of a state share, its hooks and two openings of one state."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar, Final
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from sdqueue_producers.state import Parked, ProducerState

TEXTS = ["", "0", "007", "1.0", "1e5", "null", "é 🤖", "\x00", "\ud800", '{"a": [1, "\\"]}', "x" * 100_000]
"""Values that some store or other has changed on the way."""

SETTINGS: Final = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def reply(key: str, *, due_at: float = 0.0, body: str = "{}", attempts: int = 1, first_at: float = 1.5) -> Parked:
    """A reply that waits."""
    return Parked(key, body, attempts, due_at, first_at)


class StateBase:
    """The hooks of :class:`~sdqueue_producers.testing.StateSuite`."""

    patience_s: ClassVar[float] = 30.0
    """Seconds in which every test must be through."""

    async def second_state(self, state: ProducerState) -> ProducerState:
        """Another object for the same state, as another process has it; whoever makes it closes it.

        Default: the state itself, where it lives in the object.
        """
        return state

    async def elapse(self, seconds: float) -> None:
        """Let time pass on the state's clock."""
        await asyncio.sleep(seconds)

    @pytest.fixture
    def channel(self) -> str:
        """A channel that nobody else has."""
        return f"suite-{uuid4().hex}"


class Stopwatch:
    """Seconds since it was made, on the machine's clock: how far a state's clock may have come while a test was busy.

    A process may be kept waiting between any two calls, so a test that wants to see something before its time is over
    must know whether it was.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """So many."""
        return time.monotonic() - self._began


class Pair:
    """Two objects for a state, as two processes have it, for a block."""

    def __init__(self, suite: StateBase, state: ProducerState) -> None:
        self._suite = suite
        self._states = (state, state)
        self._timeout = asyncio.timeout(suite.patience_s)

    async def __aenter__(self) -> tuple[ProducerState, ProducerState]:
        await self._timeout.__aenter__()
        self._states = self._states[0], await self._suite.second_state(self._states[0])
        return self._states

    async def __aexit__(self, *error: Any) -> None:
        if self._states[1] is not self._states[0]:
            await self._states[1].aclose()
        await self._timeout.__aexit__(*error)
