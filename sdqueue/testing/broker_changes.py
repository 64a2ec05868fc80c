"""ChangeTests: the part of the broker suite about a topology that changes."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import pytest

from sdqueue.brokers.broker import Broker, Message
from sdqueue.brokers.topology import Binding, Queue, Topology
from sdqueue.errors import TopologyMismatch, TopologyMissing, Unroutable
from sdqueue.messages import routing_key
from sdqueue.testing.broker_fixtures import BrokerFixtures, Connect
from sdqueue.testing.inbox import Inbox, numbered


class ChangeTests(BrokerFixtures):
    """Queues and bindings come and go under the eyes of those who publish and consume."""

    async def test_a_key_that_is_unbound_goes_to_unrouted_for_everybody_at_once(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        other = await connect(topology)
        await other.publish(topology.turns, routing_key(0), Message(b"before"))
        await broker.unbind(topology.keys[:1])
        await other.publish(topology.turns, routing_key(0), Message(b"after"))
        await other.publish(topology.turns, routing_key(1), Message(b"another key"))
        await broker.unbind(topology.keys[:1])  # it is not there, and that is fine
        for queue, bodies in (
            (topology.partition_queue(0), [b"before"]),
            (topology.partition_queue(1), [b"another key"]),
            (topology.unrouted, [b"after"]),
        ):
            inbox = Inbox(acks=True)
            await broker.subscribe(queue, inbox, prefetch=5)
            await inbox.expect(1)
            assert inbox.bodies == bodies

    async def test_a_key_that_is_bound_again_finds_its_queue(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        other = await connect(topology)
        await broker.unbind(topology.keys)
        await broker.bind(topology.keys)
        await broker.bind(topology.keys)
        for partition in range(topology.partitions):
            await other.publish(topology.turns, routing_key(partition), Message(b"%d" % partition))
        for partition in range(topology.partitions):
            inbox = Inbox(acks=True)
            await broker.subscribe(topology.partition_queue(partition), inbox, prefetch=5)
            await inbox.expect(1)
            assert inbox.bodies == numbered([partition])

    async def test_what_is_not_there_cannot_be_bound(self, broker: Broker, topology: Topology) -> None:
        with pytest.raises(TopologyMissing):
            await broker.bind([Binding(topology.turns, f"{topology.namespace}.nobody", "0000")])
        await broker.unbind([Binding(topology.turns, f"{topology.namespace}.nobody", "0000")])

    async def test_a_declared_queue_gets_what_is_published_to_it_and_nothing_else(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        queue = Queue(topology.partition_queue(4), dead_letter=topology.dead)
        await broker.declare([queue])
        await broker.declare([queue])
        other = await connect(topology)
        await other.publish(topology.turns, routing_key(4), Message(b"by key"))
        await other.publish("", queue.name, Message(b"by name"))
        inbox = Inbox(acks=True)
        await broker.subscribe(queue.name, inbox, prefetch=5)
        await inbox.expect(1)
        assert inbox.bodies == [b"by name"]
        await self.expect_depth(broker, topology.unrouted, 1)

    async def test_a_queue_of_other_properties_is_refused(self, broker: Broker, topology: Topology) -> None:
        with pytest.raises(TopologyMismatch):
            await broker.declare([Queue(topology.partition_queue(0), single_active=False)])

    async def test_a_queue_is_removed_once_nothing_is_in_it_and_nobody_at_it(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        queue = topology.partition_queue(3)
        other = await connect(topology)
        await other.publish(topology.turns, routing_key(3), Message(b"kept"))
        await broker.unbind(topology.keys[3:])
        assert not await broker.remove(queue), "a message waits"
        inbox = Inbox(acks=True)
        subscription = await other.subscribe(queue, inbox, prefetch=5)
        await inbox.expect(1)
        assert inbox.bodies == [b"kept"]
        assert not await broker.remove(queue), "somebody receives from it"
        await subscription.close()
        await self.expect_removed(broker, queue)
        assert await broker.remove(queue), "it is gone already"
        with pytest.raises(Unroutable):
            await other.publish("", queue, Message(b"x"))
        await other.publish(topology.turns, routing_key(3), Message(b"late"))
        await self.expect_depth(broker, topology.unrouted, 1)

    async def test_with_the_last_queue_removed_another_number_of_partitions_is_right(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        fewer = Topology(topology.namespace, topology.partitions - 1)
        await broker.unbind(topology.keys[3:])
        await self.expect_removed(broker, topology.partition_queue(3))
        await (await connect(fewer)).check()
        broker.topology = fewer
        await broker.check()
        await broker.apply()
        with pytest.raises(TopologyMismatch):
            await (await connect(topology)).check()

    async def test_while_the_number_is_changed_any_is_right_and_none_can_be_declared(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        await broker.declare([Queue(topology.resharding)])
        for partitions in (topology.partitions, 7):
            other = await connect(Topology(topology.namespace, partitions))
            await other.check()
            with pytest.raises(TopologyMismatch, match="being changed"):
                await other.apply()
        await self.expect_removed(broker, topology.resharding)
        await broker.apply()
        with pytest.raises(TopologyMismatch, match=rf"\b{topology.partitions}\b"):
            await (await connect(Topology(topology.namespace, 7))).check()
