"""RabbitMQ on the run's shared server, for the modules that have no ``topology`` and ``broker`` of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiormq
import pytest
import pytest_asyncio

from sdqueue.brokers.broker import Broker
from sdqueue.brokers.rabbitmq import RabbitMQBroker
from sdqueue.brokers.topology import Topology
from sdqueue.testing.brokers import MakeBroker


@pytest_asyncio.fixture
async def admin(amqp_url: str) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    """A plain channel to arrange and break things with, independent of what is tested."""
    async with aiormq.connect(amqp_url) as connection:
        yield await connection.channel()


class Recording(RabbitMQBroker):
    """Notes the egress queues that it makes, because AMQP cannot list them for their removal."""

    egress: list[str]

    async def declare_egress(self, channel: str, *, timeout: float = 10.0) -> str:
        self.egress.append(self.topology.egress_queue(channel))
        return await super().declare_egress(channel, timeout=timeout)


@pytest_asyncio.fixture
async def connect_to(amqp_url: str, admin: aiormq.abc.AbstractChannel) -> AsyncIterator[MakeBroker]:
    """Makes brokers on the shared server; their egress queues are deleted afterwards."""
    egress: list[str] = []

    def make(topology: Topology) -> RabbitMQBroker:
        broker = Recording(amqp_url, topology)
        broker.egress = egress
        return broker

    yield make
    for queue in egress:
        await admin.queue_delete(queue)


@pytest.fixture
def topology(namespace: str) -> Topology:
    return Topology(namespace, partitions=4)


@pytest_asyncio.fixture
async def broker(connect_to: MakeBroker, topology: Topology) -> AsyncIterator[Broker]:
    async with connect_to(topology) as broker:
        await broker.apply()
        yield broker
