"""RabbitMQ as a Broker: quorum queues, single active consumers, publisher confirms."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Self, TypeVar

from aiormq import spec
from pamqp.base import Frame

from sdqueue.brokers.broker import Message, OnDelivery, QueueState
from sdqueue.brokers.rabbitmq import declare
from sdqueue.brokers.rabbitmq.channel import ChannelLost
from sdqueue.brokers.rabbitmq.connection import Connection
from sdqueue.brokers.rabbitmq.publisher import Publisher
from sdqueue.brokers.rabbitmq.rights import ACCESS_REFUSED, Right, lacking, refused
from sdqueue.brokers.rabbitmq.subscription import RabbitMQSubscription
from sdqueue.brokers.rabbitmq.supervisor import Supervisor
from sdqueue.brokers.topology import Binding, Queue, Topology
from sdqueue.errors import BrokerUnavailable, ConfigurationError, TopologyMissing
from sdqueue.urls import check_url, mask

Result = TypeVar("Result")

RETRY_S = 0.05
"""Pause before a call is repeated whose connection went while it ran."""

CANCELLED_S: Final = 0.25
"""Pause before a queue is consumed again after the broker has cancelled a consumer of it. On RabbitMQ 4.0 a consumer
that comes while its queue is being deleted makes the broker close the whole connection with an internal error (tried:
three times of four without a pause, once in twelve after 0.02 s, never after 0.1 s)."""


class RabbitMQBroker:
    """A ``Broker`` on RabbitMQ 3.10 or newer.

    It keeps two connections, each opened when first needed and again whenever it is lost: one for
    publishing, which a memory alarm of the broker stops, and one for everything else, so that acks still
    go out then.

    Parameters:
        url: ``amqp://user:password@host:port/vhost`` or ``amqps://…``. The nodes of a cluster are named together,
            ``amqp://user:password@a:5672,b:5672/vhost``. The query may have ``heartbeat`` (seconds, 10 by default)
            and aio-pika's TLS options (``cafile``, ``certfile``, ``keyfile``, ``no_verify_ssl``).
        topology: what it declares and checks.
        name: what RabbitMQ shows for the connections, with ``publish`` or ``consume`` behind it.

    Raises:
        ConfigurationError: the URL is not one of RabbitMQ.
    """

    def __init__(self, url: str, topology: Topology, *, name: str = "sdqueue") -> None:
        try:
            check_url(url, ("amqp", "amqps"))
        except ValueError as error:
            raise ConfigurationError(
                f"broker URL: {mask(url)!r} is no address of RabbitMQ, it {error}; expected "
                "amqp://user:password@host:port/vhost, several hosts separated by commas"
            ) from None
        self.topology = topology
        self._publishing = Supervisor(url, f"{name} publish")
        self._consuming = Supervisor(url, f"{name} consume")
        self._publisher = Publisher(self._publishing, optional=topology.replies)
        self._subscriptions: set[RabbitMQSubscription] = set()
        self._cancelled_at: dict[str, float] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End all subscriptions like their own ``close``, and both connections. Idempotent."""
        await asyncio.gather(*(subscription.close() for subscription in tuple(self._subscriptions)))
        await self._publisher.close()
        await asyncio.gather(self._publishing.close(), self._consuming.close())

    async def apply(self, *, timeout: float = 30.0) -> None:
        """As in ``Broker``."""
        await self._call(lambda connection: declare.apply(connection, self.topology), timeout)

    async def check(self, *, timeout: float = 10.0) -> None:
        """As in ``Broker``."""

        async def work(connection: Connection) -> bool:
            if not await declare.exchange_exists(connection, self.topology.replies):
                return False
            if not await declare.is_resharded(connection, self.topology):
                await declare.check_partitions(connection, self.topology)
            return True

        if not await self._call(work, timeout):
            raise TopologyMissing(
                f"the namespace {self.topology.namespace!r} is not (or not completely) declared on "
                f"RabbitMQ: there is "
                f"no exchange {self.topology.replies!r}; run `sdqueue topology apply`"
            )

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        """As in ``Broker``."""
        await self._publisher.publish(exchange, routing_key, message, timeout=timeout)

    async def subscribe(
        self, queue: str, on_delivery: OnDelivery, *, prefetch: int, timeout: float = 10.0
    ) -> RabbitMQSubscription:
        """As in ``Broker``."""
        return await self._subscribe(
            lambda: RabbitMQSubscription(queue, on_delivery),
            (spec.Basic.Qos(prefetch_count=prefetch), spec.Basic.Consume(queue=queue)),
            "read",
            timeout,
        )

    async def subscribe_replies(self, on_delivery: OnDelivery, *, timeout: float = 10.0) -> RabbitMQSubscription:
        """As in ``Broker``."""
        queue = f"{self.topology.namespace}.ask.{uuid.uuid4().hex}"
        return await self._subscribe(
            lambda: RabbitMQSubscription(queue, on_delivery, no_ack=True),
            (
                spec.Queue.Declare(queue=queue, exclusive=True, auto_delete=True),
                spec.Basic.Consume(queue=queue, no_ack=True),
            ),
            "configure or read",
            timeout,
        )

    async def declare_egress(self, channel: str, *, timeout: float = 10.0) -> str:
        """As in ``Broker``.

        Raises:
            TopologyMissing: there is no replies exchange yet.
            TopologyMismatch: the queue exists with other properties.
        """
        queue, binding = self.topology.egress(channel)
        frames = (
            spec.Exchange.Declare(exchange=binding.exchange, passive=True),  # no queue is left where it is missing
            declare.queue_frame(queue),
            declare.binding_frame(binding),
        )
        await self._call(lambda connection: declare.declare(connection, frames), timeout)
        return queue.name

    async def declare(self, queues: Sequence[Queue], *, timeout: float = 30.0) -> None:
        """As in ``Broker``."""
        await self._declare([declare.queue_frame(queue) for queue in queues], timeout)

    async def bind(self, bindings: Sequence[Binding], *, timeout: float = 30.0) -> None:
        """As in ``Broker``."""
        await self._declare([declare.binding_frame(binding) for binding in bindings], timeout)

    async def unbind(self, bindings: Sequence[Binding], *, timeout: float = 30.0) -> None:
        """As in ``Broker``."""
        await self._declare([declare.unbinding_frame(binding) for binding in bindings], timeout)

    async def remove(self, queue: str, *, timeout: float = 10.0) -> bool:
        """As in ``Broker``."""
        return await self._call(lambda connection: declare.remove(connection, queue), timeout)

    async def _declare(self, frames: Sequence[Frame], timeout: float) -> None:
        steps = [(frame,) for frame in frames]
        await self._call(lambda connection: declare.declare_side_by_side(connection, steps), timeout)

    async def depth(self, queue: str, *, timeout: float = 10.0) -> int:
        """As in ``Broker``."""
        return (await self.queue_state(queue, timeout=timeout)).depth

    async def queue_state(self, queue: str, *, timeout: float = 10.0) -> QueueState:
        """As in ``Broker``."""
        state = await self._call(lambda connection: declare.queue_state(connection, queue), timeout)
        if state is None:
            raise _no_queue(queue)
        return state

    async def describe(self, *, timeout: float = 10.0) -> str:
        """As in ``Broker``."""
        deadline = asyncio.get_running_loop().time() + timeout
        return (await self._consuming.get(deadline, timeout)).product

    async def lacking(self, rights: Iterable[Right], *, timeout: float = 10.0) -> list[Right]:
        """Those of the rights that the user has not. Nothing is declared, published or received to find out.

        Raises:
            TopologyMissing: the queue or exchange of a right is not there.
            BrokerUnavailable: the broker was not reached in ``timeout`` seconds.
        """
        wanted = tuple(rights)
        return await self._call(lambda connection: lacking(connection, wanted), timeout)

    async def _subscribe(
        self, make: Callable[[], RabbitMQSubscription], frames: tuple[Frame, ...], right: str, timeout: float
    ) -> RabbitMQSubscription:
        async def work(connection: Connection) -> RabbitMQSubscription:
            subscription = make()
            await self._let_go(subscription.queue)
            channel, opening = connection.channel()
            subscription.attach(channel)
            subscription.on_ended = self._ended
            self._subscriptions.add(subscription)
            try:
                await channel.call(opening, *frames)
            except ChannelLost as error:
                subscription.abandon()
                if error.code == declare.NOT_FOUND:
                    raise _no_queue(subscription.queue) from None
                if error.code == ACCESS_REFUSED:
                    raise refused(error.reason, right) from None
                raise
            except BaseException:
                subscription.abandon()  # a subscription that nobody has must not hold messages
                raise
            return subscription

        return await self._call(work, timeout)

    def _ended(self, subscription: RabbitMQSubscription) -> None:
        self._subscriptions.discard(subscription)
        if subscription.cancelled:
            self._cancelled_at[subscription.queue] = asyncio.get_running_loop().time()

    async def _let_go(self, queue: str) -> None:
        """Wait until the broker is through with a queue of which it has just cancelled a consumer."""
        since = self._cancelled_at.pop(queue, None)
        if since is not None:
            await asyncio.sleep(since + CANCELLED_S - asyncio.get_running_loop().time())

    async def _call(self, work: Callable[[Connection], Awaitable[Result]], timeout: float) -> Result:
        """Do something on the consuming connection; once more where that goes, until the time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        reason = ""
        while True:
            connection = await self._consuming.get(deadline, timeout)
            try:
                async with asyncio.timeout_at(deadline):
                    return await work(connection)
            except ChannelLost as error:
                if error.code:
                    raise BrokerUnavailable(f"RabbitMQ refused the call: {error.reason}") from None
                reason = error.reason
            except TimeoutError:
                raise self._consuming.unavailable(timeout, reason) from None
            except BrokerUnavailable:
                raise
            except ConnectionError as error:
                reason = str(error)
            if loop.time() + RETRY_S >= deadline:
                raise self._consuming.unavailable(timeout, reason)
            await asyncio.sleep(RETRY_S)


def _no_queue(queue: str) -> TopologyMissing:
    return TopologyMissing(f"RabbitMQ has no queue {queue!r}; run `sdqueue topology apply`")
