"""One connection to RabbitMQ, from its handshake to its end. It never reconnects: see ``supervisor.py``."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any, Final, Self, cast

import aio_pika
import aiormq
from aiormq import spec
from aiormq.abc import ChannelFrame
from yarl import URL

from sdqueue.brokers.rabbitmq.channel import Channel
from sdqueue.brokers.rabbitmq.guard import GuardedConnection
from sdqueue.brokers.rabbitmq.wire import plain

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 10
"""A dead peer is noticed after about three of these. The URL's ``heartbeat`` wins."""

CONGESTED_BYTES: Final = 1024 * 1024
"""Bytes waiting for the socket from which on nothing more should be published: the broker has stopped
reading."""

FLUSH_TIMEOUT_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 5.0


class Connection:
    """A live connection: channels, and one outbox through which all that they write goes in order.

    What is written in one turn of the event loop goes out as one piece.
    """

    def __init__(self, link: aio_pika.abc.AbstractConnection, name: str) -> None:
        assert link.transport is not None
        self.name = name
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolved with the reason when the connection has ended."""
        self.on_writable: set[Callable[[], None]] = set()
        """Called when the socket takes data again after :attr:`congested`."""
        self._link = link
        self._raw = cast("aiormq.Connection", link.transport.connection)
        self._channels: set[Channel] = set()
        self._numbers = itertools.cycle(range(1, (self._raw.connection_tune.channel_max or 65535) + 1))
        self._closing: asyncio.Task[None] | None = None
        self._outbox: list[bytes] = []
        self._waiting = 0
        self._wake = asyncio.Event()
        self._idle: asyncio.Future[None] | None = None
        self._writer = asyncio.create_task(self._write(), name=f"{name} writer")
        self._raw.closing.add_done_callback(self._on_closing)

    @classmethod
    async def open(cls, url: str, name: str, *, timeout_s: float = 10.0) -> Self:
        """Connect; the name is what ``rabbitmqctl list_connections`` and the management pages show.

        Raises:
            Exception: whatever the libraries raise, from ``AMQPConnectionError`` to a cancelled handshake.
        """
        address = URL(url)
        if "heartbeat" not in address.query:
            address = address.update_query(heartbeat=str(HEARTBEAT_S))
        link = await aio_pika.connect(
            address,
            timeout=timeout_s,
            client_properties={"connection_name": name},
            connection_class=GuardedConnection,
        )
        return cls(link, name)

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return not self.lost.done()

    @property
    def congested(self) -> bool:
        """Whether the socket has not taken what was written for a while."""
        return self._waiting > CONGESTED_BYTES

    @property
    def frame_max(self) -> int:
        """The largest frame, in bytes, that was agreed on."""
        return self._raw.connection_tune.frame_max or 131072

    @property
    def product(self) -> str:
        """Product and version of the broker."""
        about = self._raw.server_properties
        return " ".join(str(plain(about.get(name, "?"))) for name in ("product", "version"))

    async def is_blocked(self) -> bool:
        """Whether the broker has said that it takes no messages (a memory or disk alarm)."""
        if not self.alive:
            return False
        try:
            async with asyncio.timeout(0):
                await self._raw.ready()
        except TimeoutError:
            return True
        return False

    def send(self, payload: bytes) -> None:
        """Write to the socket, soon and in order."""
        if self.alive:
            self._outbox.append(payload)
            self._waiting += len(payload)
            self._wake.set()

    def channel(self) -> tuple[Channel, spec.Channel.Open]:
        """A new channel, and the method that opens it, to be called together with others.

        Numbers go round, because a late frame of a channel must not meet a younger one of its number.

        Raises:
            ConnectionError: the connection has ended, or has no channel left.
        """
        channels = self._raw.channels
        for number in itertools.islice(self._numbers, self._raw.connection_tune.channel_max or 65535):
            if number not in channels:
                break
        else:
            raise ConnectionError(f"all {len(channels)} channels of the connection {self.name!r} are in use")
        if not self.alive:
            raise ConnectionError(self.lost.result())
        channel = Channel(self, number)
        channels[number] = cast("Any", channel)
        self._channels.add(channel)
        return channel, spec.Channel.Open()

    def forget(self, channel: Channel) -> None:
        """Called by a channel that has ended on both sides."""
        self._channels.discard(channel)

    async def close(self) -> None:
        """Say goodbye to the broker. Idempotent; bounded in time when nobody answers."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"{self.name} close")
        # Shielded, because whoever cancels one caller leaves the connection half closed to the next.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self.alive:
            await self._flushed()
        self._end("the connection was closed")
        await asyncio.wait((self._writer,))
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._link.close()
        except (TimeoutError, ConnectionError, aiormq.AMQPError) as error:
            log.warning("%s: did not close properly: %s", self.name, describe(error))

    async def _flushed(self) -> None:
        """Acks and closes that were written last should still reach the broker."""
        if self._waiting:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._idle,), timeout=FLUSH_TIMEOUT_S)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            was_congested = self.congested
            payload = b"".join(self._outbox)
            self._outbox.clear()
            drained: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            await self._raw.write_queue.put(ChannelFrame(payload, should_close=False, drain_future=drained))
            await drained
            self._waiting -= len(payload)
            if not self._waiting and self._idle is not None and not self._idle.done():
                self._idle.set_result(None)
            if was_congested and not self.congested:
                for resume in tuple(self.on_writable):
                    resume()

    def _on_closing(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self._end(describe(error) if error is not None else "the connection was closed")

    def _end(self, reason: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        self._writer.cancel()
        for channel in tuple(self._channels):
            channel.connection_lost(reason)


def describe(error: BaseException) -> str:
    """An error of the libraries in words; many have none of their own."""
    text = str(error.args[-1]) if error.args else ""
    return text or type(error).__name__
