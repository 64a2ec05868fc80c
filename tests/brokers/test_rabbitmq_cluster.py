"""RabbitMQ as a cluster of three nodes: the suite that every broker passes, and what the death of a node costs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from sdqueue.brokers.rabbitmq import RabbitMQBroker
from sdqueue.brokers.topology import Topology
from sdqueue.testing.brokers import BrokerSuite, MakeBroker
from tests.brokers.traffic import PATIENCE_S, traffic
from tests.servers.cluster import RabbitMQCluster
from tests.servers.namespaces import clear_rabbitmq, declarations

# Three nodes start in half a minute on two busy cores.
pytestmark = [pytest.mark.rabbitmq, pytest.mark.cluster, pytest.mark.timeout(400)]


@pytest_asyncio.fixture
async def cluster(rabbitmq_cluster: Callable[..., Awaitable[RabbitMQCluster]]) -> RabbitMQCluster:
    return await rabbitmq_cluster()


@pytest_asyncio.fixture
async def topology(request: pytest.FixtureRequest, cluster: RabbitMQCluster, namespace: str) -> AsyncIterator[Topology]:
    """Removed afterwards: hundreds of quorum queues with three members each would slow the next test down."""
    with declarations() as (queues, exchanges):
        yield Topology(namespace, partitions=getattr(request, "param", 4))
    await clear_rabbitmq(cluster.nodes[0].url, namespace, queues, exchanges)


@pytest_asyncio.fixture
async def broker(cluster: RabbitMQCluster, topology: Topology) -> AsyncIterator[RabbitMQBroker]:
    async with RabbitMQBroker(cluster.url, topology) as broker:
        await broker.apply(timeout=PATIENCE_S)
        yield broker


class TestRabbitMQCluster(BrokerSuite):
    @pytest.fixture
    def topology(self, topology: Topology) -> Topology:
        return topology

    @pytest.fixture
    def make_broker(self, cluster: RabbitMQCluster) -> MakeBroker:
        return lambda topology: RabbitMQBroker(cluster.url, topology)


@pytest.mark.parametrize("topology", [64], indirect=True)
async def test_every_queue_has_a_member_on_each_node_and_each_node_leads_its_part(
    cluster: RabbitMQCluster, broker: RabbitMQBroker, topology: Topology
) -> None:
    """Although one client declared all of them on one node."""
    listed = await cluster.nodes[0].ctl("list_queues", "name", "leader", "members", "--formatter", "json")
    queues = {queue["name"]: queue for queue in json.loads(listed)}
    names = {node.node for node in cluster.nodes}
    ours = [queues[queue.name] for queue in topology.queues]
    assert all(set(queue["members"]) == names for queue in ours)
    leaders = Counter(queue["leader"] for queue in ours)
    assert min(leaders[name] for name in names) >= 10, leaders


async def test_every_node_is_killed_in_turn_and_nothing_is_lost_or_reordered(
    cluster: RabbitMQCluster, broker: RabbitMQBroker, topology: Topology
) -> None:
    """Given publishers and consumers at work, when nodes are killed and come back one after the other, among them
    those that lead the queues and those that the client is connected to, then it goes on by itself."""
    async with traffic(broker, topology) as consumers:
        for node in cluster.nodes:
            await cluster.redundant()
            await node.kill()
            before = [len(consumer.bodies) for consumer in consumers]
            for consumer, count in zip(consumers, before, strict=True):
                await consumer.expect_more_than(count + 20)
            await node.start()
    assert all(consumer.losses for consumer in consumers)
