"""Messages as AMQP 0-9-1 frames, and back.

Publishing encodes by itself, for three reasons: pamqp writes every float as 32 bits, so that 0.1 comes
back as 0.10000000149; aiormq gives a message without ``message_id`` a random one, and a turn without
identity must stay one; and it is the hottest path of a consumer after the agent.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from aiormq import spec

from sdqueue.brokers.broker import Message

LONG_MESSAGE_ID: Final = "x-sdqueue-message-id"
"""Header for an id that the AMQP property cannot hold: a property has at most 255 bytes, a turn id 256
characters."""

LONG_CORRELATION_ID: Final = "x-sdqueue-correlation-id"

MAX_DEPTH: Final = 32
"""Levels of nested header values that are kept."""

_SHORT: Final = 255
_BASIC: Final = 60
_FRAME_END: Final = b"\xce"
_FRAME: Final = struct.Struct(">BHI")
_PUBLISH: Final = struct.Struct(">HHH")
_HEADER: Final = struct.Struct(">HHQH")
_ACK: Final = struct.Struct(">BHIHHQ?B")
_SENDER_SELECTED: Final = frozenset({"CC", "BCC"})


def publish_frames(
    channel: int, exchange: str, routing_key: str, message: Message, *, mandatory: bool, frame_max: int
) -> bytes:
    """A ``basic.publish`` with its content, ready for the socket. The message is persistent.

    The headers CC and BCC are left out: they would make RabbitMQ route copies past the topology.

    Raises:
        ValueError: something does not fit into AMQP: a routing key, ``reply_to`` or header name of more
            than 255 bytes, or headers that do not fit into one frame.
        TypeError: a header value is no JSON value.
    """
    method = b"".join(
        (
            _PUBLISH.pack(_BASIC, 40, 0),
            short(exchange, "exchange"),
            short(routing_key, "routing key"),
            b"\x01" if mandatory else b"\x00",
        )
    )
    header = _content_header(message)
    size = frame_max - 8  # a frame's own seven bytes and its end
    if len(header) > size:
        # The broker would close the connection, with all that others have on it.
        raise ValueError(f"headers and properties have {len(header)} bytes, one frame takes {size}")
    body = message.body
    parts = [
        _FRAME.pack(1, channel, len(method)), method, _FRAME_END,
        _FRAME.pack(2, channel, len(header)), header, _FRAME_END,
    ]  # fmt: skip
    for start in range(0, len(body), size):
        piece = body[start : start + size]
        parts += (_FRAME.pack(3, channel, len(piece)), piece, _FRAME_END)
    return b"".join(parts)


def ack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """A ``basic.ack``; ``multiple`` settles everything up to the tag."""
    return _ACK.pack(1, channel, 13, _BASIC, 80, tag, multiple, 0xCE)


def short(value: str, what: str) -> bytes:
    """An AMQP short string.

    Raises:
        ValueError: it has more than 255 bytes; the message says what.
    """
    raw = value.encode("utf-8", "replace")
    if len(raw) > _SHORT:
        raise ValueError(f"{what}: has {len(raw)} bytes, AMQP takes at most {_SHORT}: {value[:40]!r}…")
    return bytes((len(raw),)) + raw


def _content_header(message: Message) -> bytes:
    headers: Mapping[str, Any] = message.headers
    message_id, correlation_id = message.message_id, message.correlation_id
    if message_id and _is_long(message_id):
        headers, message_id = {**headers, LONG_MESSAGE_ID: message_id}, None
    if correlation_id and _is_long(correlation_id):
        headers, correlation_id = {**headers, LONG_CORRELATION_ID: correlation_id}, None
    flags, parts = 0x1000, []
    if message.content_type:
        flags |= 0x8000
        parts.append(short(message.content_type, "content type"))
    if headers:
        flags |= 0x2000
        parts.append(_table({k: v for k, v in headers.items() if k not in _SENDER_SELECTED}))
    parts.append(b"\x02")
    if correlation_id:
        flags |= 0x0400
        parts.append(short(correlation_id, "correlation id"))
    if message.reply_to:
        flags |= 0x0200
        parts.append(short(message.reply_to, "reply_to"))
    if message_id:
        flags |= 0x0080
        parts.append(short(message_id, "message id"))
    return _HEADER.pack(_BASIC, 0, len(message.body), flags) + b"".join(parts)


def _is_long(value: str) -> bool:
    return len(value) > _SHORT // 4 and len(value.encode("utf-8", "replace")) > _SHORT


def _table(values: Mapping[str, Any]) -> bytes:
    body = b"".join(short(str(key), "header name") + _field(value) for key, value in values.items())
    return struct.pack(">I", len(body)) + body


def _field(value: Any) -> bytes:
    """A table value. Checked in this order because a bool is an int."""
    if isinstance(value, str):
        raw = value.encode("utf-8", "replace")
        return struct.pack(">cI", b"S", len(raw)) + raw
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return struct.pack(">cq", b"l", value)
        return _field(str(value))  # AMQP has no larger integer; its digits are better than a refused message
    if value is None:
        return b"V"
    if isinstance(value, float):
        return struct.pack(">cd", b"d", value)
    if isinstance(value, Mapping):
        return b"F" + _table(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        items = b"".join(_field(item) for item in value)
        return struct.pack(">cI", b"A", len(items)) + items
    raise TypeError(f"headers: {value!r} is a {type(value).__name__}, only JSON values travel")


def to_message(properties: spec.Basic.Properties, body: bytes) -> Message:
    """What was delivered, whoever published it: absent properties are ``None``, headers are JSON values."""
    headers = plain(properties.headers) if properties.headers else {}
    message_id, correlation_id = properties.message_id, properties.correlation_id
    if LONG_MESSAGE_ID in headers:
        message_id = str(headers.pop(LONG_MESSAGE_ID))
    if LONG_CORRELATION_ID in headers:
        correlation_id = str(headers.pop(LONG_CORRELATION_ID))
    return Message(
        body=body,
        message_id=message_id or None,
        correlation_id=correlation_id or None,
        reply_to=properties.reply_to or None,
        content_type=properties.content_type or None,
        headers=headers,
    )


def plain(value: Any, depth: int = 0) -> Any:
    """A header value as JSON can hold it: times as RFC 3339, bytes as text or base64, odd numbers as text.

    What lies deeper than :data:`MAX_DEPTH` becomes ``None``, so that no recursion downstream can fail on it.
    """
    if depth > MAX_DEPTH:
        return None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, bytes | bytearray):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return str(value)
