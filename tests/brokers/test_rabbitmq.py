"""RabbitMQ: the suite that every broker passes, and its own ways of consuming, on the run's shared server."""

from __future__ import annotations

import asyncio
from typing import cast
from urllib.parse import urlsplit

import aiormq
import pytest

from sdqueue.brokers.broker import Broker, Message, Subscription
from sdqueue.brokers.rabbitmq import RabbitMQBroker, RabbitMQSubscription
from sdqueue.brokers.rabbitmq.wire import ack_frame
from sdqueue.brokers.topology import Topology
from sdqueue.errors import BrokerUnavailable, ConfigurationError, TopologyMissing, Unroutable
from sdqueue.testing.brokers import BrokerSuite, Inbox, MakeBroker
from tests.servers.process import free_port

pytestmark = pytest.mark.rabbitmq


class TestRabbitMQBroker(BrokerSuite):
    @pytest.fixture
    def topology(self, topology: Topology) -> Topology:
        return topology

    @pytest.fixture
    def make_broker(self, connect_to: MakeBroker) -> MakeBroker:
        return connect_to


class TestRabbitMQBrokerWithCuts(TestRabbitMQBroker):
    """The same, where consumers do not close but are thrown out by the broker."""

    reports_loss = True

    async def lose(self, subscription: Subscription) -> None:
        ended = cast("RabbitMQSubscription", subscription)
        ended._flush()  # the suite takes its acks for sent
        channel = ended._channel
        assert channel is not None
        # There is no such delivery, for which the broker closes the channel.
        channel.send(ack_frame(channel.number, 2**40, multiple=False))
        async with asyncio.timeout(10):
            await subscription.wait_lost()


async def test_the_connections_can_be_told_apart_and_the_product_is_named(broker: Broker) -> None:
    assert (await broker.describe()).startswith("RabbitMQ ")


@pytest.mark.parametrize(
    "url", ["redis://localhost", "amqp://", "amqp://host:port/", "amqp://host:99999/", "amqp://[::1"]
)
def test_an_address_of_something_else_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="amqp://user:password@host"):
        RabbitMQBroker(url, Topology("x"))


async def test_of_several_hosts_the_first_that_answers_is_taken(amqp_url: str, topology: Topology) -> None:
    """Each broker begins with any of them, so some meet the dead one first."""
    alive = urlsplit(amqp_url).netloc.rpartition("@")[2]
    url = amqp_url.replace(alive, f"127.0.0.1:{free_port()},{alive},127.0.0.1:{free_port()}")
    for _ in range(6):
        async with RabbitMQBroker(url, topology) as broker:
            assert (await broker.describe()).startswith("RabbitMQ ")


async def test_of_several_hosts_each_is_named_with_what_it_said(topology: Topology) -> None:
    ports = free_port(), free_port()
    async with RabbitMQBroker(f"amqp://u:secret@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/", topology) as broker:
        said = ""
        async with asyncio.timeout(20):
            while not all(f"127.0.0.1:{port}: " in said for port in ports):  # until both have been tried
                with pytest.raises(BrokerUnavailable) as caught:
                    await broker.describe(timeout=0.2)
                said = str(caught.value)
                assert "secret" not in said


async def test_a_deleted_queue_ends_its_subscription(
    broker: Broker, topology: Topology, admin: aiormq.abc.AbstractChannel
) -> None:
    inbox = Inbox()
    subscription = await broker.subscribe(topology.partition_queue(0), inbox, prefetch=5)
    await broker.publish(topology.turns, "0000", Message(b"x"))
    await inbox.expect(1)
    await admin.queue_delete(topology.partition_queue(0))
    async with asyncio.timeout(10):
        reason = await subscription.wait_lost()
    assert topology.partition_queue(0) in reason
    assert "cancelled" in reason
    subscription.ack(inbox.deliveries[0])
    await subscription.close()


async def test_who_comes_as_the_queue_goes_costs_no_other_subscription(
    broker: Broker, topology: Topology, admin: aiormq.abc.AbstractChannel
) -> None:
    """A subscription of a queue that is being deleted is made again at once, as consumers do it."""
    inbox = Inbox(acks=True)
    other = await broker.subscribe(topology.partition_queue(1), inbox, prefetch=5)
    lost = asyncio.create_task(other.wait_lost())
    for _ in range(6):
        subscription = await broker.subscribe(topology.partition_queue(0), Inbox(), prefetch=5)
        deleting = asyncio.create_task(admin.queue_delete(topology.partition_queue(0)))
        async with asyncio.timeout(10):
            await subscription.wait_lost()
        for _ in range(5):
            with pytest.raises(TopologyMissing):
                await broker.subscribe(topology.partition_queue(0), Inbox(), prefetch=5)
        await deleting
        await broker.apply()
    assert not lost.done()
    lost.cancel()


async def test_a_callback_that_raises_costs_its_own_subscription_only(broker: Broker, topology: Topology) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("no")

    good = Inbox(acks=True)
    lost = await broker.subscribe(topology.partition_queue(0), broken, prefetch=5)
    await broker.subscribe(topology.partition_queue(1), good, prefetch=5)
    await broker.publish(topology.turns, "0000", Message(b"x"))
    async with asyncio.timeout(10):
        assert "no" in await lost.wait_lost()
    await broker.publish(topology.turns, "0001", Message(b"y"))
    await good.expect(1)
    assert good.bodies == [b"y"]
    again = Inbox()
    await broker.subscribe(topology.partition_queue(0), again, prefetch=5)
    await again.expect(1)
    assert again.bodies == [b"x"]


async def test_a_delivery_of_another_generation_is_not_acknowledged(broker: Broker, topology: Topology) -> None:
    """Tags begin at 1 on every channel, so a stale ack would settle somebody else's message."""
    await broker.publish(topology.turns, "0000", Message(b"x"))
    old, new = Inbox(), Inbox()
    first = await broker.subscribe(topology.partition_queue(0), old, prefetch=5)
    await old.expect(1)
    await first.close()
    second = await broker.subscribe(topology.partition_queue(0), new, prefetch=5)
    await new.expect(1)
    assert old.deliveries[0].tag == new.deliveries[0].tag
    second.ack(old.deliveries[0])
    await second.close()
    third = Inbox()
    await broker.subscribe(topology.partition_queue(0), third, prefetch=5)
    assert (await third.expect(1))[0].redelivered


async def test_a_private_queue_is_gone_with_its_subscription(broker: Broker) -> None:
    inbox = Inbox()
    private = await broker.subscribe_replies(inbox)
    await broker.publish("", private.queue, Message(b"hello"))
    await inbox.expect(1)
    private.ack(inbox.deliveries[0])
    await private.close()
    with pytest.raises(Unroutable):
        await broker.publish("", private.queue, Message(b"late"))
