"""BrokerFixtures: what the broker suite's tests are given, and what they wait with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import ClassVar
from uuid import uuid4

import pytest
import pytest_asyncio

from sdqueue.brokers.broker import Broker, Delivery, Message, Subscription
from sdqueue.brokers.topology import Topology
from sdqueue.errors import Unroutable
from sdqueue.messages import routing_key
from sdqueue.testing.inbox import Inbox, numbered

MakeBroker = Callable[[Topology], Broker]
Connect = Callable[[Topology], Awaitable[Broker]]


class BrokerFixtures:
    """The part of :class:`~sdqueue.testing.BrokerSuite` that is adapted to a broker."""

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.asyncio]

    quiet_s: ClassVar[float] = 0.15
    """Seconds to watch that something does not arrive. Longer only makes the suite slower and surer."""
    reports_loss: ClassVar[bool] = False
    """Whether :meth:`lose` ends the consumer from the broker's side, so that ``wait_lost`` returns."""

    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        """Makes a broker for a topology; not entered yet."""
        pytest.fail(f"{type(self).__name__} must override the fixture make_broker")

    @pytest.fixture
    def topology(self) -> Topology:
        """A namespace of the test's own."""
        return Topology(f"t{uuid4().hex[:12]}", partitions=4)

    @pytest_asyncio.fixture
    async def connect(self, make_broker: MakeBroker) -> AsyncIterator[Connect]:
        """Another broker on the same server, entered; left when the test ends."""
        async with AsyncExitStack() as stack:

            async def connected(topology: Topology) -> Broker:
                return await stack.enter_async_context(make_broker(topology))

            yield connected

    @pytest_asyncio.fixture
    async def broker(self, connect: Connect, topology: Topology) -> Broker:
        """A broker with its topology applied."""
        broker = await connect(topology)
        await broker.apply()
        return broker

    async def lose(self, subscription: Subscription) -> None:
        """End a consumer abruptly; by default it closes."""
        await subscription.close()

    async def publish_numbers(self, broker: Broker, topology: Topology, numbers: Iterable[int]) -> None:
        """Publish numbered messages to partition 0, one after the other."""
        for body in numbered(numbers):
            await broker.publish(topology.turns, routing_key(0), Message(body))

    async def round_trip(self, broker: Broker, topology: Topology, message: Message) -> Delivery:
        """Publish a message, and what came of it."""
        inbox = Inbox(acks=True)
        subscription = await broker.subscribe(topology.partition_queue(2), inbox, prefetch=5)
        await broker.publish(topology.turns, routing_key(2), message)
        await inbox.expect(1)
        await subscription.close()
        return inbox.deliveries[0]

    async def expect_unroutable(self, broker: Broker, queue: str) -> None:
        """A broker may remove a queue with a delay, so this publishes until it is refused."""
        async with asyncio.timeout(20):
            refused = False
            while not refused:
                try:
                    await broker.publish("", queue, Message(b"late"))
                except Unroutable:
                    refused = True
        assert refused

    async def expect_removed(self, broker: Broker, queue: str) -> None:
        """A broker may count with a delay, so this asks until it finds nothing there."""
        async with asyncio.timeout(20):
            removed = False
            while not removed:
                removed = await broker.remove(queue)
                await asyncio.sleep(0 if removed else 0.05)
        assert removed

    async def expect_depth(self, broker: Broker, queue: str, count: int) -> None:
        """A broker may count with a delay, and counting sends no event, so this asks until it fits."""
        found = -1
        for _ in range(200):
            found = await broker.depth(queue)
            if found == count:
                break
            await asyncio.sleep(0.05)
        assert found == count
