"""Ownership: which queues this consumer is subscribed to, as the members of the pool come and go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sdqueue.brokers import Subscription, Topology
from sdqueue.consumer.assignment import Roles, assign
from sdqueue.consumer.debounce import Debounce
from sdqueue.consumer.membership import Announcement, Membership, Sighting
from sdqueue.consumer.reader import QueueReader
from sdqueue.consumer.seat import FRESH_S, Seat
from sdqueue.observe import Observer


@dataclass(frozen=True, slots=True)
class Share:
    """What a consumer has of its pool.

    Parameters:
        owned: partitions that it owns.
        standby: partitions that it stands by for.
        partitions: how many there are.
        members: consumers that share them.
    """

    owned: int
    standby: int
    partitions: int
    members: int


class Ownership:
    """Follows the members of the pool, and has the readers subscribe what is this consumer's.

    Every member computes the same assignment from the same list. Who may subscribe and who has to close is decided
    for each queue by its :class:`~sdqueue.consumer.seat.Seat`.

    Parameters:
        topology: the queues.
        membership: of this consumer.
        observer: told of every assignment.
    """

    def __init__(self, topology: Topology, membership: Membership, observer: Observer) -> None:
        self._topology = topology
        self._membership = membership
        self._observer = observer
        self._readers: Mapping[str, QueueReader] = {}
        self._seats: dict[str, Seat] = {}
        self._debounce = Debounce(membership.member)
        self._roles: dict[str, Roles] = {}
        self._sighting = Sighting()
        self._changed = asyncio.Event()
        self._ready = asyncio.Event()
        self._losses = 0
        self._away = False
        self._leaving_since: float | None = None
        self._handed_over = asyncio.Event()

    def take(self, readers: Mapping[str, QueueReader]) -> None:
        """Decide for these readers from now on; each tells :meth:`on_change` of its subscriptions."""
        self._readers = readers
        # Consumers that know nothing of each other read the queues in different orders, so each becomes active on some.
        self._seats = {queue: Seat(readers[queue]) for queue in random.sample(list(readers), len(readers))}

    @property
    def share(self) -> Share:
        """How much of the pool's work is this consumer's; all zero as long as the members are not known."""
        me = self._membership.member
        roles = [self._roles[queue] for queue in self._topology.partition_queues if queue in self._roles]
        return Share(
            owned=sum(r.owner == me for r in roles),
            standby=sum(r.standby == me for r in roles),
            partitions=len(roles),
            members=len(self._debounce.believed),
        )

    def owns(self, queue: str) -> bool:
        """Whether this consumer should be the one that is active on a queue."""
        roles = self._roles.get(queue)
        return roles is not None and roles.owner == self._membership.member

    def owned(self) -> Iterator[tuple[str, Subscription]]:
        """The queues that this consumer owns and is subscribed to, with their live subscriptions.

        The broker may not have made it active yet: the one before may still be giving up. And consumers that are
        :class:`~sdqueue.consumer.membership.Alone` each own all.
        """
        for queue, reader in self._readers.items():
            if self.owns(queue) and reader.subscription is not None:
                yield queue, reader.subscription

    async def ready(self) -> None:
        """Wait until the members are known, and what this consumer owns is subscribed."""
        await self._ready.wait()

    async def watch(self) -> None:
        """Give signs of life and see who else is there, until :meth:`leave`."""
        async for sighting in self._membership.sightings():
            self._see(sighting)

    async def follow(self) -> None:
        """Keep the subscriptions as they should be, until cancelled."""
        while True:
            self._changed.clear()
            pause = self._judge()
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue  # something was to be looked at again by now

    def begin_leaving(self) -> bool:
        """Own nothing any more, and take nothing more.

        Returns whether there are others to hand over to: then :meth:`hand_over` is due.
        """
        self._leaving_since = asyncio.get_running_loop().time()
        if self._away or not self._roles or len(self._sighting.members) < 2:
            return False
        self._announce()
        self._changed.set()
        return True

    async def hand_over(self) -> None:
        """Serve each queue until somebody else is subscribed who stays, and release it then.

        The standby is, nearly always. But where several consumers stop at once it may be one of them, and it would
        take the others some seconds to notice that nobody is left.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S):
                await self._handed_over.wait()

    async def leave(self) -> None:
        """Be gone for the other members."""
        await self._membership.leave()

    def on_change(self, queue: str, lost: bool) -> None:
        """A subscription has begun, or has ended by a release or by a loss."""
        seat = self._seats[queue]
        if lost:
            self._losses += 1
            seat.lost(asyncio.get_running_loop().time(), mine=self.owns(queue))
        elif seat.reader.subscription is None:
            seat.closed()
        self._announce()
        self._changed.set()

    def _announce(self) -> None:
        there = frozenset(name for name, reader in self._readers.items() if reader.subscription is not None)
        self._membership.announce(Announcement(there, self._losses, self._leaving_since is not None))

    def _see(self, sighting: Sighting) -> None:
        if sighting.problem:
            if not self._away:
                self._observer.backend_away(backend="membership", error=sighting.problem)
            self._away = True
            if self._leaving_since is not None:
                self._handed_over.set()  # it cannot be seen whether anybody is there
            return
        self._away = False
        if self._leaving_since is None:
            members = frozenset(member for member, seen in sighting.members.items() if not seen.says.leaving)
            if self._debounce.see(members, sighting.at, after_gap=sighting.after_gap):
                self._assign(sighting.at)
            elif self._debounce.patient and not members >= self._debounce.believed:
                return  # those who are missing have not had the time to sign again: they are believed to be there
        self._sighting = sighting
        self._changed.set()

    def _assign(self, now: float) -> None:
        topology = self._topology
        self._roles = assign(topology.partition_queues, self._debounce.believed, shared=(topology.unrouted,))
        for queue, seat in self._seats.items():
            seat.assign(self._roles[queue], now)
        share = self.share
        self._observer.partitions_assigned(owned=share.owned, standby=share.standby, members=share.members)

    def _judge(self) -> float | None:
        """Have every seat decide; returns after how many seconds one of them wants to look again."""
        me, now = self._membership.member, asyncio.get_running_loop().time()
        others = {member: seen for member, seen in self._sighting.members.items() if member != me}
        if self._leaving_since is not None:
            fresh = self._sighting.at > self._leaving_since + FRESH_S
            done = [seat.leave(others, fresh=fresh) for seat in self._seats.values()]
            nobody = fresh and all(seen.says.leaving for seen in others.values())
            if all(done) or nobody:
                self._handed_over.set()
            return None
        if not self._roles:
            return None
        again = [seat.judge(me, others, self._sighting.at, now) for seat in self._seats.values()]
        if all(self._readers[queue].subscription is not None for queue in self._seats if self.owns(queue)):
            self._ready.set()
        due = [at for at in again if at is not None]
        return max(min(due) - now, MIN_PAUSE_S) if due else None


HAND_OVER_S: Final = 5.0
"""How long one that stops goes on to serve what nobody else does."""
MIN_PAUSE_S: Final = 0.01
"""Rounding must not make a pause of nothing."""
