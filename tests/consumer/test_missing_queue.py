"""A partition queue that somebody has deleted, on a real RabbitMQ."""

from __future__ import annotations

import asyncio

import aiormq
import pytest

from sdqueue.brokers import MemoryBroker, RabbitMQBroker
from sdqueue.brokers.topology import Topology
from sdqueue.client import Client
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.errors import TopologyMissing
from sdqueue.messages import partition_of
from sdqueue.sessions import SessionWorker
from tests.consumer.stand import PATIENCE_S, Puppet, Watcher


async def test_its_turns_wait_until_it_is_back(amqp_url: str, namespace: str) -> None:
    """They come to the consumer as unrouted, and must neither go round in circles nor be condemned."""
    topology = Topology(namespace, partitions=4)
    session = next(f"s{n}" for n in range(100) if partition_of(f"s{n}", 4) == 1)
    missing = topology.partition_queue(1)
    watcher = Watcher()
    async with RabbitMQBroker(amqp_url, topology) as broker, asyncio.timeout(PATIENCE_S):
        await broker.apply()
        async with (
            Client(broker) as client,
            Consumer(broker, SessionWorker(agent_factory=Puppet), ConsumerOptions(name="c"), observer=watcher),
        ):
            async with aiormq.connect(amqp_url) as admin:
                await (await admin.channel()).queue_delete(missing)
            asked = [asyncio.create_task(client.ask(session, f"{n}", id=f"t{n}")) for n in range(3)]
            await watcher.changes.until(lambda: watcher.of("backend_away") and watcher.of("queue_lost"))

            await broker.apply()

            replies = await asyncio.gather(*asked)
    assert [reply.seq for reply in replies] == [1, 2, 3]
    assert missing in watcher.of("backend_away")[0]["error"]
    assert {state for _, state in watcher.settled} == {"forwarded", "completed"}


async def test_a_consumer_without_a_topology_says_so() -> None:
    """Nobody has applied it: waiting for queues that nobody makes would look like working."""
    async with MemoryBroker(Topology("none", partitions=4)) as broker, asyncio.timeout(PATIENCE_S):
        with pytest.raises(TopologyMissing, match="topology apply"):
            async with Consumer(broker, SessionWorker(agent_factory=Puppet)):
                pytest.fail("it is not ready")
