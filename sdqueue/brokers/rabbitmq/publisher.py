"""Publishing with confirms: pipelined, in order, repeated after a lost connection."""

from __future__ import annotations

import asyncio
import itertools
import re
import zlib
from collections import deque
from dataclasses import dataclass
from typing import Final

from aiormq import spec

from sdqueue.brokers.broker import Message
from sdqueue.brokers.rabbitmq.channel import Channel, ChannelLost
from sdqueue.brokers.rabbitmq.connection import Connection
from sdqueue.brokers.rabbitmq.rights import ACCESS_REFUSED, refused
from sdqueue.brokers.rabbitmq.supervisor import Refused, Supervisor
from sdqueue.brokers.rabbitmq.wire import publish_frames, to_message
from sdqueue.errors import AccessRefused, BrokerUnavailable, PublishRejected, TopologyMissing, Unroutable

WINDOW: Final = 500
"""Open confirms a channel; more gain nothing and cost memory (facts: about 500)."""

LANES: Final = 4
"""Channels. A queue that cannot confirm (its majority is gone) fills the window of its own lane only."""

RETRY_S: Final = 0.1
"""Pause after the broker closed a channel for a reason that points to no message."""

ATTEMPT_S: Final = 10.0
"""How long a lane waits for a connection before it looks whether anybody still waits for the lane."""

RENEW_S: Final = 1.0
"""A refusal on a channel of at least this age makes the lane take a fresh one. Before RabbitMQ 3.12, a channel that
was opened while a node died may ask the dead leader of a queue for ever, and refuse what the new leader would take
(rabbitmq-server 9241). A full queue costs a channel a second."""

DRAIN_S: Final = 0.5
"""How long open confirms are waited for then; what is still open after it is sent again."""

NOT_FOUND: Final = 404
PRECONDITION_FAILED: Final = 406


@dataclass(eq=False, slots=True)
class Entry:
    """A message on its way; ``done`` resolves at its confirm, and is cancelled when nobody waits any more."""

    exchange: str
    routing_key: str
    message: Message
    mandatory: bool
    done: asyncio.Future[None]
    tag: int = 0
    returned: bool = False

    def fail(self, error: Exception) -> None:
        """Give up on it."""
        if not self.done.done():
            self.done.set_exception(error)


class Publisher:
    """Hands messages to the broker over one supervised connection.

    Messages of one queue, or of one partition's replies, travel in one lane and so keep the order in which
    they were given, also when they have to be sent again: a lane that lost its channel first repeats, in
    order, what was not confirmed. That may double a message, but never reorder it once repeats are dropped.

    Parameters:
        supervisor: of the publishing connection. Nothing else may use it: a memory alarm stops it altogether.
        optional: the exchange on which nobody has to listen.
    """

    def __init__(self, supervisor: Supervisor, *, optional: str) -> None:
        self._supervisor = supervisor
        self._optional = optional
        self._lanes = [Lane(supervisor) for _ in range(LANES)]

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float) -> None:
        """Publish and wait for the confirm; errors as in ``Broker.publish``."""
        if not routing_key.isascii():
            routing_key = routing_key.encode("utf-8", "replace").decode()  # as it comes back when it is returned
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = Entry(exchange, routing_key, message, exchange != self._optional, done)
        # A reply's routing key ends with its partition whatever its kind, so deltas stay before their
        # final reply.
        lane = self._lanes[zlib.crc32(routing_key.rpartition(".")[2].encode()) % LANES]
        try:
            async with asyncio.timeout(timeout):
                lane.add(entry)
                await done
        except TimeoutError:
            raise await self._late(lane, timeout) from None
        finally:
            lane.forget(entry)

    async def _late(self, lane: Lane, timeout: float) -> BrokerUnavailable:
        connection = self._supervisor.connection
        if connection is None:
            return self._supervisor.unavailable(timeout)
        if await connection.is_blocked():
            why = "the broker blocks publishers: a memory or disk alarm, see `rabbitmqctl status`"
        else:
            why = "connected, but the broker did not confirm the message"
            if lane.trouble:
                why += f"; the last channel ended with: {lane.trouble}"
        return self._supervisor.unavailable(timeout, why)

    async def close(self) -> None:
        """Fail what is still waiting, and end. Idempotent."""
        for lane in self._lanes:
            await lane.close()


