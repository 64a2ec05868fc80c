"""The memory broker: the suite, and what only it does."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from sdqueue.brokers.broker import Broker, Message, Subscription
from sdqueue.brokers.memory import MemoryBroker, MemoryServer, MemorySubscription
from sdqueue.brokers.topology import Topology
from sdqueue.errors import BrokerUnavailable
from sdqueue.testing.brokers import BrokerSuite, Inbox, MakeBroker

TOPOLOGY = Topology("mem", partitions=2)


class TestMemoryBroker(BrokerSuite):
    quiet_s = 0.02

    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        server = MemoryServer()
        return lambda topology: MemoryBroker(topology, server)


class TestMemoryBrokerWithCuts(TestMemoryBroker):
    """The same, where consumers do not close but are cut off."""

    reports_loss = True

    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        self.server = MemoryServer()
        return lambda topology: MemoryBroker(topology, self.server)

    async def lose(self, subscription: Subscription) -> None:
        self.server.lose(cast("MemorySubscription", subscription))


def test_it_is_a_broker() -> None:
    assert isinstance(MemoryBroker(TOPOLOGY), Broker)


async def test_outside_of_its_block_it_says_how_it_is_used() -> None:
    broker = MemoryBroker(TOPOLOGY)
    with pytest.raises(BrokerUnavailable, match="async with"):
        await broker.apply()
    async with broker:
        await broker.apply()
    with pytest.raises(BrokerUnavailable, match="async with"):
        await broker.publish(TOPOLOGY.turns, "0000", Message(b"x"))


async def test_leaving_the_block_ends_its_subscriptions_and_not_those_of_others() -> None:
    server = MemoryServer()
    async with MemoryBroker(TOPOLOGY, server) as stays:
        await stays.apply()
        kept, mine = Inbox(), Inbox()
        await stays.subscribe(TOPOLOGY.partition_queue(0), kept, prefetch=5)
        async with MemoryBroker(TOPOLOGY, server) as leaves:
            await leaves.subscribe(TOPOLOGY.partition_queue(1), mine, prefetch=5)
        for key in ("0000", "0001"):
            await stays.publish(TOPOLOGY.turns, key, Message(b"x"))
        await kept.expect(1)
        assert mine.bodies == []
        assert await stays.depth(TOPOLOGY.partition_queue(1)) == 1


async def test_deliveries_never_come_in_the_stack_of_the_publisher() -> None:
    """A consumer's callback that ran inside ``publish`` could see its own half-made state."""
    inside = False
    seen: list[bool] = []
    async with MemoryBroker(TOPOLOGY) as broker:
        await broker.apply()
        await broker.subscribe(TOPOLOGY.partition_queue(0), lambda _: seen.append(inside), prefetch=5)
        publishing = broker.publish(TOPOLOGY.turns, "0000", Message(b"x"))
        inside = True
        publishing.send(None)  # runs it up to its first wait, without the loop
        inside = False
        publishing.close()  # the message is accepted; nothing else is waited for
        await asyncio.sleep(0)
        assert seen == [False]


async def test_headers_are_the_broker_s_own() -> None:
    """A publisher that goes on using its dict changes nothing that was published."""
    headers = {"deep": {"n": 1}}
    inbox = Inbox()
    async with MemoryBroker(TOPOLOGY) as broker:
        await broker.apply()
        await broker.publish(TOPOLOGY.turns, "0000", Message(b"x", headers=headers))
        headers["deep"]["n"] = 2
        await broker.subscribe(TOPOLOGY.partition_queue(0), inbox, prefetch=5)
        await inbox.expect(1)
    assert inbox.deliveries[0].message.headers == {"deep": {"n": 1}}


async def test_messages_returned_by_several_active_subscriptions_are_put_in_order() -> None:
    """Where a queue is not single active, the later part may come back before the earlier one."""
    async with MemoryBroker(TOPOLOGY) as broker:
        await broker.apply()
        first, second, last = Inbox(), Inbox(), Inbox()
        early = await broker.subscribe(TOPOLOGY.dead, first, prefetch=2)
        late = await broker.subscribe(TOPOLOGY.dead, second, prefetch=2)
        for n in range(5):
            await broker.publish(TOPOLOGY.dead, "", Message(b"%d" % n))
        await first.expect(2)
        await second.expect(2)
        await asyncio.gather(early.close(), late.close())
        await broker.subscribe(TOPOLOGY.dead, last, prefetch=5)
        await last.expect(5)
        assert last.bodies == [b"0", b"1", b"2", b"3", b"4"]


async def test_only_its_own_subscription_acknowledges_a_delivery() -> None:
    async with MemoryBroker(TOPOLOGY) as broker:
        await broker.apply()
        inbox, other = Inbox(), Inbox()
        first = await broker.subscribe(TOPOLOGY.partition_queue(0), inbox, prefetch=1)
        stranger = await broker.subscribe(TOPOLOGY.partition_queue(1), other, prefetch=1)
        for key in ("0000", "0001"):
            await broker.publish(TOPOLOGY.turns, key, Message(b"x"))
        await inbox.expect(1)
        await other.expect(1)
        stranger.ack(inbox.deliveries[0])
        await first.close()
        assert await broker.depth(TOPOLOGY.partition_queue(0)) == 1
