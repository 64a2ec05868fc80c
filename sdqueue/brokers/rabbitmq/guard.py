"""Lets a connection live through messages that pamqp cannot read.

pamqp decodes all properties of a message as soon as it comes in, and fails on what other producers may
well send: a timestamp in microseconds, a message id or routing key that is not UTF-8, a header table
nested a thousand deep. The failure ends the connection, the message is redelivered, and the next
connection ends as well. Here such a message loses what cannot be read and arrives with the rest, to be
judged like any other.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aio_pika
import pamqp.frame
from aiormq import AMQPConnectionError, TransportFactory
from yarl import URL

_METHOD: Final = 1
_HEADER: Final = 2
_DELIVER: Final = b"\x00\x3c\x00\x3c"
_PREFIX: Final = 7


class GuardedReader(asyncio.StreamReader):
    """Hands out frames as aiormq reads them: one byte, six bytes, then payload and end."""

    _prefix = b""

    async def readexactly(self, n: int) -> bytes:
        """As in the base class; a payload that pamqp cannot decode is mended."""
        data = await super().readexactly(n)
        if len(self._prefix) < _PREFIX:
            self._prefix += data
            return data
        prefix, self._prefix = self._prefix, b""
        if prefix[0] == _HEADER:
            return readable_header(prefix, data)
        if prefix[0] == _METHOD and data.startswith(_DELIVER):
            return readable_deliver(data)
        return data


def readable_header(prefix: bytes, payload: bytes) -> bytes:
    """A content header as it is, or without properties where they cannot be decoded.

    Decoded the way aiormq does it, one level deeper in the stack, so that what passes here passes there.
    """
    try:
        pamqp.frame.unmarshal(prefix + payload)
    except Exception:  # noqa: BLE001  whatever it raises there would end the connection
        return payload[:12] + b"\x00\x00" + payload[14:]
    return payload


def readable_deliver(payload: bytes) -> bytes:
    """A ``basic.deliver`` as it is, or with ``?`` for every byte of a routing key that is not UTF-8."""
    exchange_at = 4 + 1 + payload[4] + 8 + 1
    key_at = exchange_at + 1 + payload[exchange_at]
    key = payload[key_at + 1 : -1]
    try:
        key.decode()
    except UnicodeDecodeError:
        return payload[: key_at + 1] + bytes(b if b < 0x80 else ord("?") for b in key) + payload[-1:]
    return payload


class GuardedTransport(TransportFactory):
    """Opens TCP and TLS connections like aiormq's own, with a :class:`GuardedReader`."""

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect.

        Raises:
            AMQPConnectionError: it failed.
        """
        tls = kwargs.pop("ssl_context_provider")
        loop = asyncio.get_running_loop()
        reader = GuardedReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            context = await tls.get_context() if url.scheme == "amqps" else None
            transport, _ = await loop.create_connection(
                lambda: protocol, url.host or "localhost", url.port or 5672, ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class GuardedConnection(aio_pika.Connection):
    """A plain connection of aio-pika (nothing robust about it) over a :class:`GuardedTransport`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kwargs["transport_factory"] = GuardedTransport()

    def __del__(self) -> None:
        """Nothing: whoever connects closes. aio-pika's starts a task from here, in whatever thread collects garbage."""
