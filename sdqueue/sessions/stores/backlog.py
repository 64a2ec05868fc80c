"""The TurnBacklog protocol: turns that wait in the store, behind a full mailbox or behind a dead turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol, runtime_checkable

from sdqueue.sessions.ring import Retention, TurnOutcome

REFUSALS: Final = 2_000
"""So many refusals of a session are kept: what a broker may have handed out at once, and may hand out again."""


@dataclass(frozen=True)
class Deferred:
    """A turn that waits in its session's backlog.

    Parameters:
        turn_id: names the turn; a backlog has it once.
        body: the message as its consumer wrote it; a store does not look into it.
        position: where it stands, given by the store: later turns have larger ones, and none is given twice.
    """

    turn_id: str
    body: bytes
    position: int = 0


class Kept(IntEnum):
    """What has become of a turn that was to wait; true where it waits now."""

    LEFT_OUT = 0  # there is no room, or it was refused before
    ADDED = 1
    THERE = 2  # it waited already, and stays what it is


@dataclass(frozen=True)
class Standing:
    """What a store knows of a session and one of its turns beside the record.

    Parameters:
        waiting: how many turns wait in the backlog.
        refusal: how the turn was refused, where it was.
    """

    waiting: int = 0
    refusal: TurnOutcome | None = None


@runtime_checkable
class TurnBacklog(Protocol):
    """What a store offers besides, so that turns can be acknowledged before they have run.

    None of it needs the session's lock, and none of it changes the record. A store without it works, but then a
    session that floods holds its turns in the broker, and cannot be parked. Every backlog passes
    ``sdqueue.testing.TurnBacklogSuite``.

    All methods raise StoreUnavailable where the store cannot be reached; whether what they do was done is then not
    known, and all may be repeated.
    """

    async def defer(self, session_id: str, turns: Sequence[Deferred], *, limit: int) -> list[Kept]:
        """Append turns in the order given, in one step, and list the session; both are durable on return.

        Parameters:
            session_id: the session; it need not have a record.
            turns: those that are in the backlog already stay where and what they are.
            limit: so many may wait. Those in excess are left out, as are turns that were refused before.

        Returns:
            For each turn whether it is in the backlog now, and whether it was before.
        """
        ...

    async def deferred(self, session_id: str, *, after: int = 0, count: int) -> list[Deferred]:
        """The oldest turns that wait, in order.

        Parameters:
            session_id: the session.
            after: only those behind this position.
            count: so many at most.

        Raises:
            RecordError: what is stored cannot be read.
        """
        ...

    async def undefer(self, session_id: str, turn_ids: Sequence[str]) -> None:
        """Take turns out: they have been settled, or run elsewhere. Those that do not wait are ignored."""
        ...

    async def standing(self, session_id: str, turn_id: str) -> Standing:
        """How many turns wait, and whether this one was refused.

        Raises:
            RecordError: what is stored cannot be read.
        """
        ...

    async def refuse(self, session_id: str, outcome: TurnOutcome, *, retention: Retention) -> TurnOutcome | None:
        """Keep the outcome of a turn that is refused without having run, so that its repeats get the same reply.

        It is kept beside the record and its ring, as nobody need have the session's lock: the last
        :data:`REFUSALS` of a session, for at least ``retention.ids_s`` seconds.

        Returns:
            How the turn was refused: the first outcome of a turn wins. ``None``, with nothing kept, where it is no
            turn to be refused: the record knows how it ended, it waits in the backlog, or it was begun without an end
            (where the store is a :class:`~sdqueue.sessions.TurnCounter`). Somebody may be running it, and has looked
            for a refusal before: it would get two answers.

        Raises:
            RecordError: the outcome cannot be written as JSON, or what is stored cannot be read.
        """
        ...

    async def backlogged(self) -> dict[str, str]:
        """The sessions listed as having a backlog, each with the mark of its last listing.

        An index for whoever takes work over. No session whose turns wait is missing, unless it was taken off; some
        may have an empty backlog by now.
        """
        ...

    async def enlist(self, session_id: str) -> None:
        """List a session, with a new mark: its backlog is to be looked at (again)."""
        ...

    async def unlist(self, session_id: str, mark: str) -> None:
        """Take a session off the list, unless it was listed anew since this mark was read.

        Read the mark first, then find the backlog empty (or, under the session's lock, the session parked), then
        call this: whatever is appended or released in between lists the session with another mark, and it stays.
        """
        ...
