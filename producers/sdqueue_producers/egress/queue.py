"""RepliesQueue: keeps the queue of a channel's replies subscribed, whatever happens to its subscription."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from sdqueue.brokers import Broker, Delivery, Subscription, egress_queue
from sdqueue.errors import BrokerError
from sdqueue_producers.observer import ProducerObserver

MAX_WAIT_S: Final = 5.0


class RepliesQueue:
    """Subscribes the queue of a channel; a subscription that is lost is replaced by a new one.

    All processes of a channel subscribe; the broker gives the deliveries to one of them, and when that goes, everything
    that is not acknowledged to the next, in order.

    Parameters:
        broker: whose queue.
        channel: whose replies.
        on_delivery: takes them.
        on_lost: told of a subscription that has ended.
        observer: told of gains and losses.
        prefetch: deliveries in hand.
        declare: whether the queue is made where it is missing; otherwise it is waited for.
    """

    def __init__(
        self,
        broker: Broker,
        channel: str,
        on_delivery: Callable[[Delivery], None],
        on_lost: Callable[[Subscription], None],
        observer: ProducerObserver,
        *,
        prefetch: int,
        declare: bool = True,
    ) -> None:
        self._broker = broker
        self._channel = channel
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._observer = observer
        self._prefetch = prefetch
        self._declare = declare
        self._subscription: Subscription | None = None
        self._taken = asyncio.Event()
        self.problem = "it was not asked for yet"
        """Why it is not subscribed; empty while it is."""

    async def wait_taken(self) -> None:
        """Wait until it has been subscribed for the first time: from then on, no reply misses the queue."""
        await self._taken.wait()

    async def run(self) -> None:
        """Stay subscribed, until cancelled; the last subscription is left to :meth:`close`."""
        while True:
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(BrokerError),
                wait=wait_random_exponential(multiplier=0.2, max=MAX_WAIT_S),
                before_sleep=self._refused,
            )
            subscription: Subscription = await retrying(self._subscribe)
            self._subscription = subscription
            self._taken.set()
            self.problem = ""
            self._observer.queue_taken(channel=self._channel)
            reason = await subscription.wait_lost()
            self._on_lost(subscription)
            await subscription.close()
            self._subscription = None
            self._told_lost(reason)

    async def close(self) -> None:
        """Give the queue up: what is not acknowledged returns to it, in order."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close()

    async def _subscribe(self) -> Subscription:
        queue = await egress_queue(self._broker, self._channel, declare=self._declare)
        return await self._broker.subscribe(queue, self._on_delivery, prefetch=self._prefetch)

    def _refused(self, state: RetryCallState) -> None:
        self._told_lost(str(state.outcome.exception() if state.outcome else None))

    def _told_lost(self, reason: str) -> None:
        self.problem = reason
        self._observer.queue_lost(channel=self._channel, reason=reason)
