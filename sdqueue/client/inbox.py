"""Inbox: one life of a client's private reply queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sdqueue.brokers import Subscription


class Inbox:
    """One life of the private reply queue.

    Parameters:
        subscription: receives from it.
        on_lost: called once when the broker has ended it.
    """

    def __init__(self, subscription: Subscription, on_lost: Callable[[], None]) -> None:
        self.queue = subscription.queue
        self.lost = False
        self._subscription = subscription
        self._on_lost = on_lost
        self._watch = asyncio.create_task(self._wait_lost(), name=f"reply queue {self.queue}")

    async def close(self) -> None:
        """End it."""
        self._watch.cancel()
        await asyncio.wait({self._watch})
        await self._subscription.close()
        if not self._watch.cancelled():
            self._watch.result()

    async def _wait_lost(self) -> None:
        try:
            await self._subscription.wait_lost()
        finally:
            self.lost = True
            self._on_lost()
