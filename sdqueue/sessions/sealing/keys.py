"""The SessionKeys protocol: where the wrapped keys of sessions live; and one in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class SessionKeys(Protocol):
    """Keeps one small entry a session, apart from the records.

    All methods raise StoreUnavailable where it cannot be reached; a swap may then have been done or not.
    """

    async def get(self, session_id: str) -> bytes | None:
        """The session's entry."""
        ...

    async def swap(self, session_id: str, expected: bytes | None, entry: bytes) -> bytes | None:
        """Keep an entry where the session still has the one expected, in one step and durably.

        Parameters:
            session_id: the session.
            expected: the entry to replace; ``None``: where there is none.
            entry: the new one.

        Returns:
            What the session has now: ``entry`` where that was done.
        """
        ...

    def sessions(self) -> AsyncIterator[str]:
        """All sessions with an entry; those that get one meanwhile may be missing, and some may have none any more."""
        ...

    async def aclose(self) -> None:
        """End the connections. Idempotent."""
        ...


class MemorySessionKeys:
    """Keys that end with the process, as the sessions of an ``InMemorySessionStore`` do."""

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}

    async def get(self, session_id: str) -> bytes | None:
        """See :meth:`SessionKeys.get`."""
        return self._entries.get(session_id)

    async def swap(self, session_id: str, expected: bytes | None, entry: bytes) -> bytes | None:
        """See :meth:`SessionKeys.swap`."""
        if self._entries.get(session_id) == expected:
            self._entries[session_id] = entry
        return self._entries.get(session_id)

    async def sessions(self) -> AsyncIterator[str]:
        """See :meth:`SessionKeys.sessions`."""
        for session_id in list(self._entries):
            yield session_id

    async def aclose(self) -> None:
        """Nothing to end."""
