"""StallWatch: sees that turns do not move, and says what holds them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from sdqueue.brokers import Broker, Subscription
from sdqueue.consumer.intake import Intake
from sdqueue.consumer.mailbox import Mailboxes
from sdqueue.errors import BrokerError
from sdqueue.observe import Observer

EVERY_S: Final = 5.0
"""Seconds between two looks."""

SILENT_S: Final = 30.0
"""A queue that has messages and delivers none to its owner for so long is stuck: longer than the broker's heartbeat
takes to give up a consumer that hangs, and that the queue still waits for."""


class StallWatch:
    """Looks at what a consumer has in hand, and at the queues that should give it more.

    Told are: a delivery older than a third of the broker's consumer timeout, after which the broker would take the
    channel away with all that it has; and a queue with messages that has delivered none for 30 seconds while nothing
    of it is in hand. Such a queue is subscribed anew: the broker may have lost the consumer without saying so. (A
    blocked event loop is seen by :class:`~sdqueue.consumer.loopwatch.LoopWatch`, from its thread.)

    Parameters:
        broker: asked how many messages wait.
        mailboxes: what is in hand.
        intake: knows when a queue has last delivered.
        queues: those that this consumer should be receiving, with their subscriptions.
        give_up: ends a subscription, so that it is made anew.
        observer: told.
        consumer_timeout_s: the broker's.
    """

    def __init__(
        self,
        broker: Broker,
        mailboxes: Mailboxes,
        intake: Intake,
        queues: Callable[[], Iterable[tuple[str, Subscription]]],
        give_up: Callable[[str, Subscription], None],
        observer: Observer,
        *,
        consumer_timeout_s: float,
    ) -> None:
        self._broker = broker
        self._mailboxes = mailboxes
        self._intake = intake
        self._queues = queues
        self._give_up = give_up
        self._observer = observer
        self._old_s = consumer_timeout_s / 3
        self._said: dict[int, float] = {}
        self._since: dict[Subscription, float] = {}

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            self._look_at_deliveries(time.monotonic())
            await self._look_at_queues(time.monotonic())

    def _look_at_deliveries(self, now: float) -> None:
        said: dict[int, float] = {}
        oldest = 0.0
        for work, held_by in self._mailboxes.works():
            if not work.is_delivery:
                continue
            age = now - work.arrived
            oldest = max(oldest, age)
            if age < self._old_s:
                continue
            said[id(work)] = self._said.get(id(work), 0.0)
            if age >= 2 * said[id(work)]:  # again each time its age has doubled
                said[id(work)] = age
                self._observer.delivery_stalled(
                    queue=work.delivery.queue,
                    session_id=work.session_id,
                    turn_id=work.turn_id,
                    seconds=age,
                    held_by=held_by,
                )
        self._said = said
        self._observer.oldest_delivery(seconds=oldest)

    async def _look_at_queues(self, now: float) -> None:
        in_hand = {id(work.delivery.subscription) for work, _ in self._mailboxes.works()}
        since: dict[Subscription, float] = {}
        for queue, subscription in list(self._queues()):
            last = max(self._since.get(subscription, now), self._intake.last.get(queue, 0.0))
            if id(subscription) in in_hand:
                last = now
            since[subscription] = last
            if now - last < SILENT_S:
                continue
            try:
                depth = await self._broker.depth(queue)
            except BrokerError:
                continue  # its reader notices too, and says so
            if depth:
                self._observer.queue_stalled(queue=queue, depth=depth, seconds=now - last)
                self._give_up(queue, subscription)
            since[subscription] = now
        self._since = since
