"""BrokerSuite: what every broker must do, as a pytest class to derive from."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
import random

import pytest

from sdqueue.brokers.broker import Broker, Message
from sdqueue.brokers.topology import Topology
from sdqueue.errors import TopologyMismatch, TopologyMissing, Unroutable
from sdqueue.messages import routing_key
from sdqueue.testing.broker_changes import ChangeTests
from sdqueue.testing.broker_delivery import DeliveryTests
from sdqueue.testing.broker_fixtures import Connect, MakeBroker
from sdqueue.testing.inbox import Inbox, numbered

__all__ = ["BrokerSuite", "Inbox", "MakeBroker", "numbered"]


class BrokerSuite(DeliveryTests, ChangeTests):
    """Every broker passes these. Derive from it, and give it your broker::

        class TestMyBroker(BrokerSuite):
            @pytest.fixture
            def make_broker(self, my_server):
                return lambda topology: MyBroker(my_server.url, topology)

    ``make_broker`` is called several times in a test, for independent connections to the same server.
    Override the fixture ``topology`` where a namespace has to be cleaned up afterwards. Override :meth:`lose`
    where a consumer can be cut off, and set ``reports_loss``.
    """

    # Topology

    async def test_check_tells_that_the_topology_is_missing_before_it_is_applied(
        self, connect: Connect, topology: Topology
    ) -> None:
        broker = await connect(topology)
        with pytest.raises(TopologyMissing):
            await broker.check()

    async def test_apply_may_be_repeated_and_check_passes_after_it(self, connect: Connect, topology: Topology) -> None:
        broker, other = await connect(topology), await connect(topology)
        await broker.apply()
        await broker.check()
        await other.apply()
        await other.check()
        assert await other.depth(topology.partition_queue(0)) == 0

    async def test_apply_leaves_waiting_messages_alone(self, broker: Broker, topology: Topology) -> None:
        await broker.publish(topology.turns, routing_key(0), Message(b"kept"))
        await broker.apply()
        inbox = Inbox()
        await broker.subscribe(topology.partition_queue(0), inbox, prefetch=10)
        await inbox.expect(1)
        assert inbox.bodies == [b"kept"]

    async def test_two_processes_may_apply_at_once(self, connect: Connect, topology: Topology) -> None:
        brokers = [await connect(topology) for _ in range(2)]
        await asyncio.gather(*(broker.apply() for broker in brokers))
        for broker in brokers:
            await broker.check()
        assert await brokers[0].depth(topology.dead) == 0

    @pytest.mark.parametrize("wanted", [2, 8])
    async def test_another_number_of_partitions_is_refused_and_named(
        self, connect: Connect, broker: Broker, topology: Topology, wanted: int
    ) -> None:
        other = await connect(Topology(topology.namespace, partitions=wanted))
        with pytest.raises(TopologyMismatch, match=rf"\b{topology.partitions}\b"):
            await other.apply()
        await broker.check()

    async def test_publishing_to_an_exchange_that_is_not_there_says_so(
        self, connect: Connect, topology: Topology
    ) -> None:
        broker = await connect(topology)
        with pytest.raises(TopologyMissing):
            await broker.publish(topology.turns, routing_key(0), Message(b"x"))

    async def test_a_queue_that_is_not_there_is_named(self, broker: Broker, topology: Topology) -> None:
        missing = f"{topology.namespace}.missing"
        with pytest.raises(TopologyMissing, match="missing"):
            await broker.subscribe(missing, Inbox(), prefetch=1)
        with pytest.raises(TopologyMissing, match="missing"):
            await broker.depth(missing)
        # What failed did no harm to what works.
        await broker.publish(topology.turns, routing_key(0), Message(b"x"))
        inbox = Inbox()
        await broker.subscribe(topology.partition_queue(0), inbox, prefetch=1)
        await inbox.expect(1)

    async def test_describe_says_what_answers(self, broker: Broker) -> None:
        assert (await broker.describe()).strip()

    # What travels

    @pytest.mark.parametrize("body", [b"", bytes(range(256)), b"\x00", "héllo 🦊".encode(), b"\xff\xfe{"])
    async def test_any_bytes_travel(self, broker: Broker, topology: Topology, body: bytes) -> None:
        delivery = await self.round_trip(broker, topology, Message(body))
        assert delivery.message.body == body

    async def test_a_body_of_one_mebibyte_travels(self, broker: Broker, topology: Topology) -> None:
        body = random.Random(1).randbytes(1024 * 1024)
        assert (await self.round_trip(broker, topology, Message(body))).message.body == body

    async def test_properties_and_headers_travel(self, broker: Broker, topology: Topology) -> None:
        headers = {
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "count": 3,
            "negative": -(2**40),
            "deep": {"list": [1, "zwei", None, True, 2.5], "empty": {}},
            "text": "héllo 🦊",
        }
        sent = Message(
            b"{}",
            message_id="m-1",
            correlation_id="c-1",
            reply_to="somewhere",
            content_type="text/plain; charset=utf-8",
            headers=headers,
        )
        got = (await self.round_trip(broker, topology, sent)).message
        assert (got.message_id, got.correlation_id, got.reply_to) == ("m-1", "c-1", "somewhere")
        assert got.content_type == "text/plain; charset=utf-8"
        assert {name: got.headers[name] for name in headers} == headers

    async def test_properties_that_are_not_set_stay_so(self, broker: Broker, topology: Topology) -> None:
        got = (await self.round_trip(broker, topology, Message(b"x"))).message
        assert (got.message_id, got.correlation_id, got.reply_to) == (None, None, None)
        assert got.content_type == "application/json"

    # Routing

    async def test_another_routing_key_goes_to_unrouted(self, broker: Broker, topology: Topology) -> None:
        await broker.publish(topology.turns, "slack:T1:C1", Message(b"by session id"))
        await broker.publish(topology.turns, "0004", Message(b"beyond the last partition"))
        inbox = Inbox()
        await broker.subscribe(topology.unrouted, inbox, prefetch=5)
        await inbox.expect(2)
        assert inbox.bodies == [b"by session id", b"beyond the last partition"]
        assert [d.routing_key for d in inbox.deliveries] == ["slack:T1:C1", "0004"]

    async def test_no_queue_of_that_name_is_unroutable(self, broker: Broker, topology: Topology) -> None:
        with pytest.raises(Unroutable):
            await broker.publish("", f"{topology.namespace}.nobody", Message(b"x"))
        await broker.publish("", topology.partition_queue(3), Message(b"by name"))
        inbox = Inbox()
        await broker.subscribe(topology.partition_queue(3), inbox, prefetch=5)
        await inbox.expect(1)
        assert inbox.bodies == [b"by name"]

    async def test_dead_letters_are_kept(self, broker: Broker, topology: Topology) -> None:
        await broker.publish(topology.dead, "", Message(b"dead", headers={"reason": "poison"}))
        await self.expect_depth(broker, topology.dead, 1)
        inbox = Inbox()
        await broker.subscribe(topology.dead, inbox, prefetch=5)
        await inbox.expect(1)
        assert inbox.deliveries[0].message.headers["reason"] == "poison"

    async def test_a_channel_gets_its_replies_and_no_others(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        other = await connect(topology)
        web, slack = await broker.declare_egress("web"), await broker.declare_egress("slack")
        assert [web, slack] == [topology.egress_queue("web"), topology.egress_queue("slack")]
        assert await other.declare_egress("web") == web
        for channel in ("web", "slack", "web2", "we"):
            key = topology.reply_key(channel, "final", "user-42")
            await broker.publish(topology.replies, key, Message(channel.encode()))
        from_web, from_slack = Inbox(), Inbox()
        await other.subscribe(web, from_web, prefetch=5)
        await other.subscribe(slack, from_slack, prefetch=5)
        await from_web.expect(1)
        await from_slack.expect(1)
        await from_web.expect_no_more(self.quiet_s)
        assert (from_web.bodies, from_slack.bodies) == ([b"web"], [b"slack"])

    async def test_a_reply_that_nobody_listens_to_is_no_error(self, broker: Broker, topology: Topology) -> None:
        await broker.publish(topology.replies, "nobody.final.0000", Message(b"x"))
        queue = await broker.declare_egress("nobody")
        await self.expect_depth(broker, queue, 0)

    async def test_a_private_queue_gets_copies_and_ends_with_its_subscription(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        mine, others = Inbox(), Inbox()
        subscription = await broker.subscribe_replies(mine)
        other = await (await connect(topology)).subscribe_replies(others)
        assert subscription.queue != other.queue
        publisher = await connect(topology)
        for body in numbered(range(300)):
            await publisher.publish("", subscription.queue, Message(body, correlation_id="turn"))
        await publisher.publish("", other.queue, Message(b"other"))
        await mine.expect(300)
        await others.expect(1)
        assert mine.bodies == numbered(range(300))
        assert others.bodies == [b"other"]
        assert mine.deliveries[0].message.correlation_id == "turn"
        subscription.ack(mine.deliveries[0])
        await subscription.close()
        await self.expect_unroutable(publisher, subscription.queue)

    async def test_namespaces_do_not_mix(self, connect: Connect, broker: Broker, topology: Topology) -> None:
        elsewhere = Topology(f"{topology.namespace}x", partitions=2)
        other = await connect(elsewhere)
        with pytest.raises(TopologyMissing):
            await other.check()
        await broker.check()
