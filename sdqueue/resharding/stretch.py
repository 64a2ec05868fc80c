"""Stretch: a queue's messages up to a point in time, read from the head and each taken away once it is in safety."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Self

from sdqueue.brokers import Broker, Delivery, Message, Subscription
from sdqueue.errors import BrokerUnavailable, ReshardingFailed

MARKER_HEADER: Final = "sdqueue-marker"
"""On a message that says nothing but where it stands. Its value tells the markers of several readers apart."""

Take = Callable[[list[Delivery]], Awaitable[None]]
"""Brings messages into safety; what it has returned for is acknowledged."""


class Stretch:
    """Reads one queue, as long as nobody else does.

    A count of messages cannot say that a queue is empty: somebody may hold some that will return. A marker can. It is
    put at the end of the queue and comes back to this reader only if this is the one that the broker serves, with all
    that stood before it.

    Parameters:
        broker: entered by the caller.
        queue: its name.
        prefetch: unacknowledged messages.
        patience_s: seconds of silence after which somebody else must have the queue.
    """

    def __init__(self, broker: Broker, queue: str, *, prefetch: int, patience_s: float) -> None:
        self.queue = queue
        self._broker = broker
        self._prefetch = prefetch
        self._patience_s = patience_s
        self._arrived: deque[Delivery] = deque()
        self._stirred = asyncio.Event()
        self._subscription: Subscription | None = None
        self._lost: asyncio.Task[str] | None = None

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def reopen(self) -> None:
        """Wait until all that was acknowledged is gone for good; what was not comes again."""
        await self.close()
        await self._open()

    async def first(self, wanted: Callable[[Delivery], bool]) -> list[Delivery]:
        """The messages at the head that are wanted, up to the first that is not; none of them is acknowledged.

        Raises:
            ReshardingFailed, BrokerUnavailable: see :meth:`to_end`.
        """
        marker = await self._mark()
        found: list[Delivery] = []
        while True:
            await self._wait()
            first = self._arrived[0]
            if wanted(first):
                found.append(self._arrived.popleft())
            elif _marker_of(first) is None:
                return found
            else:
                self.ack(self._arrived.popleft())
                if _marker_of(first) == marker:
                    return found

    async def to_end(self, take: Take) -> int:
        """Read all that is in the queue now, and have it brought into safety in order.

        Returns:
            How many messages that were.

        Raises:
            ReshardingFailed: somebody else has the queue, and does not let go of it.
            BrokerUnavailable: the connection went. What was not acknowledged is back in the queue.
        """
        marker, count = await self._mark(), 0
        while True:
            await self._wait()
            batch, ended = self._batch(marker)
            messages = [delivery for delivery in batch if _marker_of(delivery) is None]
            if messages:
                await take(messages)
            count += len(messages)
            for delivery in batch:
                self.ack(delivery)
            if ended:
                return count

    def ack(self, delivery: Delivery) -> None:
        """Take a message away."""
        delivery.subscription.ack(delivery)

    async def _open(self) -> None:
        self._arrived.clear()
        subscription = await self._broker.subscribe(self.queue, self._on_delivery, prefetch=self._prefetch)
        self._subscription = subscription
        self._lost = asyncio.create_task(subscription.wait_lost(), name=f"loss of {self.queue}")
        self._lost.add_done_callback(lambda _: self._stirred.set())

    async def close(self) -> None:
        """Let go of the queue: what was not acknowledged returns. Idempotent."""
        subscription, self._subscription = self._subscription, None
        if self._lost is not None:
            self._lost.cancel()
        if subscription is not None:
            await subscription.close()

    def _on_delivery(self, delivery: Delivery) -> None:
        self._arrived.append(delivery)
        self._stirred.set()

    async def _mark(self) -> str:
        name = secrets.token_hex(8)
        await self._broker.publish("", self.queue, Message(b"", headers={MARKER_HEADER: name}))
        return name

    async def _wait(self) -> None:
        """Wait until a message is there."""
        assert self._lost is not None
        while not self._arrived or self._lost.done():
            if self._lost.done():
                raise BrokerUnavailable(f"the subscription was lost in the middle: {self._lost.result()}")
            self._stirred.clear()
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._stirred.wait()
            except TimeoutError:
                raise ReshardingFailed(
                    f"queue {self.queue} has not handed out what is in it for {self._patience_s:g} s: somebody else "
                    "reads it; find and stop who does, and run the same command again"
                ) from None

    def _batch(self, marker: str) -> tuple[list[Delivery], bool]:
        """What has arrived, up to the marker, and whether that is among it."""
        batch: list[Delivery] = []
        while self._arrived:
            batch.append(self._arrived.popleft())
            if _marker_of(batch[-1]) == marker:
                return batch, True
        return batch, False


def _marker_of(delivery: Delivery) -> object:
    # What has a body is none, whatever its producer has written into the headers: it must not get lost.
    return None if delivery.message.body else delivery.message.headers.get(MARKER_HEADER)
