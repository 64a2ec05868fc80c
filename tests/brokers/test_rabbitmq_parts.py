"""The parts of the RabbitMQ broker that are best seen without a server: frames, acks, and races forced by hand."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import Any, cast

import pytest
from aiormq import spec
from pamqp import frame
from pamqp.header import ContentHeader
from yarl import URL

from sdqueue.brokers.broker import Delivery, Message
from sdqueue.brokers.rabbitmq.channel import Channel, ChannelLost
from sdqueue.brokers.rabbitmq.connection import Connection
from sdqueue.brokers.rabbitmq.guard import GuardedConnection, readable_deliver, readable_header
from sdqueue.brokers.rabbitmq.publisher import WINDOW, Publisher
from sdqueue.brokers.rabbitmq.subscription import RabbitMQSubscription
from sdqueue.brokers.rabbitmq.supervisor import Supervisor
from sdqueue.brokers.rabbitmq.wire import MAX_DEPTH, plain, publish_frames, to_message
from sdqueue.errors import BrokerUnavailable, PublishRejected, TopologyMissing, Unroutable
from sdqueue.testing.brokers import Inbox


def frames_in(raw: bytes) -> list[Any]:
    """What was written, decoded."""
    found = []
    while raw:
        used, _, value = frame.unmarshal(raw)
        found.append(value)
        raw = raw[used:]
    return found


class FakeConnection:
    """Takes what channels write, and opens channels that say yes to everything."""

    def __init__(self) -> None:
        self.name = "fake"
        self.alive = True
        self.congested = False
        self.frame_max = 131072
        self.on_writable: set[Any] = set()
        self.written: list[bytes] = []
        self.channels: list[Channel] = []
        self.lose_next = False

    def send(self, payload: bytes) -> None:
        self.written.append(payload)

    def forget(self, channel: Channel) -> None:
        pass

    async def is_blocked(self) -> bool:
        return False

    def channel(self) -> tuple[Channel, spec.Channel.Open]:
        channel = Channel(cast("Connection", self), len(self.channels) + 1)
        self.channels.append(channel)
        asyncio.get_running_loop().call_soon(self._answer, channel)
        return channel, spec.Channel.Open()

    def _answer(self, channel: Channel) -> None:
        channel._take(spec.Channel.OpenOk())
        channel._take(spec.Confirm.SelectOk())
        if self.lose_next:
            self.lose_next = False
            channel.connection_lost("lost in the same moment")

    def published(self) -> list[str]:
        """The routing keys of what was published, in order."""
        return [f.routing_key for f in frames_in(b"".join(self.written)) if isinstance(f, spec.Basic.Publish)]

    @property
    def last(self) -> Channel:
        return self.channels[-1]


class FakeSupervisor:
    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection

    async def get(self, deadline: float, waited_s: float) -> Connection:
        return cast("Connection", self.connection)

    def unavailable(self, waited_s: float, why: str = "") -> BrokerUnavailable:
        return BrokerUnavailable(why)


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def publisher(connection: FakeConnection) -> Publisher:
    return Publisher(cast("Supervisor", FakeSupervisor(connection)), optional="replies")


async def settle() -> None:
    """Let everything run that is ready to run."""
    for _ in range(10):
        await asyncio.sleep(0)


def start(publisher: Publisher, key: str, exchange: str = "turns", timeout: float = 30) -> asyncio.Task[None]:
    return asyncio.create_task(publisher.publish(exchange, key, Message(b"x", message_id=key), timeout=timeout))


# Publishing


async def test_a_confirm_of_many_settles_all_up_to_it(publisher: Publisher, connection: FakeConnection) -> None:
    tasks = [start(publisher, "a.1") for _ in range(5)]
    await settle()
    connection.last._take(spec.Basic.Ack(delivery_tag=3, multiple=True))
    await settle()
    assert [task.done() for task in tasks] == [True, True, True, False, False]
    connection.last._take(spec.Basic.Nack(delivery_tag=5, multiple=False))
    connection.last._take(spec.Basic.Ack(delivery_tag=4, multiple=False))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[:4] == [None] * 4
    assert isinstance(outcomes[4], PublishRejected)


async def test_after_a_refusal_a_lane_goes_on_with_a_fresh_channel(
    publisher: Publisher, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given three open messages of which one is refused, then the others are waited for, and what is published
    meanwhile goes out on another channel."""
    monkeypatch.setattr("sdqueue.brokers.rabbitmq.publisher.RENEW_S", 0.0)
    monkeypatch.setattr("sdqueue.brokers.rabbitmq.publisher.DRAIN_S", 3600.0)
    tasks = [start(publisher, key) for key in ("a.1", "b.1", "c.1")]
    await settle()
    first = connection.last
    first._take(spec.Basic.Nack(delivery_tag=1, multiple=False))
    tasks.append(start(publisher, "d.1"))
    await settle()
    assert connection.last is first
    assert connection.published() == ["a.1", "b.1", "c.1"]
    first._take(spec.Basic.Ack(delivery_tag=3, multiple=True))
    await settle()
    assert first.closed
    assert connection.published() == ["a.1", "b.1", "c.1", "d.1"]
    connection.last._take(spec.Basic.Ack(delivery_tag=1, multiple=False))
    refused, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(refused, PublishRejected)
    assert others == [None] * 3


