"""Brokers of three kinds, with letters in their queues of the dead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from sdqueue.brokers import Broker, MemoryBroker, MemoryServer, RabbitMQBroker, SQLiteBroker, Topology
from tests.deadletters.office import Office

Connect = Callable[[], Broker]


@pytest.fixture(params=["memory", "sqlite", "rabbitmq"])
def connect(request: pytest.FixtureRequest, namespace: str, tmp_path: Path) -> Connect:
    """Makes brokers of one server, each as if it were another process's."""
    topology = Topology(namespace, partitions=4)
    match request.param:
        case "memory":
            server = MemoryServer()
            return lambda: MemoryBroker(topology, server)
        case "sqlite":
            return lambda: SQLiteBroker(topology, tmp_path / "broker.db")
    url = request.getfixturevalue("amqp_url")
    return lambda: RabbitMQBroker(url, topology)


@pytest_asyncio.fixture
async def office(connect: Connect) -> AsyncIterator[Office]:
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(connect()) for _ in range(2)]
        await brokers[0].apply()
        yield Office(*brokers)
