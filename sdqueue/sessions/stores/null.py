"""NullSessionStore: sessions that end when they are released."""

from __future__ import annotations

from sdqueue.sessions.record import SessionRecord


class NullSessionStore:
    """Remembers nothing: for voice calls and whatever else must leave no trace.

    Every load finds a new session and every save succeeds, so neither repeated turns nor turns that kill
    their process can be recognised.
    """

    async def load(self, session_id: str) -> SessionRecord | None:
        """Always ``None``."""
        return None

    async def save(self, session_id: str, record: SessionRecord) -> None:
        """Accept the record, give it its next version and forget it."""
        if isinstance(record, SessionRecord):
            record.mark_stored(record.successor().stored)

    async def delete(self, session_id: str) -> None:
        """Nothing to forget."""

    async def begin(self, session_id: str, turn_id: str) -> int:
        """Every beginning is the first."""
        return 1

    async def rewind(self, session_id: str, turn_id: str) -> None:
        """Nothing was counted."""

    async def aclose(self) -> None:
        """Nothing to close."""