async def test_a_confirm_that_does_not_come_holds_a_fresh_channel_up_for_a_moment_only(
    publisher: Publisher, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is still open is sent again, before anything younger."""
    monkeypatch.setattr("sdqueue.brokers.rabbitmq.publisher.RENEW_S", 0.0)
    monkeypatch.setattr("sdqueue.brokers.rabbitmq.publisher.DRAIN_S", 0.02)
    tasks = [start(publisher, "a.1"), start(publisher, "b.1")]
    await settle()
    connection.written.clear()
    connection.last._take(spec.Basic.Nack(delivery_tag=1, multiple=False))
    tasks.append(start(publisher, "c.1"))
    async with asyncio.timeout(10):
        while connection.published() != ["b.1", "c.1"]:
            await asyncio.sleep(0.01)
    connection.last._take(spec.Basic.Ack(delivery_tag=2, multiple=True))
    refused, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(refused, PublishRejected)
    assert others == [None] * 2


async def test_a_young_channel_is_kept_when_it_refuses(
    publisher: Publisher, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full queue must not cost a channel for each message."""
    monkeypatch.setattr("sdqueue.brokers.rabbitmq.publisher.RENEW_S", 3600.0)
    for tag in (1, 2):
        task = start(publisher, "a.1")
        await settle()
        connection.last._take(spec.Basic.Nack(delivery_tag=tag, multiple=False))
        with pytest.raises(PublishRejected):
            await task
    assert len(connection.channels) == 1


async def test_what_was_not_confirmed_is_sent_again_before_anything_younger(
    publisher: Publisher, connection: FakeConnection
) -> None:
    """The interleaving that breaks it: two messages are open when the connection goes, and a third is published
    before the new channel is open.
    """
    tasks = [start(publisher, "a.1"), start(publisher, "b.1")]
    await settle()
    connection.written.clear()
    connection.last.connection_lost("gone")
    tasks.append(start(publisher, "c.1"))
    await settle()
    assert connection.published() == ["a.1", "b.1", "c.1"]
    connection.last._take(spec.Basic.Ack(delivery_tag=3, multiple=True))
    assert await asyncio.gather(*tasks) == [None] * 3


async def test_a_channel_lost_in_the_moment_of_its_opening_is_not_used(
    publisher: Publisher, connection: FakeConnection
) -> None:
    """The interleaving that breaks it: the answer to the opening is there, and the loss, before the opener runs on.

    A dead channel taken for open swallows every later message of its lane.
    """
    connection.lose_next = True
    task = start(publisher, "a.1")
    async with asyncio.timeout(5):
        while not connection.published():
            await asyncio.sleep(0.01)  # the lane makes a pause after such a failure
    assert len(connection.channels) == 2
    connection.last._take(spec.Basic.Ack(delivery_tag=1, multiple=False))
    await task


async def test_a_message_nobody_waits_for_is_not_sent_again(publisher: Publisher, connection: FakeConnection) -> None:
    given_up, kept = start(publisher, "a.1"), start(publisher, "b.1")
    await settle()
    given_up.cancel()
    connection.written.clear()
    connection.last.connection_lost("gone")
    await settle()
    assert connection.published() == ["b.1"]
    connection.last._take(spec.Basic.Ack(delivery_tag=1, multiple=False))
    await kept


async def test_messages_that_are_never_confirmed_free_their_places(
    publisher: Publisher, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue without a majority never confirms; what goes elsewhere must not wait behind it for ever."""
    loop, passed_s = asyncio.get_running_loop(), 0.0
    started = loop.time()
    monkeypatch.setattr(loop, "time", lambda: started + passed_s)
    stuck = [start(publisher, "a.1", timeout=10) for _ in range(WINDOW)]
    waiting = start(publisher, "b.1", timeout=30)
    await settle()
    assert "b.1" not in connection.published()
    passed_s = 11.0
    outcomes = await asyncio.gather(*stuck, return_exceptions=True)
    assert all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
    assert connection.published()[-1] == "b.1"
    connection.last._take(spec.Basic.Ack(delivery_tag=WINDOW + 1, multiple=True))
    await waiting


async def test_nothing_is_written_to_a_socket_that_takes_nothing(
    publisher: Publisher, connection: FakeConnection
) -> None:
    first = start(publisher, "a.1")
    await settle()
    connection.congested = True
    second = start(publisher, "b.1")
    await settle()
    assert connection.published() == ["a.1"]
    connection.congested = False
    for resume in connection.on_writable:
        resume()
    assert connection.published() == ["a.1", "b.1"]
    connection.last._take(spec.Basic.Ack(delivery_tag=2, multiple=True))
    await asyncio.gather(first, second)


async def test_a_returned_message_is_told_from_one_of_the_same_id(
    publisher: Publisher, connection: FakeConnection
) -> None:
    """A return and a later success, both of the message id ``a.1``, in one lane."""
    lost, kept = start(publisher, "a.1", exchange=""), start(publisher, "a.1", exchange="turns")
    await settle()
    returned = spec.Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="a.1")
    connection.last._take(returned)
    connection.last._take(ContentHeader(0, 0, spec.Basic.Properties(message_id="a.1")))
    connection.last._take(spec.Basic.Ack(delivery_tag=2, multiple=True))
    with pytest.raises(Unroutable):
        await lost
    await kept


async def test_the_end_of_a_channel_is_blamed_on_the_message_that_it_names(
    publisher: Publisher, connection: FakeConnection
) -> None:
    wrong, right = start(publisher, "a.1", exchange="nowhere"), start(publisher, "b.1")
    await settle()
    text = "NOT_FOUND - no exchange 'nowhere' in vhost '/'"
    connection.last._take(spec.Channel.Close(reply_code=404, reply_text=text, class_id=60, method_id=40))
    with pytest.raises(TopologyMissing, match="nowhere"):
        await wrong
    await settle()
    connection.last._take(spec.Basic.Ack(delivery_tag=1, multiple=False))
    await right
    assert connection.published() == ["a.1", "b.1", "b.1"]


# Acks


def acks_in(connection: FakeConnection) -> list[tuple[int, bool]]:
    return [
        (f.delivery_tag, f.multiple) for f in frames_in(b"".join(connection.written)) if isinstance(f, spec.Basic.Ack)
    ]


def consuming(connection: FakeConnection, inbox: Inbox, count: int) -> RabbitMQSubscription:
    """A subscription that has received so many deliveries."""
    subscription = RabbitMQSubscription("q", inbox)
    channel = Channel(cast("Connection", connection), 1)
    subscription.attach(channel)
    for tag in range(1, count + 1):
        deliver = spec.Basic.Deliver(consumer_tag="c", delivery_tag=tag, exchange="", routing_key="q")
        channel._take(deliver)
        channel._take(ContentHeader(0, 0, spec.Basic.Properties()))
    assert [delivery.tag for delivery in inbox.deliveries] == list(range(1, count + 1))
    return subscription


@pytest.mark.parametrize(
    ("settled", "frames"),
    [
        ([1], [(1, False)]),
        ([1, 2, 3], [(3, True)]),
        ([3, 1, 2], [(3, True)]),
        ([2, 4], [(2, False), (4, False)]),
        ([1, 2, 4, 6], [(2, True), (4, False), (6, False)]),
        ([1, 1, 1], [(1, False)]),
    ],
)
async def test_acks_of_a_moment_go_out_as_few_frames(
    connection: FakeConnection, settled: list[int], frames: list[tuple[int, bool]]
) -> None:
    """An ack of many must never cover a delivery that is still open."""
    inbox = Inbox()
    subscription = consuming(connection, inbox, 6)
    for tag in settled:
        subscription.ack(inbox.deliveries[tag - 1])
    subscription.abandon()
    assert acks_in(connection) == frames


async def test_acks_reach_the_socket_before_the_channel_closes(connection: FakeConnection) -> None:
    """The other way round, everything acknowledged in the last two milliseconds would be delivered again."""
    inbox = Inbox()
    subscription = consuming(connection, inbox, 2)
    subscription.ack(inbox.deliveries[0])
    subscription.abandon()
    assert [type(f) for f in frames_in(b"".join(connection.written))] == [spec.Basic.Ack, spec.Channel.Close]


async def test_acks_and_deliveries_after_the_end_do_nothing(connection: FakeConnection) -> None:
    inbox = Inbox()
    subscription = consuming(connection, inbox, 2)
    channel = subscription._channel
    assert channel is not None
    channel.connection_lost("gone")
    assert "gone" in await subscription.wait_lost()
    subscription.ack(inbox.deliveries[0])
    channel._take(spec.Basic.Deliver(consumer_tag="c", delivery_tag=3, exchange="", routing_key="q"))
    channel._take(ContentHeader(0, 0, spec.Basic.Properties()))
    await subscription.close()
    assert acks_in(connection) == []
    assert len(inbox.deliveries) == 2


async def test_a_call_on_a_channel_that_the_broker_closes_fails_with_its_words(connection: FakeConnection) -> None:
    channel = Channel(cast("Connection", connection), 1)
    calls = [channel.start(spec.Queue.Declare(queue=name)) for name in ("a", "b")]
    channel._take(spec.Queue.DeclareOk(queue="a", message_count=7, consumer_count=0))
    channel._take(spec.Channel.Close(reply_code=406, reply_text="PRECONDITION_FAILED - no", class_id=0, method_id=0))
    assert (await calls[0]).message_count == 7
    with pytest.raises(ChannelLost, match="PRECONDITION_FAILED"):
        await calls[1]
    with pytest.raises(ChannelLost):
        await channel.call(spec.Queue.Declare(queue="c"))


# Messages


def test_headers_survive_the_way_out_and_back() -> None:
    """0.1 is the number that 32 bits, which pamqp would write, cannot hold."""
    headers = {"f": 0.1, "i": 2**40, "n": -1, "t": True, "x": None, "s": "é", "l": [1, {"k": []}], "o": {"p": "q"}}
    message = Message(b"", message_id="m", headers=headers)
    _, header = frames_in(publish_frames(1, "", "q", message, mandatory=True, frame_max=4096))
    assert to_message(header.properties, b"") == message


def test_what_is_no_json_value_is_refused() -> None:
    with pytest.raises(TypeError, match="only JSON values travel"):
        publish_frames(1, "", "q", Message(b"", headers={"a": object()}), mandatory=True, frame_max=4096)
    with pytest.raises(ValueError, match="header name"):
        publish_frames(1, "", "q", Message(b"", headers={"a" * 256: 1}), mandatory=True, frame_max=4096)


def test_an_integer_too_large_for_amqp_travels_as_its_digits() -> None:
    raw = publish_frames(1, "", "q", Message(b"", headers={"n": 2**70}), mandatory=True, frame_max=4096)
    assert frames_in(raw)[1].properties.headers == {"n": str(2**70)}


def test_headers_are_cut_where_nobody_could_follow() -> None:
    value: Any = "bottom"
    for _ in range(400):
        value = {"k": value}
    cut, depth = plain(value), 0
    while isinstance(cut, dict):
        cut, depth = cut["k"], depth + 1
    assert (cut, depth) == (None, MAX_DEPTH + 1)
    assert plain(float("nan")) == "nan"


def test_the_guard_leaves_good_frames_alone() -> None:
    properties = spec.Basic.Properties(message_id="é", headers={"a": [1, "b"]})
    raw = frame.marshal(ContentHeader(0, 5, properties), 3)
    assert readable_header(raw[:7], raw[7:]) == raw[7:]
    raw = frame.marshal(spec.Basic.Deliver(consumer_tag="c", delivery_tag=255, exchange="x", routing_key="é"), 3)
    assert readable_deliver(raw[7:]) == raw[7:]


async def test_a_delivery_has_all_that_was_published(connection: FakeConnection) -> None:
    got: list[Delivery] = []
    subscription = RabbitMQSubscription("q", got.append)
    channel = Channel(cast("Connection", connection), 1)
    subscription.attach(channel)
    message = Message(b"0123456789" * 20, "m", "c", "r", "text/plain", {"a": 1})
    deliver = spec.Basic.Deliver(consumer_tag="c", delivery_tag=1, redelivered=True, exchange="x", routing_key="k")
    _, *content = frames_in(publish_frames(1, "", "q", message, mandatory=True, frame_max=8 + 64))
    assert len(content) == 1 + 4
    for each in (deliver, *content):
        await channel.put((0, each))
    assert got[0].message == message
    assert (got[0].queue, got[0].tag, got[0].redelivered, got[0].routing_key) == ("q", 1, True, "k")
    assert got[0].subscription is subscription


async def test_a_connection_that_never_came_is_collected_in_any_thread() -> None:
    """aio-pika's own starts a task to close itself then, which a thread without a loop cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # what other tests have left says nothing of this one
    link = [GuardedConnection(URL("amqp://localhost/"), asyncio.get_running_loop())]

    def collect() -> list[str]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            link.clear()
            gc.collect()
        return [str(warning.message) for warning in seen]

    assert await asyncio.to_thread(collect) == []
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
