"""The pool's list of members as a process sees it: each sign of life over the wire."""

from __future__ import annotations

from collections.abc import Sequence

from sdqueue.consumer import MemoryPool
from sdqueue.consumer.membership.beating import Answer, BeatingMembership
from tests.simulation.wire import Backend, Wire


class SimulatedMembership(BeatingMembership):
    """A membership in a :class:`~sdqueue.MemoryPool` at the other end of a wire.

    Parameters:
        wire: the way there.
        backend: the side of the world that the list is on.
        pool: the list.
        queues, name: see :class:`BeatingMembership`.
    """

    def __init__(self, wire: Wire, backend: Backend, pool: MemoryPool, queues: Sequence[str], *, name: str) -> None:
        super().__init__(queues, name=name)
        self._wire = wire
        self._backend = backend
        self._pool = pool

    async def beat(self, said: str) -> Answer:
        answer: Answer = await self._wire.call(
            self._backend, f"beat {said}", lambda: self._pool.beat(self.member, said)
        )
        return answer

    async def sign_off(self) -> None:
        await self._wire.call(self._backend, "sign off", lambda: self._pool.sign_off(self.member))
