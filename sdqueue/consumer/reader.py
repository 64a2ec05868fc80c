"""QueueReader: keeps one queue subscribed as long as it is wanted, whatever happens to its subscription."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary, WeakSet

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from sdqueue.brokers import Broker, Delivery, Subscription
from sdqueue.consumer.intake import Intake
from sdqueue.consumer.mailbox import Mailboxes
from sdqueue.errors import BrokerError
from sdqueue.observe import Observer

AFTER_ERROR_S = 1.0
"""A defect that every redelivery meets again must not spin."""


class QueueReader:
    """Subscribes a queue and fills mailboxes from it; a lost subscription is replaced by a new generation.

    It begins when it is wanted (:meth:`want`), and ends a subscription that is not wanted any more.

    Parameters:
        broker: whose queue.
        queue: its name.
        intake: takes what is delivered.
        mailboxes: where that waits.
        observer: told of gains and losses.
        prefetch: unacknowledged deliveries.
        places: held while subscribing, so that not all readers do it at once.
        on_change: called when a subscription has begun, and when it has ended; says whether it was lost.
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
        on_change: Callable[[str, bool], None],
    ) -> None:
        self.queue = queue
        self.delivered_at: float | None = None
        """When the first delivery of the subscription came, by the event loop's clock."""
        self.idle = True
        """Whether the broker has no subscription of this reader: not one that is just being made or closed, either."""
        self._broker = broker
        self._intake = intake
        self._mailboxes = mailboxes
        self._observer = observer
        self._prefetch = prefetch
        self._places = places
        self._on_change = on_change
        self._wanted = asyncio.Event()
        self._subscription: Subscription | None = None
        self._given_up: WeakSet[Subscription] = WeakSet()
        self._released: WeakKeyDictionary[Subscription, str] = WeakKeyDictionary()
        self._gave_up = asyncio.Event()
        self._draining = False

    @property
    def wanted(self) -> bool:
        """Whether it is subscribed for good, or about to be."""
        return self._wanted.is_set()

    @property
    def subscription(self) -> Subscription | None:
        """The one that lives, where there is one."""
        return self._subscription

    @property
    def closing(self) -> bool:
        """Whether it was released, and its channel is not closed yet."""
        return self._subscription in self._released

    def want(self) -> None:
        """Be subscribed from now on."""
        self._wanted.set()

    def release(self, reason: str) -> None:
        """Be subscribed no longer, so that another consumer gets the queue: its channel is closed.

        Nothing waits for running turns: they end under the locks of their sessions, and what they save answers the
        copies that the other one gets. Nothing starts of the subscription from this call on.

        Parameters:
            reason: for the log.
        """
        self._wanted.clear()
        if self._subscription is not None:
            self._released[self._subscription] = reason
            self._mailboxes.drop(self._subscription)
            self._gave_up.set()

    async def run(self) -> None:
        """Stay subscribed as long as that is wanted, until cancelled or drained."""
        while not self._draining:
            self.idle = True
            await self._wanted.wait()
            self.idle = False
            subscription = await self._subscribe()
            if subscription is None:
                continue
            self._subscription = subscription
            self._observer.queue_taken(queue=self.queue)
            self._on_change(self.queue, False)
            reason = await self._wait_ended(subscription)
            self._mailboxes.drop(subscription)
            await subscription.close()
            self._subscription = self.delivered_at = None
            lost = subscription not in self._released
            tell = self._observer.queue_lost if lost else self._observer.queue_released
            tell(queue=self.queue, reason=reason)
            self.idle = True
            self._on_change(self.queue, lost)
            if subscription in self._given_up:
                await asyncio.sleep(AFTER_ERROR_S)

    async def _subscribe(self) -> Subscription | None:
        """A subscription, as soon as it can be had; ``None`` where it is not wanted any more."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, BrokerError) and self.wanted),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            before_sleep=self._refused,
            reraise=True,
        )
        async with self._places:
            try:
                subscription: Subscription = await retrying(
                    self._broker.subscribe, self.queue, self._on_delivery, prefetch=self._prefetch
                )
            except BrokerError:
                return None
        if self._draining or not self.wanted:
            await subscription.close()
            return None
        return subscription

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
            while subscription not in self._given_up and subscription not in self._released:
                self._gave_up.clear()
                gave_up = asyncio.create_task(self._gave_up.wait())
                try:
                    await asyncio.wait({lost, gave_up}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    gave_up.cancel()
                if lost.done():
                    return lost.result()
            return self._released.get(subscription, "given up after an unexpected error")
        finally:
            lost.cancel()

    def _on_delivery(self, delivery: Delivery) -> None:
        if delivery.subscription in self._given_up or delivery.subscription in self._released:
            return  # it comes again, behind the one for which the generation was given up
        if self.delivered_at is None:
            self.delivered_at = asyncio.get_running_loop().time()
        self._intake.take(delivery)

    def _refused(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._observer.queue_lost(queue=self.queue, reason=str(error))
