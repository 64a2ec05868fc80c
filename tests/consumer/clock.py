"""A clock that is given: seconds pass when everything waits for them, and never while something works."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest


class Clock:
    """Takes the place of a loop's clock, and of ``time.monotonic``, for a test in which nothing is waited for but what
    happens in its own loop: no process, no thread, no server.

    However slow the machine is, no deadline runs out while the code under test is at work; and a wait takes no time.

    Parameters:
        loop: asyncio's own.
        patch: gives everything back.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, patch: pytest.MonkeyPatch) -> None:
        self._now = time.monotonic()
        self._selector = loop._selector  # type: ignore[attr-defined]  # the place where a loop waits
        patch.setattr(loop, "_selector", self)
        patch.setattr(loop, "time", self.time)
        patch.setattr(time, "monotonic", self.time)

    def time(self) -> float:
        """The seconds that have passed."""
        return self._now

    def select(self, timeout: float | None = None) -> list[Any]:
        """What the loop asks when it has nothing to do: jump to its next timer."""
        if timeout is None:
            return self._selector.select(None)  # type: ignore[no-any-return]
        events: list[Any] = self._selector.select(0)
        if not events:
            self._now += max(timeout, 0.0)
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)
