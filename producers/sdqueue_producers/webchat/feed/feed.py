"""The Feed protocol: what a visitor sees, kept for a while, so that every process can show it, nothing left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, Self

from sdqueue_producers.webchat.feed.wakes import Wake

LARGEST_READ: Final = 100
"""Entries that one read returns at most."""

_PLACE: Final = re.compile(r"(\d{1,15})-(\d{1,15})")


class Mode(StrEnum):
    """How an entry meets another one of its slot."""

    ONCE = "once"  # the slot is done with it; whatever was growing there goes, and a later one changes nothing
    GROW = "grow"  # takes the place of what grows there; nothing changes in a slot that is done
    EDIT = "edit"  # takes the place of whatever is there, and the slot is done; the same text again changes nothing


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """How much of a session is kept.

    Parameters:
        entries: the latest so many; one that grows counts once.
        ttl_s: seconds that a session is kept after its last entry.
    """

    entries: int = 500
    ttl_s: float = 24 * 3600.0

    @property
    def slots(self) -> int:
        """So many slots that are done are remembered: more than entries, since repeats come late."""
        return 4 * self.entries


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where an entry stands: ``<epoch>-<number>``. A log that begins anew has a greater epoch.

    Parameters:
        epoch: when the log was begun, in milliseconds since 1970.
        number: counts its entries from 1.
    """

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read one that a client gives back; ``None`` where it is none of ours."""
        found = _PLACE.fullmatch(text)
        return None if found is None else cls(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that a visitor sees.

    Parameters:
        place: where it stands.
        slot: what it takes the place of; names a message for good.
        body: JSON text.
    """

    place: Place
    slot: str
    body: str


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry to be added.

    Parameters:
        slot, body: see :class:`Entry`.
        mode: how it meets what is in the slot.
    """

    slot: str
    body: str
    mode: Mode = Mode.ONCE


@dataclass(frozen=True, slots=True)
class Page:
    """What came after a place.

    Parameters:
        entries: in order, at most :data:`LARGEST_READ`; there may be more behind the last one.
        reset: something between the place and the first entry is kept no more, or the place is none of this log:
            the entries are those of its beginning.
    """

    entries: Sequence[Entry]
    reset: bool = False


class Feed(Protocol):
    """Logs of what visitors see, one a session. Used as ``async with feed``.

    All methods raise ``StoreUnavailable`` where it cannot be reached.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def add(self, session_id: str, draft: Draft) -> bool:
        """Add an entry as a whole or not at all; answers whether anything changed."""
        ...

    async def read(self, session_id: str, after: Place | None) -> Page:
        """What came after a place, at once; ``None``: from the beginning of what is kept."""
        ...

    def watch(self, session_id: str) -> AbstractContextManager[Wake]:
        """Hear of entries that any process adds, for the length of a block. A wake without a cause is possible, a
        cause without a wake is not: read after each."""
        ...


def continues(after: Place, *, epoch: int, newest: int, floor: int) -> bool:
    """Whether a log has everything after a place.

    Parameters:
        after: what a client has seen last.
        epoch: the log's; 0 where there is none.
        newest: the number of its last entry.
        floor: the number of the last one that gave way to its limits.
    """
    return after.epoch == epoch and floor <= after.number <= newest
