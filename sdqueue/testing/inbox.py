"""Inbox: a consumer for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from sdqueue.brokers.broker import Delivery


class Inbox:
    """Takes deliveries and lets a test wait for them; pass it as ``on_delivery``.

    Parameters:
        acks: acknowledge each delivery as it comes.
        patience_s: seconds to wait for what must come.
    """

    def __init__(self, *, acks: bool = False, patience_s: float = 20.0) -> None:
        self.deliveries: list[Delivery] = []
        self._acks = acks
        self._patience_s = patience_s
        self._arrived = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        """Take a delivery."""
        self.deliveries.append(delivery)
        self._arrived.set()
        if self._acks:
            delivery.subscription.ack(delivery)

    @property
    def bodies(self) -> list[bytes]:
        """What came so far."""
        return [delivery.message.body for delivery in self.deliveries]

    async def expect(self, count: int) -> list[Delivery]:
        """Wait until so many deliveries have come, and return all; fails when they do not come."""
        try:
            async with asyncio.timeout(self._patience_s):
                while len(self.deliveries) < count:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            came = f"{len(self.deliveries)} of {count} deliveries came in {self._patience_s:g} s"
            pytest.fail(f"{came}: {self.bodies[:50]}")
        return self.deliveries

    async def expect_no_more(self, seconds: float) -> None:
        """Nothing may come for so long. That nothing happens has no event to wait for, so this waits."""
        before = len(self.deliveries)
        await asyncio.sleep(seconds)
        assert self.bodies[before:] == [], "deliveries came that must not come"


def numbered(numbers: Iterable[int]) -> list[bytes]:
    """Bodies that tell their place."""
    return [b"%d" % n for n in numbers]
