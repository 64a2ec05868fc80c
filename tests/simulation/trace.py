"""Trace: all that happens in a world, in order."""

from __future__ import annotations

import hashlib

from tests.simulation.loop import VirtualLoop


class Trace:
    """Lines of time, who, and what. Two runs of a seed have the same, to the last digit."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._begun = loop.time()
        self._entries: list[tuple[float, str, str]] = []

    def note(self, who: str, what: str) -> None:
        """Write down what somebody did just now."""
        self._entries.append((self._loop.time(), who, what))

    def lines(self) -> list[str]:
        """For reading, with the seconds since the beginning."""
        return [f"{at - self._begun:12.6f}  {who:<8} {what}" for at, who, what in self._entries]

    def digest(self) -> str:
        """A short name of all of it."""
        return hashlib.sha256(repr(self._entries).encode()).hexdigest()[:16]
