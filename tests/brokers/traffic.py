"""Numbered messages through a namespace while a test breaks things, and what must have come of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from sdqueue.brokers.broker import Delivery, Message
from sdqueue.brokers.rabbitmq import RabbitMQBroker
from sdqueue.brokers.topology import Topology
from sdqueue.errors import PublishRejected
from sdqueue.testing.brokers import numbered

PATIENCE_S: Final = 60.0


class Consumer:
    """Consumes a queue the way a process does: whenever the subscription is lost, it subscribes again."""

    def __init__(self, broker: RabbitMQBroker, queue: str) -> None:
        self.bodies: list[bytes] = []
        self.losses: list[str] = []
        self._broker = broker
        self._queue = queue
        self._arrived = asyncio.Event()

    def _take(self, delivery: Delivery) -> None:
        self.bodies.append(delivery.message.body)
        delivery.subscription.ack(delivery)
        self._arrived.set()

    async def run(self) -> None:
        while True:
            subscription = await self._broker.subscribe(self._queue, self._take, prefetch=20, timeout=PATIENCE_S)
            self.losses.append(await subscription.wait_lost())
            self._arrived.set()

    async def expect_loss(self) -> None:
        await self._until(lambda: bool(self.losses))

    async def expect(self, body: bytes) -> None:
        await self._until(lambda: body in self.bodies)

    async def expect_more_than(self, count: int) -> None:
        await self._until(lambda: len(self.bodies) > count)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._arrived.clear()
                await self._arrived.wait()


@asynccontextmanager
async def traffic(broker: RabbitMQBroker, topology: Topology) -> AsyncIterator[list[Consumer]]:
    """Numbered messages to all partitions while the block breaks things; then everything confirmed must
    have come."""
    consumers = [Consumer(broker, topology.partition_queue(p)) for p in range(topology.partitions)]
    stop = asyncio.Event()
    confirmed: list[int] = [0] * topology.partitions
    flowing = asyncio.Event()

    async def publish(partition: int) -> None:
        while not stop.is_set() or confirmed[partition] < 100:
            async with asyncio.timeout(PATIENCE_S):
                await _publish(broker, topology, partition, b"%d" % confirmed[partition])
            confirmed[partition] += 1
            if min(confirmed) >= 20:
                flowing.set()

    running = [asyncio.create_task(consumer.run()) for consumer in consumers]
    try:
        async with asyncio.TaskGroup() as publishers:
            for partition in range(topology.partitions):
                publishers.create_task(publish(partition))
            async with asyncio.timeout(PATIENCE_S):
                await flowing.wait()
            yield consumers
            stop.set()
        for partition, consumer in enumerate(consumers):
            await consumer.expect(b"%d" % (confirmed[partition] - 1))
            assert list(dict.fromkeys(consumer.bodies)) == numbered(range(confirmed[partition]))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _publish(broker: RabbitMQBroker, topology: Topology, partition: int, body: bytes) -> None:
    """Publish, and do what the error of a refusal says: try again. A cluster refuses while it looks for a leader."""
    while True:
        try:
            await broker.publish(topology.turns, f"{partition:04d}", Message(body), timeout=PATIENCE_S)
        except PublishRejected:
            await asyncio.sleep(0.05)
        else:
            return
