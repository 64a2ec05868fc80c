"""Reading: looking through the letters without taking any out of the queue, but for those that are done with."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from sdqueue.brokers import Broker, Delivery, Subscription
from sdqueue.deadletters.letter import DeadLetter, LetterFilter
from sdqueue.errors import BrokerUnavailable

PREFETCH: Final = 65_535
"""Letters that one subscription holds: the most that AMQP allows. Where there are more, another one goes on behind."""

POLL_S: Final = 0.25
"""After so much silence it is looked whether anything is still to come."""

SILENCE_S: Final = 30.0
"""Longest silence while the broker says that there is more."""

BACK_OFF_S: Final = (0.05, 0.3)
"""Least and longest wait before it is looked again whether another reader has ended."""

_UNKNOWN: Final = datetime.min.replace(tzinfo=UTC)


class Reading:
    """The letters that wait in the queue, each held until the end: what is not done with returns then.

    ::

        async with Reading(broker, which, limit=None, patience_s=10) as reading:
            for letter in await reading.letters():
                ...
                reading.done_with(letter)

    Two that read at once would each see a part, so it begins when it is alone, and steps back where another one begins
    at the same moment. Letters that come meanwhile are not read: one that is put back and dies again at once would be
    met for ever. Only those that are wanted stay in memory.

    Parameters:
        broker: entered by the caller.
        which: the letters that are wanted.
        limit: the oldest so many; ``None``: all.
        patience_s: seconds to wait for other readers. After that it reads what they have left, and says so in
            ``alone``.
    """

    def __init__(self, broker: Broker, which: LetterFilter, *, limit: int | None, patience_s: float) -> None:
        self.waiting = 0
        """Letters that waited at the beginning."""
        self.matching = 0
        """How many of them fit."""
        self.alone = True
        """Whether nobody else read at the beginning, so that ``waiting`` was all."""
        self._broker = broker
        self._queue = broker.topology.dead
        self._which = which
        self._limit = limit
        self._patience_s = patience_s
        self._subscriptions: dict[Subscription, asyncio.Task[str]] = {}
        # The youngest of those that are kept is on top: it makes room for an older one.
        self._kept: list[tuple[float, int, DeadLetter]] = []
        self._deliveries: dict[DeadLetter, Delivery] = {}
        self._numbers = itertools.count()
        self._seen = 0
        self._stirred = asyncio.Event()

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def letters(self) -> list[DeadLetter]:
        """Those that are wanted, in the order in which they died.

        Not in that of the queue: readers that were killed, or stepped back, may have mixed it up, and the turns of a
        session should be put back in order.

        Raises:
            BrokerUnavailable: the connection went. Everything is back in the queue.
        """
        while self._seen < self.waiting:
            self.check_lost()
            if self._seen >= PREFETCH * len(self._subscriptions):
                await self._subscribe()
            elif not await self._has_stirred():
                break
        self.check_lost()
        return [letter for _, _, letter in sorted(self._kept, reverse=True)]

    def done_with(self, letter: DeadLetter) -> None:
        """Take a letter out of the queue for good."""
        delivery = self._deliveries.pop(letter)
        delivery.subscription.ack(delivery)

    def check_lost(self) -> None:
        """See that the letters are still in hand, to be called before anything is done about one.

        Raises:
            BrokerUnavailable: the connection went.
        """
        for lost in self._subscriptions.values():
            if lost.done():
                raise BrokerUnavailable(f"lost while its letters were read: {lost.result()}; try again")

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            late = loop.time() >= deadline
            state = await self._broker.queue_state(self._queue)
            if not state.receivers or late:
                self.waiting = state.depth
                if self.waiting:
                    await self._subscribe()
                    # Looked at again: whoever began at the same moment has what is missing here.
                    state = await self._broker.queue_state(self._queue)
                self.alone = state.receivers == len(self._subscriptions)
                if self.alone or late:
                    return
            await self._end()
            await asyncio.sleep(random.uniform(*BACK_OFF_S))

    async def _subscribe(self) -> None:
        subscription = await self._broker.subscribe(self._queue, self._on_delivery, prefetch=PREFETCH)
        lost = self._subscriptions[subscription] = asyncio.create_task(subscription.wait_lost())
        lost.add_done_callback(lambda _: self._stirred.set())

    async def _end(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, {}
        closing = asyncio.create_task(_close(subscriptions))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            # Whoever is cancelled here must not go on to hold what it had in hand.
            await asyncio.wait({closing})
            raise
        self._kept.clear()
        self._deliveries.clear()
        self._seen = self.matching = 0

    def _on_delivery(self, delivery: Delivery) -> None:
        if self._seen >= self.waiting:
            return
        self._seen += 1
        self._stirred.set()
        letter = DeadLetter.read(delivery)
        if not self._which.takes(letter):
            return
        self.matching += 1
        age = -(letter.why.died_at or _UNKNOWN).timestamp()
        heapq.heappush(self._kept, (age, -next(self._numbers), letter))
        self._deliveries[letter] = delivery
        if self._limit is not None and len(self._kept) > self._limit:
            _, _, youngest = heapq.heappop(self._kept)
            del self._deliveries[youngest]

    async def _has_stirred(self) -> bool:
        """Wait for a letter; ``False`` where none is to come any more, since somebody else has taken what waited."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SILENCE_S
        empty = 0
        self._stirred.clear()
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    return await self._stirred.wait()
            except TimeoutError:
                # Twice, since what has left the queue may be on its way here.
                empty = empty + 1 if await self._broker.depth(self._queue) == 0 else 0
            if empty == 2:
                return False
            if loop.time() >= deadline:
                raise BrokerUnavailable(
                    f"queue {self._queue}: letters wait, but none came within {SILENCE_S:g} s; look whether the broker "
                    "is well"
                )


async def _close(subscriptions: dict[Subscription, asyncio.Task[str]]) -> None:
    for lost in subscriptions.values():
        lost.cancel()
    await asyncio.gather(*(subscription.close() for subscription in subscriptions))
    await asyncio.gather(*subscriptions.values(), return_exceptions=True)
