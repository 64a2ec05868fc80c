"""One consumer on one queue: a generation of deliveries, and their acks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aiormq import spec

from sdqueue.brokers.broker import Delivery, OnDelivery
from sdqueue.brokers.rabbitmq.channel import Channel, ChannelLost, ConsumerCancelled
from sdqueue.brokers.rabbitmq.wire import ack_frame, to_message

ACK_DELAY_S: Final = 0.002
"""Acks of this long go out together: each is a command in the log of a quorum queue, so fewer are cheaper."""


class RabbitMQSubscription:
    """A ``Subscription`` on a channel of its own.

    It ends once, by :meth:`close`, or by the loss of its channel or connection. From then on
    ``on_delivery`` is not called and acks do nothing: the broker delivers again, to another generation.

    Parameters:
        queue: what it consumes.
        on_delivery: takes the deliveries.
        no_ack: whether the broker forgets a message once it is sent.
    """

    def __init__(self, queue: str, on_delivery: OnDelivery, *, no_ack: bool = False) -> None:
        self.queue = queue
        self.on_ended: Callable[[RabbitMQSubscription], None] | None = None
        """Called once when it has ended, for whoever keeps a list."""
        self.cancelled = False
        """Whether it has ended because the broker cancelled the consumer."""
        self._on_delivery = on_delivery
        self._no_ack = no_ack
        self._channel: Channel | None = None
        self._ended = False
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._outstanding: dict[int, None] = {}
        self._acked: list[int] = []
        self._flush_timer: asyncio.TimerHandle | None = None

    def attach(self, channel: Channel) -> None:
        """Take the callbacks of a channel that is about to consume."""
        self._channel = channel
        channel.on_deliver = self._deliver
        channel.on_lost = self._on_lost

    def ack(self, delivery: Delivery) -> None:
        """As in ``Subscription``: it goes out within 2 ms, together with others."""
        if self._ended or delivery.subscription is not self:
            return
        # A tag that is settled already must not be sent again: the broker would close the channel for it.
        if delivery.tag not in self._outstanding:
            return
        del self._outstanding[delivery.tag]
        self._acked.append(delivery.tag)
        if self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(ACK_DELAY_S, self._flush)

    async def wait_lost(self) -> str:
        """As in ``Subscription``."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """As in ``Subscription``. Bounded in time when the connection is dead.

        The channel is closed and the consumer is not cancelled first: after ``basic.cancel`` the next
        consumer of the queue would start with *later* messages, and get what this one holds only when its
        channel goes.
        """
        channel = self._channel
        self.abandon()
        if channel is not None:
            await channel.close()

    def abandon(self) -> None:
        """Start to close, without waiting: acks and the channel's close are on their way."""
        if not self._ended:
            self._flush()
            self._end()
        if self._channel is not None:
            self._channel.abandon()

    def _end(self) -> None:
        self._ended = True
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._outstanding.clear()
        self._acked.clear()
        if self.on_ended is not None:
            self.on_ended(self)

    def _on_lost(self, error: ChannelLost) -> None:
        if not self._ended:
            self.cancelled = isinstance(error, ConsumerCancelled)
            self._end()
            self._lost.set_result(f"queue {self.queue}: {error.reason}")

    def _deliver(self, frame: spec.Basic.Deliver, properties: spec.Basic.Properties, body: bytes) -> None:
        if self._ended:
            return
        tag = frame.delivery_tag or 0
        if not self._no_ack:
            self._outstanding[tag] = None
        self._on_delivery(
            Delivery(
                message=to_message(properties, body),
                queue=self.queue,
                tag=tag,
                redelivered=bool(frame.redelivered),
                routing_key=frame.routing_key or "",
                subscription=self,
            )
        )

    def _flush(self) -> None:
        """One ack for everything up to the first delivery that is still open, one each for those behind
        it."""
        self._flush_timer = None
        if not self._acked or self._channel is None:
            return
        tags = sorted(self._acked)
        self._acked.clear()
        first_open = next(iter(self._outstanding), tags[-1] + 1)
        number = self._channel.number
        prefix = [tag for tag in tags if tag < first_open]
        frames = [ack_frame(number, tag, multiple=False) for tag in tags[len(prefix) :]]
        if prefix:
            frames.insert(0, ack_frame(number, prefix[-1], multiple=len(prefix) > 1))
        self._channel.send(b"".join(frames))
