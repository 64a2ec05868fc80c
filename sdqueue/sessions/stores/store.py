"""The SessionStore protocol: where sessions live between turns."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from sdqueue.sessions.record import SessionRecord


@runtime_checkable
class SessionStore(Protocol):
    """Keeps one :class:`~sdqueue.SessionRecord` a session.

    Every store passes ``sdqueue.testing.SessionStoreSuite``; yours should too. A store defines neither ``__len__``
    nor ``__bool__``: an empty one is still a store.
    """

    async def load(self, session_id: str) -> SessionRecord | None:
        """The session's record, independent of what is stored and marked as stored; ``None`` for a new session.

        Raises:
            StoreUnavailable: it cannot be reached.
            RecordError: what is stored cannot be read.
        """
        ...

    async def save(self, session_id: str, record: SessionRecord) -> None:
        """Store the record where the store still has ``record.stored.version`` (0: no record), all or nothing.

        On success the record gets the next version and is marked as stored, and the beginnings of the turns whose
        outcomes it brings (``record.turns.fresh``) are forgotten. On any error the record is left as it was.

        Raises:
            VersionConflict: somebody else has saved since; nothing was changed.
            StoreUnavailable: it cannot be reached; whether it was saved is not known.
            RecordError: the record cannot be written as JSON; nothing was changed.
        """
        ...

    async def delete(self, session_id: str) -> None:
        """Forget the session with all that belongs to it; nothing happens where there is none."""
        ...


@runtime_checkable
class TurnCounter(Protocol):
    """What a store offers besides, so that a turn that kills its process can be told from its neighbours.

    A store without it works; poison turns are then recognised only as long as the process lives.
    """

    async def begin(self, session_id: str, turn_id: str) -> int:
        """Count a beginning of this turn, durable against the death of the process. Returns how many there were."""
        ...

    async def rewind(self, session_id: str, turn_id: str) -> None:
        """Take one beginning back: the turn was given up by a live process and did no harm."""
        ...
