"""Ownership: which queues this consumer is subscribed to, as the members of the pool come and go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from sdqueue.brokers import Subscription, Topology
from sdqueue.consumer.assignment import Roles, assign
from sdqueue.consumer.debounce import Debounce
from sdqueue.consumer.membership import Announcement, Epoch, Membership, Sighting
from sdqueue.consumer.reader import QueueReader
from sdqueue.consumer.seat import FRESH_S, Seat
from sdqueue.errors import BrokerUnavailable
from sdqueue.observe import Observer

Repartition = Callable[[int], Awaitable[bool]]


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
        self._epoch: Epoch | None = None
        self._strange: Epoch | None = None
        """An epoch that is not the broker's."""
        self._repartition: Repartition = _never
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
        self._problem = ""
        """Why the other members cannot be seen."""
        self._leaving_since: float | None = None
        self._handed_over = asyncio.Event()
        self._certain_until = 0.0
        self._became_certain: asyncio.Future[None] | None = None

    def take(self, readers: Mapping[str, QueueReader], repartition: Repartition) -> None:
        """Decide for these readers from now on; each tells :meth:`on_change` of its subscriptions.

        Parameters:
            readers: of all queues.
            repartition: makes them those of another number of partitions, if that is the broker's, and says whether.
        """
        self._readers = readers
        self._repartition = repartition
        self._sit_down()

    def _sit_down(self) -> None:
        readers = self._readers
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

    @property
    def _away(self) -> bool:
        return bool(self._problem)

    def obstacles(self) -> Iterator[str]:
        """Why not all of this consumer's work is taken now, by what is known here."""
        if self._away:
            yield f"the other consumers cannot be seen: {self._problem}"
        elif not self._roles:
            yield "the consumers of the pool are not known yet"
        if self._lets_go:
            yield "the number of partitions is being changed"
            return
        missing = [queue for queue in self._seats if self.owns(queue) and self._readers[queue].subscription is None]
        if missing:
            yield f"{len(missing)} queues of this consumer are not subscribed, such as {missing[0]}"

    async def ready(self) -> None:
        """Wait until the members are known, and what this consumer owns is subscribed."""
        await self._ready.wait()

    async def watch(self) -> None:
        """Give signs of life and see who else is there, until :meth:`leave`."""
        async for sighting in self._membership.sightings():
            self._see(sighting)

    @property
    def certain(self) -> bool:
        """Whether the number of partitions here is that of the whole pool, as far as can be known.

        Nobody changes it before all members have let go of the queues, or are not listed any more.
        """
        return not self._lets_go and asyncio.get_running_loop().time() < self._certain_until

    async def until_certain(self) -> None:
        """Wait until :attr:`certain`."""
        while not self.certain:
            self._became_certain = self._became_certain or asyncio.get_running_loop().create_future()
            await asyncio.wait({self._became_certain})

    async def follow(self) -> None:
        """Keep the subscriptions as they should be, until cancelled."""
        while True:
            self._changed.clear()
            pause = await self._let_go() if self._lets_go else self._judge()
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
        holds = self._epoch.by if self._epoch is not None and self._lets_go and self._is_idle else ""
        self._membership.announce(Announcement(there, self._losses, self._leaving_since is not None, holds))

    def _see(self, sighting: Sighting) -> None:
        if sighting.problem:
            if not self._away:
                self._observer.backend_away(backend="membership", error=sighting.problem)
            self._problem = sighting.problem
            if self._leaving_since is not None:
                self._handed_over.set()  # it cannot be seen whether anybody is there
            return
        self._problem = ""
        self._certain_until = sighting.listed_until
        # A record that is gone says nothing: Redis may have been emptied in the middle of a change.
        self._epoch = sighting.epoch or self._epoch
        if self._lets_go:
            self._changed.set()
        elif self._became_certain is not None:
            self._became_certain.set_result(None)
            self._became_certain = None
        if self._leaving_since is None:
            members = frozenset(member for member, seen in sighting.members.items() if not seen.says.leaving)
            if self._debounce.see(members, sighting.at, after_gap=sighting.after_gap):
                self._assign(sighting.at)
            elif self._debounce.patient and not members >= self._debounce.believed:
                return  # those who are missing have not had the time to sign again: they are believed to be there
        self._sighting = sighting
        self._changed.set()

    @property
    def _lets_go(self) -> bool:
        """Whether nothing may be subscribed: the partitions are being changed, or are others than is known here."""
        epoch = self._epoch
        if epoch is None or epoch == self._strange:
            return False
        return epoch.target is not None or epoch.partitions != self._topology.partitions

    @property
    def _is_idle(self) -> bool:
        return all(reader.idle for reader in self._readers.values())

    async def _let_go(self) -> float | None:
        """Be subscribed to nothing while the partitions are being changed, and take the new ones when they have been.

        Nothing waits for running turns, as whenever a queue is released. Returns when to look again.
        """
        epoch = self._epoch
        assert epoch is not None
        for reader in self._readers.values():
            reader.release("the number of partitions is being changed")
        if not self._is_idle:
            return LET_GO_S
        self._handed_over.set()
        self._announce()
        if epoch.target is not None:
            return None
        try:
            taken = await self._repartition(epoch.partitions)
        except BrokerUnavailable:
            return PATIENCE_S
        if not taken:
            # Somebody has made the namespace anew, and what is said beside the members is about an older one.
            self._strange = epoch
            return 0.0
        self._topology = replace(self._topology, partitions=epoch.partitions)
        self._membership.repartition(self._topology.turn_queues)
        self._sit_down()
        self._announce()
        if self._debounce.believed:
            self._assign(asyncio.get_running_loop().time())
        return 0.0

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


async def _never(partitions: int) -> bool:
    return False


LET_GO_S: Final = 0.02
"""Pause before it is looked again whether all channels are closed."""
PATIENCE_S: Final = 0.5
"""Pause before a broker that was away is asked again."""
HAND_OVER_S: Final = 5.0
"""How long one that stops goes on to serve what nobody else does."""
MIN_PAUSE_S: Final = 0.01
"""Rounding must not make a pause of nothing."""
