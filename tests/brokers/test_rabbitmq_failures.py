"""RabbitMQ when things break: restarts, cut and silent connections, alarms, refusals. On a server of its
own."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from sdqueue.brokers.broker import Message
from sdqueue.brokers.rabbitmq import RabbitMQBroker
from sdqueue.brokers.topology import Topology
from sdqueue.errors import AccessRefused, BrokerUnavailable, PublishRejected
from sdqueue.testing.brokers import Inbox
from tests.brokers.traffic import PATIENCE_S, traffic
from tests.servers.process import free_port
from tests.servers.rabbitmq import PrivateRabbitMQ

# A server restarts in 5 to 11 s, also on a busy machine.
pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(180)]


@pytest_asyncio.fixture
async def server(private_rabbitmq: Callable[..., Awaitable[PrivateRabbitMQ]]) -> PrivateRabbitMQ:
    return await private_rabbitmq()


@pytest.fixture
def topology(namespace: str) -> Topology:
    return Topology(namespace, partitions=4)


@pytest_asyncio.fixture
async def broker(server: PrivateRabbitMQ, topology: Topology) -> AsyncIterator[RabbitMQBroker]:
    async with RabbitMQBroker(server.url, topology) as broker:
        await broker.apply(timeout=PATIENCE_S)
        yield broker


class Proxy:
    """A TCP proxy that can go silent: connections stay open, and nothing passes any more."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 0)
        self._passing = asyncio.Event()
        self._passing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"amqp://guest:guest@127.0.0.1:{server.sockets[0].getsockname()[1]}/?heartbeat=2"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def go_silent(self) -> None:
        self._passing.clear()

    def speak(self) -> None:
        self._passing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._passing.is_set():
            await self._hold(writer)
            return
        there, back = await asyncio.open_connection(*self._target)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pipe(source, sink))
            self._tasks.add(task)

    async def _hold(self, writer: asyncio.StreamWriter) -> None:
        try:
            await self._passing.wait()
        finally:
            writer.close()

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._passing.wait()
                sink.write(data)
        except ConnectionError:
            return
        finally:
            sink.close()


async def test_a_restart_loses_and_reorders_nothing(
    server: PrivateRabbitMQ, broker: RabbitMQBroker, topology: Topology
) -> None:
    """Given publishers and consumers at work, when the broker restarts, then both come back by themselves."""
    async with traffic(broker, topology) as consumers:
        await server.restart()
    assert all(consumer.losses for consumer in consumers)


async def test_closed_connections_lose_and_reorder_nothing(
    server: PrivateRabbitMQ, broker: RabbitMQBroker, topology: Topology
) -> None:
    async with traffic(broker, topology) as consumers:
        await server.ctl("close_all_connections", "a test")
        await asyncio.gather(*(consumer.expect_loss() for consumer in consumers))
    assert all("a test" in consumer.losses[0] for consumer in consumers)


async def test_connections_bear_the_name_that_they_were_given(server: PrivateRabbitMQ, topology: Topology) -> None:
    async with RabbitMQBroker(server.url, topology, name="shop-7") as broker:
        await broker.apply(timeout=PATIENCE_S)
        await broker.publish(topology.turns, "0000", Message(b"x"))
        listed = await server.ctl("list_connections", "client_properties")
    assert '"shop-7 publish"' in listed
    assert '"shop-7 consume"' in listed


async def test_a_server_that_is_away_is_reported_in_time_and_found_when_it_comes(
    server: PrivateRabbitMQ, topology: Topology
) -> None:
    await server.stop()
    async with RabbitMQBroker(server.url, topology) as broker:
        patient = asyncio.create_task(broker.describe(timeout=PATIENCE_S))
        shown = re.escape(server.url.rstrip("/").replace("guest:guest", "guest:***"))
        with pytest.raises(BrokerUnavailable, match=rf"{shown}.*in 0.5 s"):
            await broker.publish(topology.turns, "0000", Message(b"x"), timeout=0.5)
        with pytest.raises(BrokerUnavailable):
            await broker.subscribe(topology.partition_queue(0), Inbox(), prefetch=1, timeout=0.5)
        with pytest.raises(BrokerUnavailable):
            await broker.describe(timeout=0.5)
        assert not patient.done(), "each has waited for its own time only"
        applying = asyncio.create_task(broker.apply(timeout=PATIENCE_S))
        await server.start()
        await applying
        assert (await patient).startswith("RabbitMQ ")
        await broker.publish(topology.turns, "0000", Message(b"x"), timeout=PATIENCE_S)
        assert await broker.depth(topology.partition_queue(0)) == 1


