"""The Membership protocol, and the pool of one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from sdqueue.consumer.membership.epoch import Epoch


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a member says of itself.

    Parameters:
        subscribed: the queues that it is subscribed to.
        losses: how many subscriptions it has lost so far. One that was lost and is had again waits behind others at
            the broker, also where nobody has seen it missing.
        leaving: it is about to stop, and owns nothing any more; it serves what it is subscribed to until others do.
        holds: the change of the partitions for which it has let go of everything; see ``Epoch.by``.
    """

    subscribed: frozenset[str] = frozenset()
    losses: int = 0
    leaving: bool = False
    holds: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A member, as it was seen.

    Parameters:
        says: its announcement.
        heard: when its last sign of life became known here, by the clock of the event loop. A member that has died
            stays in the list for a while, but nothing more is heard of it.
    """

    says: Announcement
    heard: float


@dataclass(frozen=True, slots=True)
class Sighting:
    """The pool at one moment.

    Parameters:
        members: by id, this one among them.
        at: when, by the clock of the event loop.
        after_gap: the list may lack members that live: there was no sighting for long, or the place where members
            sign was emptied.
        epoch: what is said of the partitions, where anything is.
        problem: why nobody could be seen; ``members`` are those of the last sighting.
        listed_until: nobody takes this member for gone before, by the clock of the event loop.
    """

    members: Mapping[str, Seen] = field(default_factory=dict)
    at: float = 0.0
    after_gap: bool = False
    epoch: Epoch | None = None
    problem: str = ""
    listed_until: float = 0.0


class Membership(Protocol):
    """One consumer's membership of its pool, for the length of an ``async with`` block.

    Entering waits for nothing. The signs of life are given by whoever iterates over :meth:`sightings`.
    """

    member: str
    """The id of this member: its consumer's name and a random part, since restarted consumers are other members."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    def sightings(self) -> AsyncIterator[Sighting]:
        """Give signs of life, and look at the pool after each, until :meth:`leave`."""
        ...

    def announce(self, announcement: Announcement) -> None:
        """Say something of this member. What differs from before goes out at once."""
        ...

    def repartition(self, queues: Sequence[str]) -> None:
        """Announce these queues from now on; they begin with those that were known before, or those with these."""
        ...

    async def leave(self) -> None:
        """Be gone at once for all others. Bounded in time, raises nothing, and may be repeated."""
        ...


def member_id(name: str) -> str:
    """An id for a consumer of that name."""
    return f"{name}.{secrets.token_hex(4)}"


class Alone:
    """The membership of a consumer that knows of no others: it owns everything and waits for nothing.

    Several of them on one broker share the queues all the same, since the broker makes one subscription of each
    queue active. But that is by chance, and one that starts later gets nothing until another ends.

    Parameters:
        name: of the consumer.
    """

    def __init__(self, name: str = "consumer") -> None:
        self.member = member_id(name)
        self._left = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.leave()

    async def sightings(self) -> AsyncIterator[Sighting]:
        """A single one, of itself."""
        now = asyncio.get_running_loop().time()
        yield Sighting({self.member: Seen(Announcement(), now)}, at=now, listed_until=float("inf"))
        await self._left.wait()

    def announce(self, announcement: Announcement) -> None:
        """Nobody listens."""

    def repartition(self, queues: Sequence[str]) -> None:
        """Nobody listens."""

    async def leave(self) -> None:
        """See :class:`Membership`."""
        self._left.set()
