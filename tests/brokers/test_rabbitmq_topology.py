"""RabbitMQ: what is declared, completed and refused, on the run's shared server."""

from __future__ import annotations

import aiormq
import pytest

from sdqueue.brokers.broker import Broker
from sdqueue.brokers.rabbitmq import RabbitMQBroker
from sdqueue.brokers.topology import Topology
from sdqueue.errors import TopologyMismatch, TopologyMissing

pytestmark = pytest.mark.rabbitmq


async def test_a_queue_with_other_properties_is_refused_with_the_brokers_words(
    amqp_url: str, topology: Topology, admin: aiormq.abc.AbstractChannel
) -> None:
    await admin.queue_declare(topology.partition_queue(2), durable=True)
    async with RabbitMQBroker(amqp_url, topology) as broker:
        with pytest.raises(TopologyMismatch) as caught:
            await broker.apply()
        assert topology.partition_queue(2) in str(caught.value)
        assert "inequivalent arg" in str(caught.value)
        assert "SDQUEUE_NAMESPACE" in str(caught.value)
        with pytest.raises(TopologyMissing):
            await broker.check()


async def test_an_exchange_of_another_kind_is_refused(
    amqp_url: str, topology: Topology, admin: aiormq.abc.AbstractChannel
) -> None:
    await admin.exchange_declare(topology.turns, exchange_type="topic", durable=True)
    async with RabbitMQBroker(amqp_url, topology) as broker:
        with pytest.raises(TopologyMismatch, match=rf"exchange '{topology.turns}'.*type"):
            await broker.apply()


async def test_a_topology_that_was_left_half_applied_is_completed(
    broker: Broker, topology: Topology, admin: aiormq.abc.AbstractChannel
) -> None:
    """Given a process that died before the replies exchange; then another one finishes its work."""
    await admin.exchange_delete(topology.replies)
    await admin.queue_delete(topology.partition_queue(3))
    with pytest.raises(TopologyMissing):
        await broker.check()
    await broker.apply()
    await broker.check()
    assert await broker.depth(topology.partition_queue(3)) == 0


async def test_a_complete_topology_with_fewer_partitions_is_not_grown(
    amqp_url: str, broker: Broker, topology: Topology
) -> None:
    async with RabbitMQBroker(amqp_url, Topology(topology.namespace, partitions=64)) as other:
        with pytest.raises(TopologyMismatch, match=r"has 4 partitions .* 64 .*SDQUEUE_PARTITIONS=4"):
            await other.apply()
        with pytest.raises(TopologyMissing):
            await other.depth(topology.partition_queue(4))


async def test_queues_have_the_properties_that_order_and_safety_rest_on(
    broker: Broker, topology: Topology, admin: aiormq.abc.AbstractChannel
) -> None:
    """Declaring with the same arguments passes; any other would close the channel."""
    await admin.queue_declare(
        topology.partition_queue(0),
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-delivery-limit": 1000,
            "x-dead-letter-exchange": topology.dead,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-queue-leader-locator": "balanced",
        },
    )
    await admin.exchange_declare(
        topology.turns,
        exchange_type="direct",
        durable=True,
        arguments={"alternate-exchange": topology.unrouted},
    )
    assert await broker.depth(topology.dead) == 0


async def test_64_partitions_are_declared_in_little_time(amqp_url: str, namespace: str) -> None:
    async with RabbitMQBroker(amqp_url, Topology(namespace, partitions=64)) as broker:
        await broker.apply(timeout=15)
        await broker.check()
        assert await broker.depth(broker.topology.partition_queue(63)) == 0


async def test_egress_before_the_topology_says_what_to_do(amqp_url: str, topology: Topology) -> None:
    async with RabbitMQBroker(amqp_url, topology) as broker:
        with pytest.raises(TopologyMissing, match="sdqueue topology apply"):
            await broker.declare_egress("slack")
        with pytest.raises(TopologyMissing):
            await broker.depth(topology.egress_queue("slack"))


@pytest.mark.parametrize("partitions", [2, 8])
async def test_who_counts_other_partitions_is_told_before_the_first_turn(
    amqp_url: str, broker: Broker, topology: Topology, partitions: int
) -> None:
    """A producer with another number would put one session into two queues."""
    async with RabbitMQBroker(amqp_url, Topology(topology.namespace, partitions)) as other:
        with pytest.raises(TopologyMismatch, match=rf"has 4 partitions .* {partitions} .*SDQUEUE_PARTITIONS=4"):
            await other.check()
