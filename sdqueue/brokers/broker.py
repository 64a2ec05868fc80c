"""The Broker protocol: how turns and replies travel, with AMQP's own notions and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from sdqueue.brokers.topology import Binding, Queue, Topology
from sdqueue.errors import TopologyMissing


@dataclass(frozen=True, slots=True)
class Message:
    """What travels: a body with AMQP's properties. Always persistent.

    Parameters:
        body: the bytes, not interpreted by brokers.
        message_id: the turn's or the reply's id.
        correlation_id: on replies, the turn's id.
        reply_to: a queue that wants a copy of the reply.
        content_type: ``application/json`` for all bodies of the wire contract.
        headers: among them the W3C ``traceparent``.
    """

    body: bytes
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    content_type: str | None = "application/json"
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A message as a subscription received it.

    Parameters:
        message: what was published.
        queue: where it was waiting.
        tag: names it within its subscription; grows with every delivery.
        redelivered: whether somebody may have seen it before.
        routing_key: what it was published under.
        subscription: the only one that may acknowledge it. Another subscription of the same queue, though it be of
            the same process, is another generation.
    """

    message: Message
    queue: str
    tag: int
    redelivered: bool
    routing_key: str
    subscription: Subscription


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue at one moment.

    Parameters:
        depth: messages that wait, not counting those that are delivered and unacknowledged.
        receivers: subscriptions that receive from it, of all processes: whether somebody may hold messages. Where only
            one is active at a time, those that stand in line behind it are not counted.
    """

    depth: int
    receivers: int


OnDelivery = Callable[[Delivery], None]
"""Takes a delivery; called in the event loop, in order. It must only enqueue, and must not raise."""


class Subscription(Protocol):
    """One consumer on one queue, on a channel of its own: a generation of deliveries."""

    queue: str

    def ack(self, delivery: Delivery) -> None:
        """Settle a delivery for good. It does not wait; acks may go out in batches, within milliseconds.

        On a subscription that is closed or lost nothing happens: the broker delivers again.
        """
        ...

    async def wait_lost(self) -> str:
        """Wait until the broker has ended this subscription (a lost connection, a deleted queue) and say why.

        Returns at once where it is lost already; does not return where it was closed by :meth:`close`.
        """
        ...

    async def close(self) -> None:
        """End it: acks go out, and all that is not acknowledged returns to the queue, in order. Idempotent."""
        ...


@runtime_checkable
class Broker(Protocol):
    """Carries messages between producers and consumers.

    Every broker passes ``sdqueue.testing.BrokerSuite``. Used as ``async with broker``; entering it does not wait
    for the server, and a broker that loses its server reconnects by itself.

    A queue with ``single_active`` delivers to one subscription at a time, the oldest; when that ends, the next one
    gets everything not acknowledged, in order, and then what follows.
    """

    topology: Topology
    """What :meth:`apply` and :meth:`check` mean. It may be replaced by one with another number of partitions."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def apply(self, *, timeout: float = 30.0) -> None:
        """Declare the topology; what fits already is left alone.

        Raises:
            TopologyMismatch: something of that name is different; the message names the difference. Or the number of
                partitions is just being changed.
            AccessRefused: this user may not declare it.
            BrokerUnavailable: the broker was not reached in ``timeout`` seconds.
        """
        ...

    async def check(self, *, timeout: float = 10.0) -> None:
        """See whether the topology is complete. While the number of partitions is being changed, any number is right:
        all turns then take the way of the unrouted ones.

        Raises:
            TopologyMissing: it is not.
            TopologyMismatch: it has another number of partitions.
            BrokerUnavailable: the broker was not reached in ``timeout`` seconds.
        """
        ...

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        """Hand over a message; returns when the broker has it for good (a confirm).

        Within the timeout it waits for a lost connection and repeats what was not confirmed, so a message may
        arrive twice; ids tell. With the exchange ``""`` the routing key is the name of a queue.

        Raises:
            Unroutable: no queue takes it. Not raised on the replies exchange: nobody has to listen.
            AccessRefused: this user may not publish there.
            PublishRejected: the broker refused it.
            BrokerUnavailable: it was not confirmed in ``timeout`` seconds; it may arrive nevertheless.
            TopologyMissing: there is no such exchange.
        """
        ...

    async def subscribe(
        self, queue: str, on_delivery: OnDelivery, *, prefetch: int, timeout: float = 10.0
    ) -> Subscription:
        """Receive a queue's messages, at most ``prefetch`` of them unacknowledged.

        All subscriptions of a queue must use the same prefetch: with a smaller one, RabbitMQ may put returned
        messages behind others.

        Raises:
            TopologyMissing: there is no such queue.
            AccessRefused: this user may not receive from it.
            BrokerUnavailable: the broker was not reached in ``timeout`` seconds.
        """
        ...

    async def subscribe_replies(self, on_delivery: OnDelivery, *, timeout: float = 10.0) -> Subscription:
        """Receive on a private queue that lives as long as the subscription; its ``queue`` goes into ``reply_to``.

        Nothing needs to be acknowledged. What arrives while it is lost is gone; ask again under the same turn id.
        """
        ...

    async def declare_egress(self, channel: str, *, timeout: float = 10.0) -> str:
        """Make sure that a channel's replies are kept for it, and return the name of their queue."""
        ...

    async def declare(self, queues: Sequence[Queue], *, timeout: float = 30.0) -> None:
        """Make sure that queues are there, without any binding. For those who change a topology: see :meth:`apply`.

        Raises:
            TopologyMismatch: one of them exists with other properties.
        """
        ...

    async def bind(self, bindings: Sequence[Binding], *, timeout: float = 30.0) -> None:
        """Make sure that bindings are there; what is published when this has returned is routed by them.

        Raises:
            TopologyMissing: a queue or an exchange is not there.
        """
        ...

    async def unbind(self, bindings: Sequence[Binding], *, timeout: float = 30.0) -> None:
        """Take bindings away; what is published when this has returned is not routed by them. Those that are not
        there are ignored, also where their queue is not there."""
        ...

    async def remove(self, queue: str, *, timeout: float = 10.0) -> bool:
        """Remove a queue with its bindings, unless messages wait in it or somebody receives from it.

        Take its bindings away first: a message that arrives while this looks at the queue may be lost on RabbitMQ,
        which cannot look and remove in one step.

        Returns:
            Whether the queue is gone.
        """
        ...

    async def depth(self, queue: str, *, timeout: float = 10.0) -> int:
        """How many messages wait in a queue, not counting those that are delivered and unacknowledged.

        Raises:
            TopologyMissing: there is no such queue.
        """
        ...

    async def queue_state(self, queue: str, *, timeout: float = 10.0) -> QueueState:
        """How many messages wait in a queue and how many subscriptions receive from it, both at one moment.

        Raises:
            TopologyMissing: there is no such queue.
        """
        ...

    async def describe(self, *, timeout: float = 10.0) -> str:
        """What answers, for people: product and version, such as ``RabbitMQ 3.10.8``.

        Raises:
            BrokerUnavailable: nothing answers.
        """
        ...


async def egress_queue(broker: Broker, channel: str, *, declare: bool, timeout: float = 10.0) -> str:
    """The name of the queue of a channel's replies, which is there.

    Parameters:
        broker: whose.
        channel: as in a turn.
        declare: whether it is made where it is missing; a process without the right to only looks.
        timeout: seconds.

    Raises:
        TopologyMissing: it is not there, and was not to be made; or there is no replies exchange.
        TopologyMismatch, AccessRefused, BrokerUnavailable: see :meth:`Broker.declare_egress`.
    """
    if declare:
        return await broker.declare_egress(channel, timeout=timeout)
    queue = broker.topology.egress_queue(channel)
    try:
        await broker.queue_state(queue, timeout=timeout)
    except TopologyMissing:
        raise TopologyMissing(
            f"there is no queue {queue!r} for the replies of channel {channel!r}, and this process is not to make it; "
            f"run `sdqueue topology apply --channels {channel}`"
        ) from None
    return queue


async def queue_exists(broker: Broker, queue: str) -> bool:
    """Whether a broker has a queue of this name.

    Raises:
        BrokerUnavailable: it cannot be asked.
    """
    try:
        await broker.queue_state(queue)
    except TopologyMissing:
        return False
    return True
