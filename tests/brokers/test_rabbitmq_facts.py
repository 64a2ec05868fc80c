"""What the design takes for granted of RabbitMQ, tried on the release that runs, with a client that is not ours.

A release on which one of these fails needs another design, or a line in the decisions.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiormq
import pytest
import pytest_asyncio
from aiormq.abc import DeliveredMessage

from sdqueue.testing.brokers import numbered

pytestmark = pytest.mark.rabbitmq

PREFETCH: Final = 20


class Holder:
    """A consumer on a channel of its own that acknowledges only what it is told to."""

    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        self.channel = channel
        self.tag = ""
        self.messages: list[DeliveredMessage] = []
        self._arrived = asyncio.Event()

    async def start(self, queue: str) -> None:
        await self.channel.basic_qos(prefetch_count=PREFETCH)
        self.tag = (await self.channel.basic_consume(queue, self._take)).consumer_tag or ""

    async def _take(self, message: DeliveredMessage) -> None:
        self.messages.append(message)
        self._arrived.set()

    @property
    def bodies(self) -> list[bytes]:
        return [message.body for message in self.messages]

    async def expect(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.messages) < count:
                self._arrived.clear()
                await self._arrived.wait()

    async def ack(self, count: int) -> None:
        """Acknowledge the first so many."""
        for message in self.messages[:count]:
            await self.channel.basic_ack(message.delivery_tag or 0)


class Place:
    """A queue like those of partitions, with numbered messages in it."""

    def __init__(self, connection: aiormq.abc.AbstractConnection, queue: str) -> None:
        self.connection = connection
        self.queue = queue

    async def fill(self, channel: aiormq.abc.AbstractChannel, count: int, **arguments: Any) -> None:
        declared = {"x-queue-type": "quorum", "x-single-active-consumer": True, "x-delivery-limit": 1000, **arguments}
        await channel.queue_declare(self.queue, durable=True, arguments=declared)
        for body in numbered(range(count)):
            await channel.basic_publish(body, routing_key=self.queue)

    @asynccontextmanager
    async def holder(self) -> AsyncIterator[Holder]:
        """A consumer; it stands in line behind those that are there, and its channel is closed at the end."""
        channel = await self.connection.channel()
        holder = Holder(channel)
        await holder.start(self.queue)
        yield holder
        await channel.close()


@pytest_asyncio.fixture
async def place(amqp_url: str, namespace: str) -> AsyncIterator[Place]:
    async with aiormq.connect(amqp_url) as connection:
        channel = await connection.channel()
        made = Place(connection, f"{namespace}.turns.0000")
        await made.fill(channel, 40)
        yield made


async def test_closing_the_channel_gives_the_successor_everything_in_order(place: Place) -> None:
    async with place.holder() as first:
        await first.expect(PREFETCH)
        await first.ack(3)
        await first.expect(PREFETCH + 3)
        second = Holder(await place.connection.channel())
        await second.start(place.queue)
    await second.expect(PREFETCH)
    assert second.bodies[:PREFETCH] == numbered(range(3, 3 + PREFETCH))


async def test_cancelling_first_gives_the_successor_later_messages(place: Place) -> None:
    """Why a partition is given up by closing its channel. Should this fail one day, both ways are open."""
    async with place.holder() as first:
        await first.expect(PREFETCH)
        await first.ack(3)
        await first.expect(PREFETCH + 3)
        await first.channel.basic_cancel(first.tag)
        second = Holder(await place.connection.channel())
        await second.start(place.queue)
        await second.expect(1)
        assert second.bodies[0] == b"23"


KILLED = """
import asyncio, sys
import aiormq

async def main(url, queue, prefetch):
    held = []

    async def take(message):
        held.append(message)
        if len(held) == prefetch:
            print("full", flush=True)

    channel = await (await aiormq.connect(url)).channel()
    await channel.basic_qos(prefetch_count=prefetch)
    await channel.basic_consume(queue, take)
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_a_consumer_that_is_killed_gives_the_successor_everything_in_order(place: Place, amqp_url: str) -> None:
    first = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, amqp_url, place.queue, str(PREFETCH), stdout=asyncio.subprocess.PIPE
    )
    assert first.stdout is not None
    async with asyncio.timeout(30):
        assert await first.stdout.readline() == b"full\n"
    async with place.holder() as second:
        first.kill()
        await first.wait()
        await second.expect(PREFETCH)
        assert second.bodies == numbered(range(PREFETCH))


@pytest.mark.parametrize("seed", range(5))
async def test_a_succession_of_consumers_with_one_prefetch_keeps_the_order(place: Place, seed: int) -> None:
    """Each acknowledges a few and is gone; repeats are dropped, as the ring of a session drops them."""
    chance = random.Random(seed)
    seen: list[bytes] = []
    left = 40
    while left:
        async with place.holder() as holder:
            await holder.expect(min(left, PREFETCH))
            done = min(left, chance.randint(0, PREFETCH))
            await holder.ack(done)
            seen += holder.bodies[: chance.randint(done, min(left, PREFETCH))]
            left -= done
    assert list(dict.fromkeys(seen)) == numbered(range(40))


async def test_an_explicit_delivery_limit_keeps_what_is_returned_often(place: Place) -> None:
    """RabbitMQ 4 gives a message up after 20 returns where the queue has no limit of its own."""
    for _ in range(25):
        async with place.holder() as holder:
            await holder.expect(PREFETCH)
            assert holder.bodies == numbered(range(PREFETCH))
