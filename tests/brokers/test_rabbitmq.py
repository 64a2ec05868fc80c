"""RabbitMQ: the suite that every broker passes, and what only it does, on the run's shared server."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any, cast

import aiormq
import pytest
import pytest_asyncio
from aiormq import spec

from sdqueue.brokers.broker import Broker, Message, Subscription
from sdqueue.brokers.rabbitmq import RabbitMQBroker, RabbitMQSubscription
from sdqueue.brokers.rabbitmq.connection import Connection
from sdqueue.brokers.rabbitmq.declare import short_channel
from sdqueue.brokers.rabbitmq.wire import ack_frame, publish_frames
from sdqueue.brokers.topology import Topology
from sdqueue.errors import (
    BrokerUnavailable,
    ConfigurationError,
    PublishRejected,
    TopologyMismatch,
    TopologyMissing,
    Unroutable,
)
from sdqueue.testing.brokers import BrokerSuite, Inbox, MakeBroker, numbered

pytestmark = pytest.mark.rabbitmq


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


@pytest_asyncio.fixture
async def broker(connect_to: MakeBroker, topology: Topology) -> AsyncIterator[Broker]:
    async with connect_to(topology) as broker:
        await broker.apply()
        yield broker


# Topology


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


async def test_the_connections_can_be_told_apart_and_the_product_is_named(broker: Broker) -> None:
    assert (await broker.describe()).startswith("RabbitMQ ")


@pytest.mark.parametrize(
    "url", ["redis://localhost", "amqp://", "amqp://host:port/", "amqp://host:99999/", "amqp://[::1"]
)
def test_an_address_of_something_else_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="amqp://user:password@host"):
        RabbitMQBroker(url, Topology("x"))


# Publishing


async def test_a_reply_and_its_copy_have_one_id_and_only_the_unroutable_one_fails(
    broker: Broker, topology: Topology
) -> None:
    """The interleaving that breaks it: two open publishes with one message id, of which the first is
    returned.

    A client that finds returned messages by their id fails the second, and takes the first for delivered.
    """
    copies = Message(b"reply", message_id="t:0")
    missing = f"{topology.namespace}.ask.0001"
    for first, second in (((""), topology.replies), (topology.replies, "")):
        outcomes = await asyncio.gather(
            *(
                broker.publish(exchange, "web.final.0001" if exchange else missing, copies)
                for exchange in (first, second)
            ),
            return_exceptions=True,
        )
        by_exchange = dict(zip((first, second), outcomes, strict=True))
        assert isinstance(by_exchange[""], Unroutable)
        assert by_exchange[topology.replies] is None


async def test_of_many_with_one_id_exactly_the_unroutable_ones_fail(broker: Broker, topology: Topology) -> None:
    """All in one lane: the suffix of the routing key decides."""
    good, bad = topology.partition_queue(1), f"{topology.namespace}.missing.0001"
    keys = [bad if n % 3 == 0 else good for n in range(60)]
    outcomes = await asyncio.gather(
        *(broker.publish("", key, Message(b"x", message_id="same")) for key in keys), return_exceptions=True
    )
    assert [isinstance(outcome, Unroutable) for outcome in outcomes] == [key == bad for key in keys]


async def test_a_message_without_id_is_returned_as_well_and_stays_without(broker: Broker, topology: Topology) -> None:
    with pytest.raises(Unroutable, match="no queue"):
        await broker.publish("", f"{topology.namespace}.missing", Message(b"x"))
    await broker.publish(topology.turns, "0000", Message(b"x"))
    inbox = Inbox(acks=True)
    await broker.subscribe(topology.partition_queue(0), inbox, prefetch=5)
    assert (await inbox.expect(1))[0].message.message_id is None


async def test_a_name_that_amqp_cannot_carry_is_unroutable(broker: Broker) -> None:
    with pytest.raises(Unroutable):
        await broker.publish("", "q" * 256, Message(b"x"))


async def test_a_full_queue_refuses_the_publish(
    broker: Broker, topology: Topology, admin: aiormq.abc.AbstractChannel
) -> None:
    queue = f"{topology.namespace}.full"
    arguments: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await admin.queue_declare(queue, durable=True, arguments=arguments)
    await broker.publish("", queue, Message(b"1"))
    with pytest.raises(PublishRejected, match="full"):
        await broker.publish("", queue, Message(b"2"))


async def test_a_missing_exchange_fails_its_own_messages_and_reorders_no_others(
    broker: Broker, topology: Topology
) -> None:
    """The interleaving that breaks it: the broker closes the channel over one message while others before
    and behind it are open; those are sent again, and must not be overtaken by what was published meanwhile.
    """
    nowhere = f"{topology.namespace}.nowhere"

    async def publish(n: int) -> None:
        exchange = nowhere if n % 50 == 25 else topology.turns
        await broker.publish(exchange, "0000", Message(b"%d" % n))

    outcomes = await asyncio.gather(*(publish(n) for n in range(200)), return_exceptions=True)
    failed = [n for n, outcome in enumerate(outcomes) if outcome is not None]
    assert failed == [25, 75, 125, 175]
    assert all(isinstance(outcomes[n], TopologyMissing) for n in failed)
    assert nowhere in str(outcomes[25])
    await broker.publish(topology.turns, "0000", Message(b"last"))
    inbox = Inbox(acks=True)
    await broker.subscribe(topology.partition_queue(0), inbox, prefetch=50)
    while b"last" not in inbox.bodies:
        await inbox.expect(len(inbox.bodies) + 1)
    assert list(dict.fromkeys(inbox.bodies)) == [*numbered(n for n in range(200) if n not in failed), b"last"]


async def test_what_is_started_in_order_arrives_in_order_across_kinds_of_replies(
    broker: Broker, topology: Topology
) -> None:
    """Deltas and the final reply of a session differ in their routing keys."""
    queue = await broker.declare_egress("web")
    kinds = ["delta"] * 20 + ["final"]
    await asyncio.gather(
        *(broker.publish(topology.replies, f"web.{kind}.0002", Message(b"%d" % n)) for n, kind in enumerate(kinds))
    )
    inbox = Inbox(acks=True)
    await broker.subscribe(queue, inbox, prefetch=50)
    await inbox.expect(21)
    assert inbox.bodies == numbered(range(21))


async def test_more_than_a_window_of_publishes_all_confirm(broker: Broker, topology: Topology) -> None:
    await asyncio.gather(*(broker.publish(topology.turns, "0000", Message(b"x")) for _ in range(1500)))
    assert await broker.depth(topology.partition_queue(0)) == 1500


async def test_large_bodies_are_split_into_frames(broker: Broker, topology: Topology) -> None:
    bodies = [bytes(range(256)) * 4096 * size for size in (1, 5, 16)]
    await asyncio.gather(*(broker.publish(topology.turns, "0000", Message(body)) for body in bodies))
    inbox = Inbox(acks=True)
    await broker.subscribe(topology.partition_queue(0), inbox, prefetch=5)
    await inbox.expect(3)
    assert inbox.bodies == bodies


async def test_publishing_outside_of_the_block_says_so(amqp_url: str, topology: Topology) -> None:
    async with RabbitMQBroker(amqp_url, topology) as broker:
        await broker.apply()
    with pytest.raises(BrokerUnavailable, match="closed"):
        await broker.publish(topology.turns, "0000", Message(b"x"), timeout=5)
    with pytest.raises(BrokerUnavailable, match="closed"):
        await broker.depth(topology.dead)


async def test_leaving_the_block_fails_open_publishes_and_sends_acks(
    amqp_url: str, broker: Broker, topology: Topology
) -> None:
    for n in range(3):
        await broker.publish(topology.turns, "0000", Message(b"%d" % n))
    async with RabbitMQBroker(amqp_url, topology) as leaving:
        inbox = Inbox(acks=True)
        subscription = await leaving.subscribe(topology.partition_queue(0), inbox, prefetch=5)
        await inbox.expect(3)  # acknowledged in this very moment, so not sent yet
    successor = Inbox()
    await broker.publish(topology.turns, "0000", Message(b"3"))
    await broker.subscribe(topology.partition_queue(0), successor, prefetch=5)
    await successor.expect(1)
    assert successor.bodies == [b"3"]
    await subscription.close()


# Consuming


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


# What strangers send


def _raw_publish(channel: int, key: bytes, flags: int, properties: bytes, body: bytes) -> bytes:
    """A publish that no client would encode."""
    method = struct.pack(">HHHBB", 60, 40, 0, 0, len(key)) + key + b"\x00"
    header = struct.pack(">HHQH", 60, 0, len(body), flags) + properties
    return b"".join(
        struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"
        for kind, payload in ((1, method), (2, header), (3, body))
    )


def _nested(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        table = b"\x01k" + value
        value = b"F" + struct.pack(">I", len(table)) + table
    return value[1:]


HOSTILE: list[Any] = [
    pytest.param(0x0040, struct.pack(">Q", 1_700_000_000_000_000_000), id="a timestamp in nanoseconds"),
    pytest.param(0x0040, b"\xff" * 8, id="a timestamp beyond all times"),
    pytest.param(0x0080, b"\x03\xff\xfe\xfd", id="a message id that is not UTF-8"),
    pytest.param(0x8000, b"\x02\xc3\x28", id="a content type that is not UTF-8"),
    pytest.param(0x2000, _nested(3000), id="headers nested deeply"),
    pytest.param(0x2000, struct.pack(">I", 5) + b"\x02\xff\xfet\x01", id="a header name that is not UTF-8"),
    pytest.param(0x2000, struct.pack(">I", 11) + b"\x01kT" + b"\xff" * 8, id="an impossible time in a header"),
    pytest.param(0x2000, _nested(300), id="headers nested less deeply"),
]


@pytest.mark.parametrize(("flags", "properties"), HOSTILE)
async def test_what_cannot_be_decoded_arrives_without_its_properties_and_stops_nobody(
    amqp_url: str, broker: Broker, topology: Topology, flags: int, properties: bytes
) -> None:
    """pamqp fails on each of these, which ends the connection, again with every redelivery."""
    queue = topology.partition_queue(0)
    stranger = await Connection.open(amqp_url, "stranger")
    async with short_channel(stranger) as channel:
        await channel.call(spec.Confirm.Select())
        confirmed = asyncio.Event()
        channel.on_confirm = lambda *_: confirmed.set()
        channel.send(_raw_publish(channel.number, queue.encode(), flags, properties, b"odd"))
        async with asyncio.timeout(10):
            await confirmed.wait()
    await stranger.close()
    await broker.publish("", queue, Message(b"next", message_id="m"))
    inbox = Inbox(acks=True)
    await broker.subscribe(queue, inbox, prefetch=5)
    odd, following = await inbox.expect(2)
    assert odd.message.body == b"odd"
    assert (following.message.body, following.message.message_id) == (b"next", "m")


async def test_a_routing_key_that_is_not_utf8_is_unrouted_and_stops_nobody(
    amqp_url: str, broker: Broker, topology: Topology
) -> None:
    stranger = await Connection.open(amqp_url, "stranger")
    async with short_channel(stranger) as channel:
        confirmed = asyncio.Event()
        await channel.call(spec.Confirm.Select())
        channel.on_confirm = lambda *_: confirmed.set()
        exchange = topology.turns.encode()
        frames = _raw_publish(channel.number, b"caf\xe9", 0, b"", b"odd")
        head = struct.pack(">HHHB", 60, 40, 0, len(exchange)) + exchange + b"\x04caf\xe9\x00"
        end = frames.index(b"\xce")
        channel.send(struct.pack(">BHI", 1, channel.number, len(head)) + head + frames[end:])
        async with asyncio.timeout(10):
            await confirmed.wait()
    await stranger.close()
    inbox = Inbox(acks=True)
    await broker.subscribe(topology.unrouted, inbox, prefetch=5)
    await inbox.expect(1)
    assert inbox.deliveries[0].routing_key == "caf?"
    await broker.publish(topology.turns, "another", Message(b"next"))
    await inbox.expect(2)
    assert inbox.bodies == [b"odd", b"next"]


async def test_header_values_of_strangers_become_plain(
    broker: Broker, topology: Topology, admin: aiormq.abc.AbstractChannel
) -> None:
    headers: dict[str, Any] = {
        "bytes": bytearray(b"\xff\x00"),
        "text": bytearray(b"plain"),
        "list": [1, None, True],
    }
    properties = spec.Basic.Properties(headers=headers, priority=3, expiration="600000", app_id="theirs")
    await admin.basic_publish(b"x", routing_key=topology.partition_queue(0), properties=properties)
    inbox = Inbox(acks=True)
    await broker.subscribe(topology.partition_queue(0), inbox, prefetch=5)
    message = (await inbox.expect(1))[0].message
    assert message.headers == {"bytes": "/wA=", "text": "plain", "list": [1, None, True]}
    assert (message.content_type, message.correlation_id, message.reply_to) == (None, None, None)


async def test_ids_that_no_property_can_hold_travel_all_the_same(broker: Broker, topology: Topology) -> None:
    """A turn id has up to 256 characters, a reply id some more, an AMQP property 255 bytes."""
    sent = Message(b"x", message_id="é" * 256 + ":0", correlation_id="é" * 256, headers={"a": 1})
    await broker.publish(topology.turns, "0000", sent)
    inbox = Inbox(acks=True)
    await broker.subscribe(topology.partition_queue(0), inbox, prefetch=5)
    assert (await inbox.expect(1))[0].message == sent
    with pytest.raises(Unroutable):
        await broker.publish("", f"{topology.namespace}.missing", sent)


async def test_sender_selected_routing_is_not_passed_on(broker: Broker, topology: Topology) -> None:
    """RabbitMQ would route a copy for each key in CC; a forwarded message of a stranger must not multiply."""
    await broker.publish(topology.turns, "0000", Message(b"x", headers={"CC": ["0001"], "BCC": 5, "b": 2}))
    assert await broker.depth(topology.partition_queue(0)) == 1
    assert await broker.depth(topology.partition_queue(1)) == 0


def test_the_frames_of_a_publish_are_those_that_aiormq_would_write() -> None:
    from pamqp import frame, header

    message = Message(b"body", message_id="m", correlation_id="c", reply_to="r", headers={"a": "b"})
    raw = publish_frames(3, "x", "k", message, mandatory=True, frame_max=4096)
    publish = spec.Basic.Publish(exchange="x", routing_key="k", mandatory=True)
    properties = spec.Basic.Properties(
        content_type="application/json", message_id="m", correlation_id="c", reply_to="r", headers={"a": "b"},
        delivery_mode=2,
    )  # fmt: skip
    expected = frame.marshal(publish, 3) + frame.marshal(header.ContentHeader(0, 4, properties), 3)
    assert raw.startswith(expected)
    assert raw[len(expected) :] == b"\x03\x00\x03\x00\x00\x00\x04body\xce"
