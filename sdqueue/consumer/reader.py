"""QueueReader: keeps one queue subscribed, whatever happens to its subscription."""

from __future__ import annotations

import asyncio
from weakref import WeakSet

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from sdqueue.brokers import Broker, Delivery, Subscription
from sdqueue.consumer.intake import Intake
from sdqueue.consumer.mailbox import Mailboxes
from sdqueue.errors import BrokerError
from sdqueue.observe import Observer

AFTER_ERROR_S = 1.0
"""A defect that every redelivery meets again must not spin."""


class QueueReader:
    """Subscribes a queue and fills mailboxes from it; a lost subscription is replaced by a new generation.

    Parameters:
        broker: whose queue.
        queue: its name.
        intake: takes what is delivered.
        mailboxes: where that waits.
        observer: told of gains and losses.
        prefetch: unacknowledged deliveries.
        places: held while subscribing, so that not all readers do it at once.
    """

    def __init__(
        self,
        broker: Broker,
        queue: str,
        intake: Intake,
        mailboxes: Mailboxes,
        observer: Observer,
        *,
        prefetch: int,
        places: asyncio.Semaphore,
    ) -> None:
        self.queue = queue
        self.subscribed = asyncio.Event()
        self._broker = broker
        self._intake = intake
        self._mailboxes = mailboxes
        self._observer = observer
        self._prefetch = prefetch
        self._places = places
        self._subscription: Subscription | None = None
        self._given_up: WeakSet[Subscription] = WeakSet()
        self._gave_up = asyncio.Event()
        self._draining = False

    @property
    def subscription(self) -> Subscription | None:
        """The present generation, where there is one."""
        return self._subscription

    async def run(self) -> None:
        """Stay subscribed until cancelled, or until drained."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(BrokerError),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            before_sleep=self._refused,
        )
        while not self._draining:
            async with self._places:
                subscription: Subscription = await retrying(
                    self._broker.subscribe, self.queue, self._on_delivery, prefetch=self._prefetch
                )
            if self._draining:
                await subscription.close()
                return
            self._subscription = subscription
            self.subscribed.set()
            self._observer.queue_taken(queue=self.queue)
            reason = await self._wait_ended(subscription)
            self.subscribed.clear()
            self._mailboxes.drop(subscription)
            await subscription.close()
            self._subscription = None
            self._observer.queue_lost(queue=self.queue, reason=reason)
            if subscription in self._given_up:
                await asyncio.sleep(AFTER_ERROR_S)

    def give_up(self, subscription: Subscription) -> None:
        """End a generation: what it has not acknowledged is delivered again, to whoever is next.

        Nothing of it starts from this call on: the next turn of a session whose turn was left unsettled would
        otherwise overtake it.
        """
        self._given_up.add(subscription)
        self._mailboxes.drop(subscription)
        self._gave_up.set()

    async def drain(self) -> None:
        """Wait for running turns, then close the channel, so that everything else returns to the queue in order.

        A queue that is lost, or not had yet, is not taken again.
        """
        self._draining = True
        subscription = self._subscription
        if subscription is None:
            return
        self._mailboxes.drop(subscription)
        await self._mailboxes.wait_idle(subscription)
        await self.close()

    async def close(self) -> None:
        """Close the channel now, for good."""
        self._draining = True
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._mailboxes.drop(subscription)
            await subscription.close()

    async def _wait_ended(self, subscription: Subscription) -> str:
        lost = asyncio.create_task(subscription.wait_lost())
        try:
            # An earlier generation may be given up late, by a turn of it that still ran: that is not about this one.
            while subscription not in self._given_up:
                self._gave_up.clear()
                gave_up = asyncio.create_task(self._gave_up.wait())
                try:
                    await asyncio.wait({lost, gave_up}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    gave_up.cancel()
                if lost.done():
                    return lost.result()
            return "given up after an unexpected error"
        finally:
            lost.cancel()

    def _on_delivery(self, delivery: Delivery) -> None:
        if delivery.subscription in self._given_up:
            return  # it comes again, behind the one for which the generation was given up
        self._intake.take(delivery)

    def _refused(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._observer.queue_lost(queue=self.queue, reason=str(error))
