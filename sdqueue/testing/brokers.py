"""BrokerSuite: what every broker must do, as a pytest class to derive from."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import ClassVar
from uuid import uuid4

import pytest
import pytest_asyncio

from sdqueue.brokers.broker import Broker, Delivery, Message, Subscription
from sdqueue.brokers.topology import Topology
from sdqueue.errors import TopologyMismatch, TopologyMissing, Unroutable
from sdqueue.messages import routing_key

MakeBroker = Callable[[Topology], Broker]
Connect = Callable[[Topology], Awaitable[Broker]]


class Inbox:
    """Takes deliveries and lets a test wait for them; pass it as ``on_delivery``.

    Parameters:
        acks: acknowledge each delivery as it comes.
        patience_s: seconds to wait for what must come.
    """

    def __init__(self, *, acks: bool = False, patience_s: float = 20.0) -> None:
        self.deliveries: list[Delivery] = []
        self._acks = acks
        self._patience_s = patience_s
        self._arrived = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._arrived.set()
        if self._acks:
            delivery.subscription.ack(delivery)

    @property
    def bodies(self) -> list[bytes]:
        """What came so far."""
        return [delivery.message.body for delivery in self.deliveries]

    async def expect(self, count: int) -> list[Delivery]:
        """Wait until so many deliveries have come, and return all; fails when they do not come."""
        try:
            async with asyncio.timeout(self._patience_s):
                while len(self.deliveries) < count:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            came = f"{len(self.deliveries)} of {count} deliveries came in {self._patience_s:g} s"
            pytest.fail(f"{came}: {self.bodies[:50]}")
        return self.deliveries

    async def expect_no_more(self, seconds: float) -> None:
        """Nothing may come for so long. That nothing happens has no event to wait for, so this waits."""
        before = len(self.deliveries)
        await asyncio.sleep(seconds)
        assert self.bodies[before:] == [], "deliveries came that must not come"


def numbered(numbers: Iterable[int]) -> list[bytes]:
    """Bodies that tell their place."""
    return [b"%d" % n for n in numbers]


class BrokerSuite:
    """Every broker passes these. Derive from it, and give it your broker::

        class TestMyBroker(BrokerSuite):
            @pytest.fixture
            def make_broker(self, my_server):
                return lambda topology: MyBroker(my_server.url, topology)

    ``make_broker`` is called several times in a test, for independent connections to the same server.
    Override the fixture ``topology`` where a namespace has to be cleaned up afterwards. Override :meth:`lose`
    where a consumer can be cut off, and set ``reports_loss``.
    """

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.asyncio]

    quiet_s: ClassVar[float] = 0.15
    """Seconds to watch that something does not arrive. Longer only makes the suite slower and surer."""
    reports_loss: ClassVar[bool] = False
    """Whether :meth:`lose` ends the consumer from the broker's side, so that ``wait_lost`` returns."""

    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        """Makes a broker for a topology; not entered yet."""
        pytest.fail(f"{type(self).__name__} must override the fixture make_broker")

    @pytest.fixture
    def topology(self) -> Topology:
        """A namespace of the test's own."""
        return Topology(f"t{uuid4().hex[:12]}", partitions=4)

    @pytest_asyncio.fixture
    async def connect(self, make_broker: MakeBroker) -> AsyncIterator[Connect]:
        """Another broker on the same server, entered; left when the test ends."""
        async with AsyncExitStack() as stack:

            async def connected(topology: Topology) -> Broker:
                return await stack.enter_async_context(make_broker(topology))

            yield connected

    @pytest_asyncio.fixture
    async def broker(self, connect: Connect, topology: Topology) -> Broker:
        """A broker with its topology applied."""
        broker = await connect(topology)
        await broker.apply()
        return broker

    async def lose(self, subscription: Subscription) -> None:
        """End a consumer abruptly; by default it closes."""
        await subscription.close()

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
        await self._publish(broker, topology, range(30))
        inbox = Inbox(acks=True)
        await broker.subscribe(topology.partition_queue(0), inbox, prefetch=4)
        await self._publish(broker, topology, range(30, 60))
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
        await self._publish(broker, topology, range(10))
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
        await self._publish(broker, topology, range(5))
        for body in numbered(range(20)):
            await broker.publish(topology.turns, routing_key(1), Message(body))
        await other.expect(20)
        assert other.bodies == numbered(range(20))
        assert full.bodies == [b"0"]

    async def test_acknowledged_messages_are_gone(self, connect: Connect, broker: Broker, topology: Topology) -> None:
        await self._publish(broker, topology, range(5))
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

    async def test_depth_counts_what_waits_and_not_what_is_delivered(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        queue, other = topology.partition_queue(0), await connect(topology)
        await self._publish(broker, topology, range(5))
        await self._expect_depth(other, queue, 5)
        inbox = Inbox()
        subscription = await broker.subscribe(queue, inbox, prefetch=2)
        await inbox.expect(2)
        await self._expect_depth(other, queue, 3)
        await subscription.close()
        await self._expect_depth(other, queue, 5)

    # Redelivery

    async def test_what_is_not_acknowledged_returns_in_order(
        self, connect: Connect, broker: Broker, topology: Topology
    ) -> None:
        """The interleaving that breaks it: later messages reach the successor before the returned ones."""
        await self._publish(broker, topology, range(40))
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
        await self._publish(broker, topology, remaining)
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
        await self._publish(broker, topology, range(4))
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
        await self._publish(broker, topology, range(6))
        await first.expect(4)
        await second.expect_no_more(self.quiet_s)

        subscriptions[0].ack(first.deliveries[1])
        await first.expect(5)
        await self.lose(subscriptions[0])
        await second.expect(4)
        await self._publish(broker, topology, range(6, 8))
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
        await self._publish(broker, topology, range(3))
        first, successor, last = Inbox(), Inbox(), Inbox()
        ended = await broker.subscribe(topology.partition_queue(0), first, prefetch=3)
        await first.expect(3)
        await self.lose(ended)
        subscription = await broker.subscribe(topology.partition_queue(0), successor, prefetch=3)
        await successor.expect(3)
        for delivery in first.deliveries:
            ended.ack(delivery)
        await self._publish(broker, topology, [3])
        await successor.expect_no_more(self.quiet_s)
        await subscription.close()
        await (await connect(topology)).subscribe(topology.partition_queue(0), last, prefetch=4)
        await last.expect(4)
        assert last.bodies == numbered(range(4))

    async def test_an_ack_may_be_repeated(self, broker: Broker, topology: Topology) -> None:
        await self._publish(broker, topology, range(4))
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
        await self._publish(broker, topology, range(5))
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
        await self._publish(broker, topology, range(5))
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

    # What travels

    @pytest.mark.parametrize("body", [b"", bytes(range(256)), b"\x00", "héllo 🦊".encode(), b"\xff\xfe{"])
    async def test_any_bytes_travel(self, broker: Broker, topology: Topology, body: bytes) -> None:
        delivery = await self._round_trip(broker, topology, Message(body))
        assert delivery.message.body == body

    async def test_a_body_of_one_mebibyte_travels(self, broker: Broker, topology: Topology) -> None:
        body = random.Random(1).randbytes(1024 * 1024)
        assert (await self._round_trip(broker, topology, Message(body))).message.body == body

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
        got = (await self._round_trip(broker, topology, sent)).message
        assert (got.message_id, got.correlation_id, got.reply_to) == ("m-1", "c-1", "somewhere")
        assert got.content_type == "text/plain; charset=utf-8"
        assert {name: got.headers[name] for name in headers} == headers

    async def test_properties_that_are_not_set_stay_so(self, broker: Broker, topology: Topology) -> None:
        got = (await self._round_trip(broker, topology, Message(b"x"))).message
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
        await self._expect_depth(broker, topology.dead, 1)
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
        await self._expect_depth(broker, queue, 0)

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
        await self._expect_unroutable(publisher, subscription.queue)

    async def test_namespaces_do_not_mix(self, connect: Connect, broker: Broker, topology: Topology) -> None:
        elsewhere = Topology(f"{topology.namespace}x", partitions=2)
        other = await connect(elsewhere)
        with pytest.raises(TopologyMissing):
            await other.check()
        await broker.check()

    async def _publish(self, broker: Broker, topology: Topology, numbers: Iterable[int]) -> None:
        for body in numbered(numbers):
            await broker.publish(topology.turns, routing_key(0), Message(body))

    async def _round_trip(self, broker: Broker, topology: Topology, message: Message) -> Delivery:
        inbox = Inbox(acks=True)
        subscription = await broker.subscribe(topology.partition_queue(2), inbox, prefetch=5)
        await broker.publish(topology.turns, routing_key(2), message)
        await inbox.expect(1)
        await subscription.close()
        return inbox.deliveries[0]

    async def _expect_unroutable(self, broker: Broker, queue: str) -> None:
        """A broker may remove a queue with a delay, so this publishes until it is refused."""
        async with asyncio.timeout(20):
            refused = False
            while not refused:
                try:
                    await broker.publish("", queue, Message(b"late"))
                except Unroutable:
                    refused = True
        assert refused

    async def _expect_depth(self, broker: Broker, queue: str, count: int) -> None:
        """A broker may count with a delay, and counting sends no event, so this asks until it fits."""
        found = -1
        for _ in range(200):
            found = await broker.depth(queue)
            if found == count:
                break
            await asyncio.sleep(0.05)
        assert found == count
