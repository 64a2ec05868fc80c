"""RabbitMQ: messages of strangers, and what AMQP has no property for, on the run's shared server."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import aiormq
import pytest
from aiormq import spec

from sdqueue.brokers.broker import Broker, Message
from sdqueue.brokers.rabbitmq.connection import Connection
from sdqueue.brokers.rabbitmq.declare import short_channel
from sdqueue.brokers.rabbitmq.wire import publish_frames
from sdqueue.brokers.topology import Topology
from sdqueue.errors import PublishRejected, Unroutable
from sdqueue.testing.brokers import Inbox

pytestmark = pytest.mark.rabbitmq


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


async def test_headers_that_fit_no_frame_are_refused_and_harm_no_other_publish(
    broker: Broker, topology: Topology
) -> None:
    """RabbitMQ closes the connection for a frame that is too large."""
    fitting = Message(b"x", headers={"a": "b" * (131_072 - 300)})
    large = Message(b"x", headers={"a": "b" * 131_072})
    sent = [broker.publish(topology.turns, "0000", message) for message in (fitting, large, fitting)]
    first, second, third = await asyncio.gather(*sent, return_exceptions=True)
    assert (first, third) == (None, None)
    assert isinstance(second, PublishRejected)
    assert "one frame takes" in str(second)
    assert broker._publishing.connection is not None  # type: ignore[attr-defined]  # RabbitMQ's own
    assert await broker.depth(topology.partition_queue(0)) == 2, "a repeat after a lost connection would be a third"


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
