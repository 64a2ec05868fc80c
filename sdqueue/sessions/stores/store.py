"""The SessionStore protocol: where sessions live between turns."""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

from sdqueue.sessions.record import SessionRecord, Stored

STARTED: Final = 1 << 20
"""What a beginning weighs in :meth:`TurnCounter.begin` that :meth:`StartCounter.rewind_started` has taken back."""


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
        """Store the record where the store still has ``record.stored.revision`` (``0``: no record), all or nothing.

        What is written is ``record.successor()``. On success the record is marked as stored with that, so it has the
        next version, and the beginnings of the turns whose outcomes it brings (``record.turns.fresh``) are forgotten.
        On any error the record is left as it was.

        Raises:
            VersionConflict: somebody else has saved or deleted it since, even where the version is the same again;
                nothing was changed.
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

    A store without it works, but every beginning then counts as the first: a turn that kills its process is run again
    with every redelivery.
    """

    async def begin(self, session_id: str, turn_id: str) -> int:
        """Count a beginning of this turn, durable against the death of the process. Returns how many there were."""
        ...

    async def rewind(self, session_id: str, turn_id: str) -> None:
        """Take one beginning back: the turn was given up by a live process and did no harm."""
        ...


@runtime_checkable
class StartCounter(TurnCounter, Protocol):
    """What a store that counts beginnings offers besides, so that no two starts of an agent have the same number.

    A store without it works, but an agent that is started again in another process may be told a number that an
    earlier start had, where that ended in an orderly way: by a shutdown, or by a failed save.
    """

    async def rewind_started(self, session_id: str, turn_id: str) -> None:
        """Take one beginning back whose agent had started: it weighs :data:`STARTED` in what ``begin`` returns from
        now on, until the turn has its outcome. One that does not exist is not taken back."""
        ...


def beginnings(count: int) -> tuple[int, int]:
    """What :meth:`TurnCounter.begin` has returned, as two numbers: how often the turn was begun without an end, this
    time included, and the number of this start of its agent, greater than that of every earlier one."""
    begun = count % STARTED
    return begun, count // STARTED + begun


@runtime_checkable
class RevisionCheck(Protocol):
    """What a store offers besides that can say much faster than it loads whether what the caller has is current.

    A store without it works; a session that is in memory is then read again for every use, to be compared.
    """

    async def is_current(self, session_id: str, known: Stored) -> bool:
        """Whether the store still has this very state; never for a state of an earlier life, nor for none.

        Raises:
            StoreUnavailable: it cannot be reached.
        """
        ...
