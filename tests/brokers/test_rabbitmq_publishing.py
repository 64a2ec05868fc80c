"""RabbitMQ: confirms, returns and refusals of what is published, and its order, on the run's shared server."""

from __future__ import annotations

import asyncio
from typing import Any

import aiormq
import pytest

from sdqueue.brokers.broker import Broker, Message
from sdqueue.brokers.rabbitmq import RabbitMQBroker
from sdqueue.brokers.topology import Topology
from sdqueue.errors import BrokerUnavailable, PublishRejected, TopologyMissing, Unroutable
from sdqueue.testing.brokers import Inbox, numbered

pytestmark = pytest.mark.rabbitmq


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
