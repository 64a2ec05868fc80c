"""Presence: how many connections this process and each session hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sdqueue_producers.webchat.problem import Problem


class Presence:
    """Counts connections and refuses those over the limits.

    Parameters:
        most: of the process.
        most_of_session: of one session.
    """

    def __init__(self, most: int, most_of_session: int) -> None:
        self._most = most
        self._most_of_session = most_of_session
        self._most_waiting = max(1, most // 2)
        self._count = 0
        self._waiting = 0
        self._sessions: Counter[str] = Counter()

    @contextmanager
    def connection(self) -> Iterator[None]:
        """A connection, of whomever.

        Raises:
            Problem: there are too many.
        """
        if self._count >= self._most:
            raise Problem(503, "full", "this server holds as many connections as it may; try again", retry_after_s=5)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A connection that has not said yet whose it is.

        Half of all places is for these: strangers who hold connections open and say nothing leave the other half to
        visitors, whose clients come by the event stream where no WebSocket is to be had.

        Raises:
            Problem: there are too many.
        """
        if self._waiting >= self._most_waiting:
            raise Problem(503, "full", "too many connections have said no hello; try again", retry_after_s=5)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    @contextmanager
    def of(self, session_id: str) -> Iterator[None]:
        """A connection of a session.

        Raises:
            Problem: it has too many.
        """
        if self._sessions[session_id] >= self._most_of_session:
            raise Problem(429, "too-many", "this session is connected too often; close other windows", retry_after_s=30)
        self._sessions[session_id] += 1
        try:
            yield
        finally:
            self._sessions[session_id] -= 1
            if not self._sessions[session_id]:
                del self._sessions[session_id]
