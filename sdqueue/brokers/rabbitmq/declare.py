"""The topology on RabbitMQ: declare it, and tell what does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiormq import spec
from pamqp.base import Frame

from sdqueue.brokers.broker import QueueState
from sdqueue.brokers.rabbitmq.channel import Channel, ChannelLost
from sdqueue.brokers.rabbitmq.connection import Connection
from sdqueue.brokers.rabbitmq.rights import ACCESS_REFUSED, refused, right_for
from sdqueue.brokers.topology import (
    DELIVERY_LIMIT,
    MAX_PARTITIONS,
    Binding,
    Exchange,
    Queue,
    Topology,
    being_resharded,
)
from sdqueue.errors import TopologyMismatch, TopologyMissing

NOT_FOUND: Final = 404
RESOURCE_LOCKED: Final = 405
PRECONDITION_FAILED: Final = 406

LAST_STOP_DELIVERY_LIMIT: Final = 1_000_000
"""For queues without a dead-letter exchange: past its limit a message is gone, so the limit is out of
reach."""

PARALLEL: Final = 8
"""Channels that declare at the same time; the broker handles one channel's calls one by one."""


@asynccontextmanager
async def short_channel(connection: Connection) -> AsyncIterator[Channel]:
    """A channel for a few calls.

    Raises:
        ChannelLost: when it is opened.
        ConnectionError: the connection has none to give.
    """
    channel, opening = connection.channel()
    try:
        await channel.call(opening)
        yield channel
    finally:
        channel.abandon()


def exchange_frame(exchange: Exchange) -> spec.Exchange.Declare:
    """The declaration of an exchange."""
    arguments: dict[str, Any] = {"alternate-exchange": exchange.alternate} if exchange.alternate else {}
    return spec.Exchange.Declare(exchange=exchange.name, exchange_type=exchange.kind, durable=True, arguments=arguments)


def queue_frame(queue: Queue) -> spec.Queue.Declare:
    """The declaration of a queue. The delivery limit is always explicit: RabbitMQ 4 has one of 20
    otherwise."""
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT if queue.dead_letter else LAST_STOP_DELIVERY_LIMIT,
        # With any other overflow, at-least-once dead-lettering silently becomes at-most-once.
        "x-overflow": "reject-publish",
        # Otherwise the node that the declaring client is connected to leads all queues of a cluster.
        "x-queue-leader-locator": "balanced",
    }
    if queue.single_active:
        arguments["x-single-active-consumer"] = True
    if queue.dead_letter:
        arguments["x-dead-letter-exchange"] = queue.dead_letter
        arguments["x-dead-letter-strategy"] = "at-least-once"
    return spec.Queue.Declare(queue=queue.name, durable=True, arguments=arguments)


def binding_frame(binding: Binding) -> spec.Queue.Bind:
    """The declaration of a binding."""
    return spec.Queue.Bind(queue=binding.queue, exchange=binding.exchange, routing_key=binding.key)


def unbinding_frame(binding: Binding) -> spec.Queue.Unbind:
    """The removal of a binding; RabbitMQ confirms that of one that does not exist."""
    return spec.Queue.Unbind(queue=binding.queue, exchange=binding.exchange, routing_key=binding.key)


async def apply(connection: Connection, topology: Topology) -> None:
    """Declare everything; the replies exchange last, because its presence says that the rest is there.

    A topology that was left half applied is completed.

    Raises:
        TopologyMismatch: something exists with other properties, or with another number of partitions, or that
            number is being changed.
        ChannelLost: the connection went.
    """
    if await is_resharded(connection, topology):
        raise TopologyMismatch(being_resharded(topology))
    await check_partitions(connection, topology)
    *exchanges, replies = topology.exchanges
    await declare(connection, [exchange_frame(exchange) for exchange in exchanges])
    bindings = {binding.queue: binding_frame(binding) for binding in topology.bindings}
    await declare_side_by_side(connection, [(queue_frame(queue), bindings[queue.name]) for queue in topology.queues])
    await declare(connection, [exchange_frame(replies)])


