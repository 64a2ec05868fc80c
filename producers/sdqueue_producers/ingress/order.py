"""The order in which turns are published: that in which their requests had been read, within a session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, takewhile
from typing import Final

LONGEST_WAIT_S: Final = 0.5
"""Seconds that a request waits for earlier ones whose turns are not known yet. Platforms give about 3 s for it all."""


class Arrivals:
    """Requests that have been read to their end, and whose turns are being found out.

    Which session a request is of is known only when the channel has looked at it, which may take longer for an earlier
    request than for a later one of the same session.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._pending: dict[int, asyncio.Event] = {}

    @contextmanager
    def arrived(self) -> Iterator[Arrival]:
        """The place of a request among the others, for as long as its turns are not in their sessions' queues."""
        number = next(self._numbers)
        known = self._pending[number] = asyncio.Event()
        try:
            yield Arrival(number, self._pending)
        finally:
            del self._pending[number]
            known.set()


class Arrival:
    """A request's place."""

    def __init__(self, number: int, pending: dict[int, asyncio.Event]) -> None:
        self._number = number
        self._pending = pending

    async def first(self) -> None:
        """Wait until all that came earlier are past this, or have had :data:`LONGEST_WAIT_S` for it."""
        earlier = [self._pending[n] for n in takewhile(lambda n: n < self._number, self._pending)]
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                for known in earlier:
                    await known.wait()
        except TimeoutError:
            return  # a slow neighbour must not cost the others the platform's deadline


class SessionQueues:
    """Who publishes turns of a session next: one at a time, first come, first served."""

    def __init__(self) -> None:
        self._last: dict[str, Place] = {}

    def join(self, sessions: Sequence[str]) -> Place:
        """Stand in the queues of some sessions, in all of them at once, so that no two can wait for each other."""
        place = Place(self._last, frozenset(sessions))
        self._last |= dict.fromkeys(place.sessions, place)
        return place

    def __bool__(self) -> bool:
        return bool(self._last)


class Place:
    """A place in the queues of some sessions; it must be left, however it ends."""

    def __init__(self, last: dict[str, Place], sessions: frozenset[str]) -> None:
        self.sessions = sessions
        self._last = last
        self._before = {last[session] for session in sessions if session in last}
        self._behind: list[Place] = []
        self._reached = asyncio.Event()
        self._left = False
        for place in self._before:
            place._behind.append(self)
        self._look()

    async def reached(self) -> None:
        """Wait until everybody who came before has left."""
        await self._reached.wait()

    def leave(self) -> None:
        """Let the next ones on; where others still are before, as soon as these have left. Idempotent."""
        self._left = True
        self._look()

    def _look(self) -> None:
        if self._before:
            return
        self._reached.set()
        if not self._left:
            return
        for session in self.sessions:
            if self._last.get(session) is self:
                del self._last[session]
        behind, self._behind = self._behind, []
        for place in behind:
            place._before.discard(self)
            place._look()
