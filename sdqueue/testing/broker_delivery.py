"""DeliveryTests: the part of the broker suite about order, flow, redelivery and cancellation."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from sdqueue.brokers.broker import Broker, Message, QueueState
from sdqueue.brokers.topology import Topology
from sdqueue.errors import TopologyMissing
from sdqueue.messages import routing_key
from sdqueue.testing.broker_fixtures import BrokerFixtures, Connect
from sdqueue.testing.inbox import Inbox, numbered


class DeliveryTests(BrokerFixtures):
    """How a queue's messages reach its consumers, and come back from those that end."""

    # Order and flow

    async def test_a_partition_keeps_the_order(self, broker: Broker, topology: Topology) -> None:
        inbox = Inbox(acks=True)
        await broker.subscribe(topology.partition_queue(1), inbox, prefetch=10)
        for body in numbered(range(100)):
            await broker.publish(topology.turns, routing_key(1), Message(body))
        await inbox.expect(100)
        assert inbox.bodies == numbered(range(100))
        assert [d.tag for d in inbox.deliveries] == sorted({d.tag for d in inbox.deliveries})
        assert {d.queue for d in inbox.deliveries} == {topology.partition_queue(1)}
        assert {d.routing_key for d in inbox.deliveries} == {"0001"}

    async def test_what_waited_comes_before_what_is_published_later(self, broker: Broker, topology: Topology) -> None:
        await self.publish_numbers(broker, topology, range(30))
        inbox = Inbox(acks=True)
        await broker.subscribe(topology.partition_queue(0), inbox, prefetch=4)
        await self.publish_numbers(broker, topology, range(30, 60))
        await inbox.expect(60)
        assert inbox.bodies == numbered(range(60))

    async def test_each_publisher_keeps_its_order(self, connect: Connect, broker: Broker, topology: Topology) -> None:
        publishers = [broker, await connect(topology), await connect(topology)]
        inbox = Inbox(acks=True)
        await broker.subscribe(topology.partition_queue(0), inbox, prefetch=20)

        async def publish(name: int, publisher: Broker) -> None:
            for n in range(40):
                await publisher.publish(topology.turns, routing_key(0), Message(b"%d:%d" % (name, n)))

        await asyncio.gather(*(publish(name, publisher) for name, publisher in enumerate(publishers)))
        await inbox.expect(120)
        for name in range(3):
            own = [body for body in inbox.bodies if body.startswith(b"%d:" % name)]
            assert own == [b"%d:%d" % (name, n) for n in range(40)]

    async def test_prefetch_bounds_what_is_unacknowledged_and_an_ack_frees_the_window(
        self, broker: Broker, topology: Topology
    ) -> None:
        await self.publish_numbers(broker, topology, range(10))
        inbox = Inbox()
        subscription = await broker.subscribe(topology.partition_queue(0), inbox, prefetch=3)
        await inbox.expect(3)
        await inbox.expect_no_more(self.quiet_s)
        subscription.ack(inbox.deliveries[1])
        await inbox.expect(4)
        await inbox.expect_no_more(self.quiet_s)
        for delivery in list(inbox.deliveries):
            subscription.ack(delivery)
        await inbox.expect(7)
        await inbox.expect_no_more(self.quiet_s)
        assert inbox.bodies == numbered(range(7))

    async def test_a_full_window_does_not_stop_other_queues(self, broker: Broker, topology: Topology) -> None:
        full, other = Inbox(), Inbox(acks=True)
        await broker.subscribe(topology.partition_queue(0), full, prefetch=1)
        await broker.subscribe(topology.partition_queue(1), other, prefetch=1)
        await self.publish_numbers(broker, topology, range(5))
        for body in numbered(range(20)):
            await broker.publish(topology.turns, routing_key(1), Message(body))
        await other.expect(20)
        assert other.bodies == numbered(range(20))
        assert full.bodies == [b"0"]

    async def test_acknowledged_messages_are_gone(self, connect: Connect, broker: Broker, topology: Topology) -> None:
        await self.publish_numbers(broker, topology, range(5))
        inbox = Inbox(acks=True)
        subscription = await broker.subscribe(topology.partition_queue(0), inbox, prefetch=10)
        await inbox.expect(5)
        await subscription.close()
        later = Inbox()
        await (await connect(topology)).subscribe(topology.partition_queue(0), later, prefetch=10)
        await later.expect_no_more(self.quiet_s)

    async def test_a_confirmed_message_is_there_for_everybody(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        other = await connect(topology)
        inbox = Inbox()
        await other.subscribe(topology.partition_queue(0), inbox, prefetch=10)
        await broker.publish(topology.turns, routing_key(0), Message(b"confirmed"))
        await inbox.expect(1)
        assert inbox.bodies == [b"confirmed"]

    async def test_many_concurrent_publishes_all_arrive_once(self, broker: Broker, topology: Topology) -> None:
        inboxes = [Inbox(acks=True) for _ in range(topology.partitions)]
        for partition, inbox in enumerate(inboxes):
            await broker.subscribe(topology.partition_queue(partition), inbox, prefetch=50)
        bodies = numbered(range(400))
        await asyncio.gather(
            *(
                broker.publish(topology.turns, routing_key(n % topology.partitions), Message(body))
                for n, body in enumerate(bodies)
            )
        )
        for inbox in inboxes:
            await inbox.expect(100)
        assert Counter(body for inbox in inboxes for body in inbox.bodies) == Counter(bodies)

    @pytest.mark.parametrize("single_active", [True, False])
    async def test_the_state_of_a_queue_counts_receivers_whoever_they_belong_to(
        self, connect: Connect, broker: Broker, topology: Topology, single_active: bool
    ) -> None:
        """At once, since whoever counts them wants to know whether it is alone."""
        other = await connect(topology)
        queue = topology.partition_queue(0) if single_active else topology.dead
        assert await broker.queue_state(queue) == QueueState(depth=0, receivers=0)
        subscriptions = [await b.subscribe(queue, Inbox(), prefetch=5) for b in (broker, other, other)]
        expected = 1 if single_active else 3
        assert [await b.queue_state(queue) for b in (broker, other)] == [QueueState(0, expected)] * 2
        for subscription in subscriptions:
            await subscription.close()
        for _ in range(200):
            if not (await broker.queue_state(queue)).receivers:
                break
            await asyncio.sleep(0.05)
        await broker.publish("", queue, Message(b"x"))
        await self.expect_depth(broker, queue, 1)
        assert await broker.queue_state(queue) == QueueState(depth=1, receivers=0)
        with pytest.raises(TopologyMissing, match="missing"):
            await broker.queue_state(f"{topology.namespace}.missing")

    async def test_depth_counts_what_waits_and_not_what_is_delivered(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        queue, other = topology.partition_queue(0), await connect(topology)
        await self.publish_numbers(broker, topology, range(5))
        await self.expect_depth(other, queue, 5)
        inbox = Inbox()
        subscription = await broker.subscribe(queue, inbox, prefetch=2)
        await inbox.expect(2)
        await self.expect_depth(other, queue, 3)
        await subscription.close()
        await self.expect_depth(other, queue, 5)

    # Redelivery

    async def test_what_is_not_acknowledged_returns_in_order(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        """The interleaving that breaks it: later messages reach the successor before the returned ones."""
        await self.publish_numbers(broker, topology, range(40))
        first, successor = Inbox(), Inbox(acks=True)
        subscription = await broker.subscribe(topology.partition_queue(0), first, prefetch=20)
        await first.expect(20)
        for place in (0, 2, 7):
            subscription.ack(first.deliveries[place])
        await first.expect(23)
        await self.lose(subscription)
        await (await connect(topology)).subscribe(topology.partition_queue(0), successor, prefetch=20)
        await successor.expect(37)
        assert successor.bodies == numbered(n for n in range(40) if n not in (0, 2, 7))

    @pytest.mark.parametrize("seed", range(4))
    async def test_order_survives_a_random_succession_of_consumers(
        self, connect: Connect, broker: Broker, topology: Topology, seed: int
    ) -> None:
        """Each consumer acknowledges some of its window, gets more, acknowledges some of it, and vanishes.

        Acks that a cut consumer made last may be lost with it; such a message may come again, in its place.
        """
        chance, prefetch = random.Random(seed), 8
        remaining, doubtful = list(range(60)), set[int]()
        await self.publish_numbers(broker, topology, remaining)
        brokers = [broker, await connect(topology)]
        for generation in range(200):
            if not remaining:
                break
            inbox, acked = Inbox(), set[int]()
            subscription = await brokers[generation % 2].subscribe(
                topology.partition_queue(0), inbox, prefetch=prefetch
            )
            for _ in range(chance.randint(1, 3)):
                await inbox.expect(min(len(remaining), prefetch + len(acked)))
                for delivery in list(inbox.deliveries):
                    number = int(delivery.message.body)
                    if number not in acked and chance.random() < 0.4:
                        subscription.ack(delivery)
                        acked.add(number)
            await self.lose(subscription)
            got = [int(body) for body in inbox.bodies]
            sure = [number for number in got if number not in doubtful]
            assert got == sorted(set(got))
            assert sure == remaining[: len(sure)]
            remaining = sorted((set(remaining) | set(got)) - acked)
            doubtful = (doubtful - set(got)) | (acked if self.reports_loss else set())
        assert remaining == []

    async def test_redelivered_says_whether_somebody_may_have_seen_it(self, broker: Broker, topology: Topology) -> None:
        await self.publish_numbers(broker, topology, range(4))
        first, successor = Inbox(), Inbox(acks=True)
        subscription = await broker.subscribe(topology.partition_queue(0), first, prefetch=2)
        await first.expect(2)
        await self.lose(subscription)
        await broker.subscribe(topology.partition_queue(0), successor, prefetch=2)
        await successor.expect(4)
        assert [d.redelivered for d in first.deliveries] == [False, False]
        assert [d.redelivered for d in successor.deliveries] == [True, True, False, False]

    async def test_one_subscription_is_active_and_the_oldest_waiting_one_takes_over(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        queue = topology.partition_queue(0)
        first, second, third = Inbox(), Inbox(), Inbox()
        subscriptions = [
            await consumer.subscribe(queue, inbox, prefetch=4)
            for consumer, inbox in (
                (broker, first),
                (await connect(topology), second),
                (await connect(topology), third),
            )
        ]
        await self.publish_numbers(broker, topology, range(6))
        await first.expect(4)
        await second.expect_no_more(self.quiet_s)

        subscriptions[0].ack(first.deliveries[1])
        await first.expect(5)
        await self.lose(subscriptions[0])
        await second.expect(4)
        await self.publish_numbers(broker, topology, range(6, 8))
        for delivery in list(second.deliveries):
            subscriptions[1].ack(delivery)
        await second.expect(7)
        assert second.bodies == numbered([0, 2, 3, 4, 5, 6, 7])

        await self.lose(subscriptions[1])
        await third.expect(3)
        assert third.bodies == numbered([5, 6, 7])

    async def test_acks_of_an_ended_subscription_do_nothing(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        """The interleaving that breaks it: a tag of the ended generation settles a message of the next."""
        await self.publish_numbers(broker, topology, range(3))
        first, successor, last = Inbox(), Inbox(), Inbox()
        ended = await broker.subscribe(topology.partition_queue(0), first, prefetch=3)
        await first.expect(3)
        await self.lose(ended)
        subscription = await broker.subscribe(topology.partition_queue(0), successor, prefetch=3)
        await successor.expect(3)
        for delivery in first.deliveries:
            ended.ack(delivery)
        await self.publish_numbers(broker, topology, [3])
        await successor.expect_no_more(self.quiet_s)
        await subscription.close()
        await (await connect(topology)).subscribe(topology.partition_queue(0), last, prefetch=4)
        await last.expect(4)
        assert last.bodies == numbered(range(4))

    async def test_an_ack_may_be_repeated(self, broker: Broker, topology: Topology) -> None:
        await self.publish_numbers(broker, topology, range(4))
        inbox = Inbox()
        subscription = await broker.subscribe(topology.partition_queue(0), inbox, prefetch=1)
        await inbox.expect(1)
        for _ in range(3):
            subscription.ack(inbox.deliveries[0])
        await inbox.expect(2)
        await inbox.expect_no_more(self.quiet_s)
        assert inbox.bodies == numbered(range(2))

    async def test_nothing_is_delivered_after_close_and_close_may_be_repeated(
        self, broker: Broker, topology: Topology
    ) -> None:
        inbox = Inbox(acks=True)
        subscription = await broker.subscribe(topology.partition_queue(0), inbox, prefetch=5)
        publishing = [
            asyncio.ensure_future(broker.publish(topology.turns, routing_key(0), Message(body)))
            for body in numbered(range(50))
        ]
        await inbox.expect(1)
        await asyncio.gather(subscription.close(), subscription.close())
        await subscription.close()
        seen = inbox.bodies
        await asyncio.gather(*publishing)
        await inbox.expect_no_more(self.quiet_s)
        successor = Inbox(acks=True)
        await broker.subscribe(topology.partition_queue(0), successor, prefetch=5)
        missed = [body for body in numbered(range(50)) if body not in seen]
        while not set(missed) <= set(successor.bodies):
            await successor.expect(len(successor.bodies) + 1)
        assert [body for body in successor.bodies if body in missed] == missed

    async def test_wait_lost_does_not_return_for_a_subscription_that_was_closed(
        self, broker: Broker, topology: Topology
    ) -> None:
        subscription = await broker.subscribe(topology.partition_queue(0), Inbox(), prefetch=5)
        waiting = asyncio.ensure_future(subscription.wait_lost())
        await subscription.close()
        # That it does not return has no event to wait for.
        done, _ = await asyncio.wait([waiting], timeout=self.quiet_s)
        waiting.cancel()
        assert not done

    async def test_a_lost_subscription_says_why_and_its_messages_return(
        self, broker: Broker, topology: Topology
    ) -> None:
        if not self.reports_loss:
            pytest.skip("this suite has no way to cut a consumer off")
        await self.publish_numbers(broker, topology, range(5))
        inbox, successor = Inbox(), Inbox(acks=True)
        subscription = await broker.subscribe(topology.partition_queue(0), inbox, prefetch=3)
        waiting = asyncio.ensure_future(subscription.wait_lost())
        await inbox.expect(3)
        await self.lose(subscription)
        async with asyncio.timeout(20):
            assert await waiting
            assert await subscription.wait_lost() == await waiting
        subscription.ack(inbox.deliveries[0])
        await subscription.close()
        await broker.subscribe(topology.partition_queue(0), successor, prefetch=3)
        await successor.expect(5)
        assert successor.bodies == numbered(range(5))
        assert len(inbox.deliveries) == 3

    # Cancellation

    async def test_a_cancelled_publish_happened_once_or_not_at_all(self, broker: Broker, topology: Topology) -> None:
        publishing = []
        for patience in range(12):
            task = asyncio.ensure_future(
                broker.publish(topology.turns, routing_key(0), Message(b"cancelled %d" % patience))
            )
            for _ in range(patience):
                await asyncio.sleep(0)
            task.cancel()
            publishing.append(task)
        await asyncio.wait(publishing)
        await broker.publish(topology.turns, routing_key(0), Message(b"last"))
        inbox = Inbox(acks=True)
        await broker.subscribe(topology.partition_queue(0), inbox, prefetch=20)
        while b"last" not in inbox.bodies:
            await inbox.expect(len(inbox.bodies) + 1)
        assert max(Counter(inbox.bodies).values()) == 1
        confirmed = {b"cancelled %d" % n for n, task in enumerate(publishing) if not task.cancelled()}
        assert confirmed <= set(inbox.bodies)

    async def test_a_cancelled_subscribe_leaves_nobody_in_line(self, broker: Broker, topology: Topology) -> None:
        """The interleaving that breaks it: the broker has subscribed when the caller is cancelled."""
        queue = topology.partition_queue(0)
        await self.publish_numbers(broker, topology, range(5))
        for patience in range(12):
            task = asyncio.ensure_future(broker.subscribe(queue, Inbox(), prefetch=5))
            for _ in range(patience):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                await task.result().close()
        inbox = Inbox()
        await broker.subscribe(queue, inbox, prefetch=5)
        await inbox.expect(5)
        assert inbox.bodies == numbered(range(5))
