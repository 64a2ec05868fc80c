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
"""A queue that has delivered nothing for so long is asked about: longer than the broker takes to give up a consumer
that hangs."""


class StallWatch:
    """Looks at what a consumer has in hand, and at the queues that should give it more.

    Told are: a delivery older than a third of the broker's consumer timeout, after which the broker would take the
    channel away with all that it has; and a queue of this consumer that has messages and delivers none, while nothing
    of it is in hand. If nobody receives it, the broker has lost the consumer without saying so, and it is subscribed
    anew; else another one hangs with it. (A blocked event loop is seen by
    :class:`~sdqueue.consumer.loopwatch.LoopWatch`, from its thread.)

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
        self._silent: dict[Subscription, tuple[float, int]] = {}
        """Since when a queue delivers nothing, and how many messages it had when the broker was asked."""

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
        silent: dict[Subscription, tuple[float, int]] = {}
        for queue, subscription in list(self._queues()):
            since, depth = self._silent.get(subscription, (now, 0))
            if id(subscription) in in_hand or self._intake.last.get(queue, 0.0) > since:
                since, depth = now, 0
            if now - since >= SILENT_S:
                depth = await self._ask(queue, subscription, seconds=now - since, before=depth)
                since = now
            silent[subscription] = since, depth
        self._silent = silent

    async def _ask(self, queue: str, subscription: Subscription, *, seconds: float, before: int) -> int:
        """Ask the broker about a silent queue; returns how many messages are there.

        Parameters:
            seconds: how long it was silent.
            before: how many there were when it was asked last; 0 where that is no news.
        """
        try:
            state = await self._broker.queue_state(queue)
        except BrokerError:
            return before  # its reader notices too, and says so
        lost = state.receivers == 0
        # Where another consumer receives them, which may well be, they must at least grow fewer.
        if state.depth and (lost or 0 < before <= state.depth):
            self._observer.queue_stalled(queue=queue, depth=state.depth, seconds=seconds, lost=lost)
            if lost:
                self._give_up(queue, subscription)
        return state.depth