async def declare_side_by_side(connection: Connection, steps: Sequence[Sequence[Frame]]) -> None:
    """Send the declarations of each step in order, and the steps beside each other; errors as of :func:`declare`."""
    try:
        async with asyncio.TaskGroup() as group:
            for start in range(min(PARALLEL, len(steps))):
                group.create_task(declare(connection, [frame for step in steps[start::PARALLEL] for frame in step]))
    except ExceptionGroup as failures:
        # Several may fail together. What does not fit stays true when the connection is back, so it is
        # told first.
        raise min(failures.exceptions, key=lambda error: not isinstance(error, TopologyMismatch)) from None


async def remove(connection: Connection, queue: str) -> bool:
    """Delete a queue where nothing is in it and nobody receives from it.

    Quorum queues refuse ``if-empty`` and ``if-unused`` (tried on 3.10: it even costs the connection), so it is looked
    first.
    """
    state = await queue_state(connection, queue)
    if state is None:
        return True
    if state.depth or state.receivers:
        return False
    await declare(connection, [spec.Queue.Delete(queue=queue)])
    return True


async def declare(connection: Connection, frames: Iterable[Frame]) -> None:
    """Send declarations one after the other.

    Raises:
        TopologyMismatch: what exists is different; the message has the broker's words for the difference.
        TopologyMissing: a binding names an exchange that is not there.
        AccessRefused: the user may not.
        ChannelLost: the connection went.
    """
    async with short_channel(connection) as channel:
        for frame in frames:
            try:
                await channel.call(frame)
            except ChannelLost as error:
                if error.code in (PRECONDITION_FAILED, RESOURCE_LOCKED):
                    raise TopologyMismatch(
                        f"{_named(frame)} exists on RabbitMQ, but does not fit: {error.reason}; delete it "
                        f"if nothing "
                        "needs it, or take another SDQUEUE_NAMESPACE"
                    ) from None
                if error.code == NOT_FOUND:
                    raise TopologyMissing(f"{error.reason}; run `sdqueue topology apply`") from None
                if error.code == ACCESS_REFUSED:
                    raise refused(error.reason, right_for(frame, error.reason)) from None
                raise


def _named(frame: Frame) -> str:
    if isinstance(frame, spec.Exchange.Declare):
        return f"the exchange {frame.exchange!r}"
    if isinstance(frame, spec.Queue.Declare):
        return f"the queue {frame.queue!r}"
    return f"{frame!r}"


async def is_resharded(connection: Connection, topology: Topology) -> bool:
    """Whether the number of partitions is being changed."""
    return await queue_state(connection, topology.resharding) is not None


async def exchange_exists(connection: Connection, name: str) -> bool:
    """Whether there is an exchange of that name."""
    return await _passive(connection, spec.Exchange.Declare(exchange=name, passive=True)) is not None


async def queue_state(connection: Connection, name: str) -> QueueState | None:
    """What the broker tells of a queue; ``None`` where there is no such queue."""
    found = await _passive(connection, spec.Queue.Declare(queue=name, passive=True))
    return None if found is None else QueueState(int(found.message_count), int(found.consumer_count))


async def _passive(connection: Connection, frame: Frame) -> Any | None:
    async with short_channel(connection) as channel:
        try:
            return await channel.call(frame)
        except ChannelLost as error:
            if error.code == NOT_FOUND:
                return None
            raise


async def check_partitions(connection: Connection, topology: Topology) -> None:
    """Refuse another number of partitions than the namespace was made with.

    A producer or a consumer with another number would put one session into two queues.

    The replies exchange is looked for first, the last queue after it: the other way round, a process that
    applies the same topology at the same time could finish in between, and its complete work would look
    like too few.

    Raises:
        TopologyMismatch: the numbers differ.
    """
    wanted = topology.partitions

    async def exists(partition: int) -> bool:
        return await queue_state(connection, topology.partition_queue(partition)) is not None

    complete = await exchange_exists(connection, topology.replies)
    too_many = wanted < MAX_PARTITIONS and await exists(wanted)
    too_few = complete and not await exists(wanted - 1)
    if not (too_many or too_few):
        return
    # Partitions are numbered without gaps, so their number is found by halving.
    low, high = (wanted + 1, MAX_PARTITIONS) if too_many else (0, wanted - 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if await exists(middle) else (low, middle)
    raise TopologyMismatch(
        f"the namespace {topology.namespace!r} has {low} partitions on RabbitMQ, but {wanted} are wanted; "
        f"their "
        f"number is the same for all: set SDQUEUE_PARTITIONS={low}, or take another SDQUEUE_NAMESPACE; "
        f"`sdqueue topology reshard` changes it"
    )