async def test_a_memory_alarm_stops_publishers_in_time_and_acks_still_go_out(
    server: PrivateRabbitMQ, broker: RabbitMQBroker, topology: Topology
) -> None:
    """One connection for both would leave the ack in a socket that the broker does not read."""
    queue = topology.partition_queue(0)
    for n in range(3):
        await broker.publish(topology.turns, "0000", Message(b"%d" % n))
    inbox, successor = Inbox(), Inbox()
    subscription = await broker.subscribe(queue, inbox, prefetch=10)
    await inbox.expect(3)
    await server.ctl("set_vm_memory_high_watermark", "0.0001")
    try:
        with pytest.raises(BrokerUnavailable, match="blocks publishers"):
            await broker.publish(topology.turns, "0000", Message(b"blocked"), timeout=2)
        for delivery in inbox.deliveries:
            subscription.ack(delivery)
        await subscription.close()
        assert await broker.depth(queue) == 0
    finally:
        await server.ctl("set_vm_memory_high_watermark", "absolute", str(2**30))
    await broker.publish(topology.turns, "0000", Message(b"after"), timeout=PATIENCE_S)
    await broker.subscribe(queue, successor, prefetch=10)
    await successor.expect(1)
    assert successor.bodies[-1] in (b"blocked", b"after")
    assert not set(successor.bodies) & {b"0", b"1", b"2"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [("guest:guest", "guest:wrong", "refuses user 'guest'"), ("/", "/nowhere", "vhost")],
    ids=["password", "vhost"],
)
async def test_a_refusal_is_reported_at_once(
    server: PrivateRabbitMQ, topology: Topology, old: str, new: str, words: str
) -> None:
    """Waiting does not help, so the time limit is not waited for."""
    url = server.url.replace(old, new) if old != "/" else server.url.rstrip("/") + new
    async with RabbitMQBroker(url, topology) as broker:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=words) as publishing:
            await broker.publish(topology.turns, "0000", Message(b"x"), timeout=60)
        with pytest.raises(BrokerUnavailable, match="check the password / vhost permission"):
            await broker.check(timeout=60)
        assert time.monotonic() - started < 20
        assert "wrong" not in str(publishing.value)


async def test_a_user_who_may_not_write_is_told_so(
    server: PrivateRabbitMQ, broker: RabbitMQBroker, topology: Topology
) -> None:
    await server.ctl("add_user", "reader", "secret")
    try:
        await server.ctl("set_permissions", "reader", "", "", ".*")
        async with RabbitMQBroker(server.url.replace("guest:guest", "reader:secret"), topology) as reader:
            with pytest.raises(AccessRefused, match=r"'reader' write to the exchange .*set_permissions"):
                await reader.publish(topology.turns, "0000", Message(b"x"))
            with pytest.raises(AccessRefused, match=r"'reader' configure .*sdqueue topology apply"):
                await reader.apply()
    finally:
        await server.ctl("delete_user", "reader")


async def test_a_body_over_the_brokers_limit_is_rejected_and_its_neighbours_are_not(
    server: PrivateRabbitMQ, broker: RabbitMQBroker, topology: Topology
) -> None:
    """The broker closes the channel over it; the others are sent again."""
    limit = (await server.ctl("eval", "application:get_env(rabbit, max_message_size).")).strip()
    await _limit_messages(server, 1000)
    try:
        bodies = [b"x" * (2000 if n == 10 else 10) for n in range(20)]
        outcomes = await asyncio.gather(
            *(broker.publish(topology.turns, "0000", Message(body)) for body in bodies), return_exceptions=True
        )
    finally:
        await _limit_messages(server, int("".join(c for c in limit if c.isdigit())))
    assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == [10]
    assert isinstance(outcomes[10], PublishRejected)
    assert "2000 bytes" in str(outcomes[10])


async def _limit_messages(server: PrivateRabbitMQ, size: int) -> None:
    """3.10 looks into its settings for every channel, 4.0 remembers what they said when it started."""
    await server.ctl("eval", f"application:set_env(rabbit, max_message_size, {size}).")
    await server.ctl("eval", f"persistent_term:put(max_message_size, {size}).")


async def test_a_silent_connection_is_given_up(
    server: PrivateRabbitMQ, broker: RabbitMQBroker, topology: Topology
) -> None:
    """Given a network that swallows everything, then a publish ends in its time, the subscription is lost
    after some heartbeats, closing does not hang, and all of it works again afterwards.
    """
    async with (
        Proxy(server.url).listening() as proxy,
        RabbitMQBroker(proxy.url, topology) as far,
    ):
        inbox = Inbox(acks=True)
        subscription = await far.subscribe(topology.partition_queue(0), inbox, prefetch=5)
        other = await far.subscribe(topology.partition_queue(1), inbox, prefetch=5)
        await far.publish(topology.turns, "0000", Message(b"before"))
        await inbox.expect(1)
        proxy.go_silent()
        patient = asyncio.create_task(far.publish(topology.turns, "0001", Message(b"late"), timeout=PATIENCE_S))
        with pytest.raises(BrokerUnavailable, match="did not confirm"):
            await far.publish(topology.turns, "0000", Message(b"x"), timeout=1)
        assert not patient.done(), "it has waited for its own time only"
        closing = asyncio.create_task(other.close())
        async with asyncio.timeout(25):  # aiormq waits for three heartbeats of two seconds and one more
            assert await subscription.wait_lost()
            await closing
        proxy.speak()
        await far.publish(topology.turns, "0000", Message(b"after"), timeout=PATIENCE_S)
        await patient
        successor = Inbox(acks=True)
        await far.subscribe(topology.partition_queue(0), successor, prefetch=5, timeout=PATIENCE_S)
        while b"after" not in successor.bodies:
            await successor.expect(len(successor.bodies) + 1)


async def test_an_address_where_nobody_listens_is_named() -> None:
    url = f"amqp://me:secret@127.0.0.1:{free_port()}/"
    async with RabbitMQBroker(url, Topology("x")) as broker:
        with pytest.raises(BrokerUnavailable, match=r"me:\*\*\*@127\.0\.0\.1") as caught:
            await broker.check(timeout=0.3)
    assert "secret" not in str(caught.value)
