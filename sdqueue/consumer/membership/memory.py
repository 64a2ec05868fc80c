"""MemoryMembership: consumers of one event loop, for tests and simulations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sdqueue.consumer.membership.beating import LIFE_S, Announcements, Answer, BeatingMembership, Entry
from sdqueue.consumer.membership.epoch import Epoch
from sdqueue.consumer.membership.membership import Seen, Sighting
from sdqueue.errors import StoreUnavailable


class MemoryPool:
    """The list that the :class:`MemoryMembership` objects of one event loop share.

    Like Redis it can be away, and be emptied. It is a :class:`Pool` as well.

    Parameters:
        queues: see :class:`BeatingMembership`; needed for :meth:`look` only.
    """

    def __init__(self, queues: Sequence[str] = ()) -> None:
        self.away = False
        self._written = Announcements(queues)
        self.epoch: str | None = None
        self._entries: dict[str, tuple[float, str]] = {}

    def empty(self) -> None:
        """Forget everybody."""
        self._entries.clear()

    def beat(self, member: str, said: str) -> Answer:
        """See :meth:`BeatingMembership.beat`."""
        now = self._now()
        self._entries = {m: (at, said) for m, (at, said) in self._entries.items() if at > now - LIFE_S}
        added = member not in self._entries
        self._entries[member] = (now, said)
        entries = [Entry(m, int(at * 1000), said) for m, (at, said) in self._entries.items()]
        return Answer(added, entries, self.epoch)

    async def look(self) -> Sighting:
        """See :class:`Pool`."""
        now = self._now()
        living = {m: said for m, (at, said) in self._entries.items() if at > now - LIFE_S}
        members = {member: Seen(self._written.read(said), now) for member, said in living.items()}
        return Sighting(members, now, epoch=Epoch.read(self.epoch))

    async def advance(self, seen: Epoch | None, wanted: Epoch) -> bool:
        """See :class:`Pool`."""
        self._now()
        if self.epoch not in (seen.write() if seen else None, wanted.write()):
            return False
        self.epoch = wanted.write()
        return True

    def sign_off(self, member: str) -> None:
        """Forget one."""
        self._now()
        self._entries.pop(member, None)

    def _now(self) -> float:
        if self.away:
            raise StoreUnavailable("the list of members is away")
        return asyncio.get_running_loop().time()


class MemoryMembership(BeatingMembership):
    """A membership in a :class:`MemoryPool`.

    Parameters:
        pool: shared by all members.
        queues, name, member: see :class:`BeatingMembership`.
    """

    def __init__(
        self, pool: MemoryPool, queues: Sequence[str], *, name: str = "consumer", member: str | None = None
    ) -> None:
        super().__init__(queues, name=name, member=member)
        self.pool = pool

    async def beat(self, said: str) -> Answer:
        """See :class:`BeatingMembership`."""
        await asyncio.sleep(0)
        return self.pool.beat(self.member, said)

    async def sign_off(self) -> None:
        """See :class:`BeatingMembership`."""
        self.pool.sign_off(self.member)
