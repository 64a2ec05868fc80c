"""BeatingMembership: signs of life at a steady pace, and the pool as it is seen at each."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Self

from sdqueue.consumer.membership.epoch import Epoch
from sdqueue.consumer.membership.membership import Announcement, Seen, Sighting, member_id
from sdqueue.errors import RecordCorrupt, StoreUnavailable

BEAT_S: Final = 0.5
HELD_BEAT_S: Final = 0.1
"""While the partitions are being changed nobody is answered, and all wait for the word to go on."""
LIFE_S: Final = 3.0
"""A member that was not heard for so long is no longer listed."""
PAUSE_S: Final = 0.02
"""Least time between two beats: a consumer that takes sixty queues announces them in a few beats, not in sixty."""
LEAVE_S: Final = 1.0
"""A pool that cannot be told of a leaving finds out by itself."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A member, as it stands in the list.

    Parameters:
        member: its id.
        signed: when it last gave a sign of life; any clock, as long as it is the same for all.
        said: its announcement.
    """

    member: str
    signed: int
    said: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a beat brings.

    Parameters:
        added: this member was not in the list before.
        entries: all members, this one among them.
        epoch: see :class:`Sighting`, as it was written.
    """

    added: bool
    entries: Sequence[Entry]
    epoch: str | None = None


class BeatingMembership(ABC):
    """A :class:`Membership` by a list in which each member signs again and again.

    Parameters:
        queues: all queues that can be subscribed to, in an order that is the same for all members.
        name: of the consumer.
        member: its id; default: a new one for the name.
    """

    def __init__(self, queues: Sequence[str], *, name: str = "consumer", member: str | None = None) -> None:
        self.member = member_id(name) if member is None else member
        self._written = Announcements(queues)
        self._said = self._written.write(Announcement())
        self._changed = asyncio.Event()
        self._left = False

    @abstractmethod
    async def beat(self, said: str) -> Answer:
        """Sign with an announcement, drop those that were not heard for long, and read the list.

        Raises:
            StoreUnavailable: the list cannot be reached.
        """

    @abstractmethod
    async def sign_off(self) -> None:
        """Leave the list.

        Raises:
            StoreUnavailable: the list cannot be reached.
        """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.leave()

    def announce(self, announcement: Announcement) -> None:
        """See :class:`Membership`."""
        said = self._written.write(announcement)
        if said != self._said:
            self._said = said
            self._changed.set()

    def repartition(self, queues: Sequence[str]) -> None:
        """See :class:`Membership`."""
        self._written = Announcements(queues)

    async def leave(self) -> None:
        """See :class:`Membership`."""
        if self._left:
            return
        self._left = True
        self._changed.set()
        with suppress(StoreUnavailable, TimeoutError):  # it is dropped when it has not been heard for long
            async with asyncio.timeout(LEAVE_S):
                await self.sign_off()

    async def sightings(self) -> AsyncIterator[Sighting]:
        """See :class:`Membership`."""
        loop = asyncio.get_running_loop()
        last = Sighting(at=loop.time())
        signed: dict[str, int] = {}
        never_seen = True
        while not self._left:
            self._changed.clear()
            started = loop.time()
            try:
                answer = await self.beat(self._said)
                epoch = Epoch.read(answer.epoch)
            except (StoreUnavailable, RecordCorrupt) as error:
                yield replace(last, after_gap=False, problem=str(error))
            else:
                now = loop.time()
                members = {}
                for entry in answer.entries:
                    before = last.members.get(entry.member)
                    quiet = before is not None and signed[entry.member] == entry.signed
                    heard = before.heard if before is not None and quiet else now
                    members[entry.member] = Seen(self._written.read(entry.said), heard)
                # Whoever was away so long that others may have been dropped meanwhile, or that it was dropped itself.
                gap = not never_seen and (answer.added or now - last.at >= LIFE_S - 2 * BEAT_S)
                signed = {entry.member: entry.signed for entry in answer.entries}
                last = Sighting(members, now, after_gap=gap, epoch=epoch, listed_until=started + LIFE_S)
                never_seen = False
                yield last
            held = last.epoch is not None and last.epoch.target is not None
            await self._pause(started + (HELD_BEAT_S if held else BEAT_S) - loop.time())

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(PAUSE_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds - PAUSE_S, 0.0)):
                await self._changed.wait()


class Announcements:
    """Writes announcements as they stand in the list, and reads them.

    ``1f:2`` is five queues, by a hexadecimal number with one bit each, and two losses; ``1f:2:leaving``, the same of
    one that leaves; ``0:2:holds=1c9b``, nothing for the length of a change of the partitions.

    Parameters:
        queues: the first has the lowest bit.
    """

    def __init__(self, queues: Sequence[str]) -> None:
        self._bits = {queue: 1 << position for position, queue in enumerate(queues)}
        self._known: dict[str, Announcement] = {}

    def write(self, announcement: Announcement) -> str:
        """As it stands in the list."""
        mask = sum(self._bits[queue] for queue in announcement.subscribed)
        said = f"{mask:x}:{announcement.losses}{':leaving' if announcement.leaving else ''}"
        return f"{said}:{HOLDS}{announcement.holds}" if announcement.holds else said

    def read(self, said: str) -> Announcement:
        """Bits of queues that are not known here, as of another epoch, say nothing."""
        if said not in self._known:
            if len(self._known) >= KNOWN:
                self._known.clear()
            mask, losses, *more = said.split(":")
            subscribed = frozenset(queue for queue, bit in self._bits.items() if int(mask, 16) & bit)
            holds = next((word.removeprefix(HOLDS) for word in more if word.startswith(HOLDS)), "")
            self._known[said] = Announcement(subscribed, int(losses), "leaving" in more, holds)
        return self._known[said]


HOLDS: Final = "holds="
KNOWN: Final = 1000
"""Announcements that are remembered as they were read: all are read twice a second, and seldom change."""
