"""Hold: has all consumers let go of all queues, and go on later."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable
from typing import Final

from sdqueue.brokers import Broker
from sdqueue.consumer.membership import Epoch, Pool
from sdqueue.errors import ReshardingFailed, TopologyMissing
from sdqueue.resharding.mover import side_by_side

PARALLEL: Final = 8
"""Queues that the broker is asked for at a time."""

LOOK_S: Final = 0.1
"""Pause between two looks for whoever has not let go."""


class Hold:
    """What a resharding tells the consumers of a pool, and waits for.

    Parameters:
        broker: says who reads a queue.
        pool: the consumers; ``None`` where they know nothing of each other.
        patience_s: how long they may take.
    """

    def __init__(self, broker: Broker, pool: Pool | None, *, patience_s: float) -> None:
        self.began_at = time.monotonic()
        self._broker = broker
        self._pool = pool
        self._patience_s = patience_s
        self._epoch: Epoch | None = None

    async def begin(self, before: int, after: int) -> None:
        """Tell the consumers to let go.

        Raises:
            ReshardingFailed: somebody else tells them something at the same time.
        """
        self.began_at = time.monotonic()
        if self._pool is not None:
            await self._announce((await self._pool.look()).epoch, Epoch(before, after, secrets.token_hex(4)))

    async def wait(self, queues: Iterable[str]) -> None:
        """Wait until all members say that they have let go, and nobody reads any of these queues.

        Raises:
            ReshardingFailed: somebody does not let go; the message says who.
        """
        names, deadline = list(queues), time.monotonic() + self._patience_s
        while True:
            holders = await self._holders()
            busy = [] if holders else await self.busy(names)
            if not (holders or busy):
                return
            if time.monotonic() > deadline:
                who = f"consumers {few(holders)} have not let go" if holders else f"{few(busy)} are still being read"
                raise ReshardingFailed(
                    f"{who} after {self._patience_s:g} s; stop what hangs, or wait longer with --timeout"
                )
            await asyncio.sleep(LOOK_S)

    async def end(self, partitions: int) -> None:
        """Tell the consumers that they may go on with so many partitions."""
        if self._pool is None or self._epoch is None:
            return  # nobody was told anything
        done = Epoch(partitions)
        # Redis may have been emptied in the middle; consumers still hold then.
        if not await self._pool.advance(None, done):
            await self._announce(self._epoch, done)

    async def end_forgotten(self, partitions: int) -> bool:
        """The same where only this last word was not said, and all else was done; returns whether that was so."""
        self._epoch = (await self._pool.look()).epoch if self._pool is not None else None
        if self._epoch is None or self._epoch.target is None:
            return False
        await self.end(partitions)
        return True

    async def busy(self, queues: Iterable[str]) -> list[str]:
        """Those of the queues that somebody reads."""
        places = asyncio.Semaphore(PARALLEL)

        async def is_busy(queue: str) -> bool:
            async with places:
                try:
                    return (await self._broker.queue_state(queue)).receivers > 0
                except TopologyMissing:
                    return False  # not declared yet, or removed already

        names = list(queues)
        answers = await side_by_side(map(is_busy, names))
        return [queue for queue, busy in zip(names, answers, strict=True) if busy]

    async def _announce(self, seen: Epoch | None, epoch: Epoch) -> None:
        assert self._pool is not None
        before, self._epoch = self._epoch, epoch  # also where no answer comes: it may have been done all the same
        if not await self._pool.advance(seen, epoch):
            self._epoch = before
            raise ReshardingFailed(
                "somebody else has changed what the consumers are told of the partitions, probably another "
                "`sdqueue topology reshard`; look what it does before you run this one again"
            )

    async def _holders(self) -> list[str]:
        """Members of the pool that have not said that they have let go."""
        if self._pool is None or self._epoch is None:
            return []
        sighting = await self._pool.look()
        return sorted(member for member, seen in sighting.members.items() if seen.says.holds != self._epoch.by)


def few(names: list[str]) -> str:
    """The first of some names, for a message."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