class Lane:
    """One channel's worth of publishing: what is to be sent, and what waits for its confirm."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.trouble = ""
        """Why the last channel ended, for the error of those who wait in vain."""
        self._supervisor = supervisor
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._queue: deque[Entry] = deque()
        self._open: dict[int, Entry] = {}
        self._tags = itertools.count(1)
        self._opener: asyncio.Task[None] | None = None
        self._pause = False
        self._closed = False
        self._opened_at = 0.0
        self._renewal: asyncio.TimerHandle | None = None

    def add(self, entry: Entry) -> None:
        """Take a message; it goes out at once where the channel is open and its window has room."""
        if self._closed:
            entry.fail(BrokerUnavailable("the broker is closed: publish inside its `async with` block"))
            return
        self._queue.append(entry)
        self._pump()

    def forget(self, entry: Entry) -> None:
        """Nobody waits for it any more. Its place in the window is free, its confirm will be ignored."""
        if self._open.get(entry.tag) is entry:
            del self._open[entry.tag]
            self._pump()

    async def close(self) -> None:
        """Fail what is waiting. Idempotent."""
        self._closed = True
        if self._opener is not None:
            self._opener.cancel()
            await asyncio.wait((self._opener,))
        self._forget_renewal()
        if self._channel is not None:
            self._channel.abandon()
        entries = [*self._open.values(), *self._queue]
        self._open.clear()
        self._queue.clear()
        for entry in entries:
            entry.fail(BrokerUnavailable("the broker was closed before it confirmed; the message may arrive anyway"))

    def _pump(self) -> None:
        """Send what the window takes; where there is no channel, see to it that one is opened."""
        channel, connection = self._channel, self._connection
        if channel is None or connection is None:
            if self._queue and self._opener is None and not self._closed:
                self._opener = asyncio.create_task(self._reopen(), name="publisher channel")
            return
        if self._renewal is not None:
            if not self._open:
                self._renew()
            return
        while self._queue and len(self._open) < WINDOW and not connection.congested:
            entry = self._queue.popleft()
            if not entry.done.done():
                self._send(entry, channel, connection)

    def _send(self, entry: Entry, channel: Channel, connection: Connection) -> None:
        try:
            payload = publish_frames(
                channel.number,
                entry.exchange,
                entry.routing_key,
                entry.message,
                mandatory=entry.mandatory,
                frame_max=connection.frame_max,
            )
        except (ValueError, RecursionError) as error:
            entry.fail(
                Unroutable(f"no queue can have that name: {error}")
                if not entry.exchange and len(entry.routing_key.encode()) > 255
                else PublishRejected(f"the message does not fit into AMQP: {error}")
            )
        except TypeError as error:
            entry.fail(error)
        else:
            entry.tag, entry.returned = next(self._tags), False
            self._open[entry.tag] = entry
            channel.send(payload)

    async def _reopen(self) -> None:
        """Open a channel while anybody waits for one. What was not confirmed on the last one leads the
        queue."""
        loop = asyncio.get_running_loop()
        try:
            while any(not entry.done.done() for entry in self._queue):
                if self._pause:
                    self._pause = False
                    await asyncio.sleep(RETRY_S)
                try:
                    connection = await self._supervisor.get(loop.time() + ATTEMPT_S, ATTEMPT_S)
                    await self._open_channel(connection)
                except Refused as error:
                    while self._queue:
                        self._queue.popleft().fail(error)
                except BrokerUnavailable:
                    continue  # each message has its own time limit; who still waits wants another attempt
                except (ChannelLost, ConnectionError) as error:
                    self.trouble, self._pause = str(error), True
                else:
                    return
            self._queue.clear()
        finally:
            self._opener = None

    async def _open_channel(self, connection: Connection) -> None:
        channel, opening = connection.channel()
        channel.on_confirm = self._on_confirm
        channel.on_return = self._on_return
        channel.on_lost = self._on_lost
        try:
            await channel.call(opening, spec.Confirm.Select())
        except BaseException:
            channel.abandon()
            raise
        if channel.closed:
            # Lost between the answer and now, and on_lost has nothing to say about a channel that was not
            # in use.
            raise ChannelLost("the channel was lost as soon as it was open")
        connection.on_writable.add(self._pump)
        self._channel, self._connection = channel, connection
        self._tags = itertools.count(1)
        self._opened_at = asyncio.get_running_loop().time()
        self._pump()

    def _renew_soon(self) -> None:
        loop = asyncio.get_running_loop()
        if self._channel is not None and self._renewal is None and loop.time() - self._opened_at >= RENEW_S:
            self._renewal = loop.call_later(DRAIN_S, self._renew)

    def _renew(self) -> None:
        """Go on with a fresh channel."""
        if self._channel is not None:
            self._channel.abandon()
            self._on_lost(ChannelLost("the broker refused a message"))

    def _forget_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def _on_confirm(self, tag: int, multiple: bool, positive: bool) -> None:
        tags = list(itertools.takewhile(lambda t: t <= tag, self._open)) if multiple else (tag,)
        for each in tags:
            entry = self._open.pop(each, None)
            if entry is None or entry.done.done():
                continue
            if not positive:
                self._renew_soon()
                entry.fail(
                    PublishRejected(
                        f"RabbitMQ refused a message for exchange {entry.exchange!r} with routing key "
                        f"{entry.routing_key!r}: a queue is full or cannot store it; slow down and try again"
                    )
                )
            elif entry.returned:
                entry.fail(
                    Unroutable(
                        f"no queue takes a message for exchange {entry.exchange!r} with routing key "
                        f"{entry.routing_key!r}"
                        if entry.exchange
                        else f"there is no queue {entry.routing_key!r}"
                    )
                )
            else:
                entry.done.set_result(None)
        self._pump()

    def _on_return(self, frame: spec.Basic.Return, properties: spec.Basic.Properties) -> None:
        """Mark what came back. Returns come in the order of publishing, each before its confirm."""
        message_id = to_message(properties, b"").message_id
        for entry in self._open.values():
            if (
                not entry.returned
                and entry.exchange == frame.exchange
                and entry.routing_key == frame.routing_key
                and (entry.message.message_id or None) == message_id
            ):
                entry.returned = True
                return

    def _on_lost(self, error: ChannelLost) -> None:
        """Fail what the broker complains of; the others are sent again, before anything younger."""
        if self._channel is None:
            return  # it was refused while opening
        self._forget_renewal()
        self.trouble = error.reason
        entries, self._open = list(self._open.values()), {}
        self._channel = self._connection = None
        blamed = False
        for entry in entries:
            failure = blame(entry, error)
            if failure is not None:
                entry.fail(failure)
                blamed = True
        self._pause = not blamed and error.code != 0
        self._queue.extendleft(entry for entry in reversed(entries) if not entry.done.done())
        self._pump()


def blame(entry: Entry, error: ChannelLost) -> AccessRefused | PublishRejected | TopologyMissing | None:
    """What an open message gets for the end of its channel; ``None`` where it is not the cause.

    The broker closes the channel over one message and names the cause in words only (rabbit_channel.erl).
    """
    exchange = entry.exchange or "amq.default"
    if error.code == NOT_FOUND and f"exchange '{exchange}'" in error.reason:
        return TopologyMissing(f"RabbitMQ has no exchange {entry.exchange!r}; run `sdqueue topology apply`")
    if error.code == ACCESS_REFUSED and f"'{exchange}'" in error.reason:
        return refused(error.reason, "write")
    size = re.search(r"message size (\d+)", error.reason)
    if error.code == PRECONDITION_FAILED and size is not None and int(size[1]) == len(entry.message.body):
        return PublishRejected(f"RabbitMQ refused a body of {len(entry.message.body)} bytes: {error.reason}")
    return None
