"""The broker as a process sees it: calls over the wire, deliveries and acknowledgements that take time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Self

from sdqueue.brokers import Delivery, MemoryBroker, Message, OnDelivery, QueueState
from sdqueue.brokers.memory import MemoryServer, MemorySubscription
from sdqueue.brokers.topology import Topology
from sdqueue.errors import BrokerUnavailable
from tests.simulation.wire import Backend, Wire, at_once


class SimulatedBroker:
    """A :class:`~sdqueue.brokers.MemoryBroker` at the other end of a wire.

    Parameters:
        wire: the way there.
        backend: the broker's side of the world.
        topology: the names.
        server: shared with the other processes.
    """

    def __init__(self, wire: Wire, backend: Backend, topology: Topology, server: MemoryServer) -> None:
        self.topology = topology
        self.subscriptions: list[SimulatedSubscription] = []
        """Those that the server has not ended."""
        self._wire = wire
        self._backend = backend
        self._inner = MemoryBroker(topology, server)
        self._gone = False

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.hang_up("the process ended its connection", for_good=True)

    async def apply(self, *, timeout: float = 30.0) -> None:
        await self._call("apply", lambda: self._inner.apply())

    async def check(self, *, timeout: float = 10.0) -> None:
        await self._call("check", lambda: self._inner.check())

    async def depth(self, queue: str, *, timeout: float = 10.0) -> int:
        return int(await self._call(f"depth {queue}", lambda: self._inner.depth(queue)))

    async def queue_state(self, queue: str, *, timeout: float = 10.0) -> QueueState:
        state: QueueState = await self._call(f"look at {queue}", lambda: self._inner.queue_state(queue))
        return state

    async def describe(self, *, timeout: float = 10.0) -> str:
        return str(await self._call("describe", lambda: self._inner.describe()))

    async def declare_egress(self, channel: str, *, timeout: float = 10.0) -> str:
        return str(await self._call(f"declare egress {channel}", lambda: self._inner.declare_egress(channel)))

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        name = message.message_id or message.headers.get("sdqueue-turn-id", "")
        await self._wire.call(
            self._backend,
            f"publish {name} to {exchange or routing_key}",
            lambda: at_once(self._inner.publish(exchange, routing_key, message)),
            # Where the consumer is not about to settle, it would take it for the agent's.
            defective=".delta." not in routing_key,
        )

    async def subscribe(
        self, queue: str, on_delivery: OnDelivery, *, prefetch: int, timeout: float = 10.0
    ) -> SimulatedSubscription:
        subscription = SimulatedSubscription(self, self._wire, self._backend, queue, on_delivery)

        def effect() -> None:
            if self._gone:
                raise BrokerUnavailable("the connection is gone")
            subscription.inner = at_once(self._inner.subscribe(queue, subscription.deliver, prefetch=prefetch))
            self.subscriptions.append(subscription)
            if subscription.abandoned:
                subscription.cut("its channel was given up")

        try:
            await self._wire.call(self._backend, f"subscribe {queue}", effect)
        except BaseException:
            # A client that gets no answer closes the channel.
            subscription.abandon()
            raise
        return subscription

    async def subscribe_replies(self, on_delivery: OnDelivery, *, timeout: float = 10.0) -> SimulatedSubscription:
        raise NotImplementedError("consumers ask no questions")

    def hang_up(self, reason: str, *, for_good: bool = False) -> None:
        """End every subscription, as the server does when the connection is gone.

        Parameters:
            reason: why.
            for_good: the process is no more, so no other connection takes its place.
        """
        self._gone = self._gone or for_good
        for subscription in list(self.subscriptions):
            subscription.cut(reason)

    async def _call(self, what: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return await self._wire.call(self._backend, what, lambda: at_once(make()))


class SimulatedSubscription:
    """A subscription whose deliveries and acknowledgements are on the way for a while, in order."""

    inner: MemorySubscription

    def __init__(
        self, broker: SimulatedBroker, wire: Wire, backend: Backend, queue: str, on_delivery: OnDelivery
    ) -> None:
        self.queue = queue
        self._broker = broker
        self._wire = wire
        self._backend = backend
        self._on_delivery = on_delivery
        self._under_way: dict[int, Delivery] = {}
        self._delivered_at = 0.0
        self._over = False
        self.abandoned = False
        """Whether nobody wants it any more, though the server may still be about to make it."""
        self._lost: asyncio.Future[str] = wire.loop.create_future()

    def deliver(self, delivery: Delivery) -> None:
        """The server has sent a message."""
        wire = self._wire
        self._delivered_at = max(self._delivered_at, wire.loop.time() + wire.latency())
        wire.process.soon(self._receive, replace(delivery, subscription=self), at=self._delivered_at)

    def _receive(self, delivery: Delivery) -> None:
        if not self._over:
            self._on_delivery(delivery)

    def ack(self, delivery: Delivery) -> None:
        process, loop = self._wire.process, self._wire.loop
        if process.dead or self._over or delivery.subscription is not self:
            return
        self._under_way[delivery.tag] = delivery
        # Sent at once, or in a batch that dies with the process.
        sent = self._wire.calm or self._wire.chance.random() < 0.5
        context = self._backend.context if sent else process.context
        loop.call_later(self._wire.latency(), self._settle, delivery.tag, context=context)

    def _settle(self, tag: int) -> None:
        delivery = self._under_way.pop(tag, None)
        if delivery is not None:
            self._wire.process.around.note(self._wire.process.name, f"ack {self.queue} {tag}")
            self._backend.context.copy().run(self.inner.ack, replace(delivery, subscription=self.inner))

    async def wait_lost(self) -> str:
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        if self._wire.process.dead:
            raise asyncio.CancelledError("its process is dead")
        self._over = True
        await asyncio.sleep(self._wire.latency())
        for tag in list(self._under_way):
            self._settle(tag)
        self._end("closed")

    def abandon(self) -> None:
        """Nobody got to know of it."""
        self._over = self.abandoned = True
        self._wire.loop.call_later(
            self._wire.latency(), self._end, "given up with its channel", context=self._backend.context
        )

    def cut(self, reason: str) -> None:
        """The server ends it; the process learns of it when the news arrive."""
        self._end(f"cut: {reason}")
        self._wire.process.soon(self._hear, reason, at=self._wire.loop.time() + self._wire.latency())

    def _hear(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._lost.set_result(reason)

    def _end(self, how: str) -> None:
        if self in self._broker.subscriptions:
            self._broker.subscriptions.remove(self)
            self._wire.process.around.note(self._wire.process.name, f"subscription {self.queue} {how}")
            self._backend.context.copy().run(at_once, self.inner.close())
