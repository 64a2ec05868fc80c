"""MemoryBroker: turns and replies within one process, for tests and for trying things out."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Self
from uuid import uuid4

from sdqueue.brokers.broker import Delivery, Message, OnDelivery, QueueState
from sdqueue.brokers.layout import Layout
from sdqueue.brokers.topology import Binding, Exchange, Queue, Topology
from sdqueue.errors import BrokerUnavailable, TopologyMissing, Unroutable

_PLACE = "memory broker"


@dataclass(slots=True)
class _Entry:
    """A message in a queue. ``number`` is the order in which the server accepted it."""

    number: int
    message: Message
    routing_key: str
    redelivered: bool = False


class _MemoryQueue:
    def __init__(self, declared: Queue) -> None:
        self.declared = declared
        self.waiting: deque[_Entry] = deque()
        self.subscriptions: list[MemorySubscription] = []
        self.awake = False

    def receivers(self) -> list[MemorySubscription]:
        return self.subscriptions[:1] if self.declared.single_active else list(self.subscriptions)

    def wake(self) -> None:
        """Deliver soon, but never in the stack of a publisher or of an ack, as a broker over a wire would."""
        if not self.awake and self.waiting and self.subscriptions:
            self.awake = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self.awake = False
        for subscription in self.receivers():
            while self.waiting and subscription.has_room():
                subscription.receive(self.waiting.popleft())

    def give_back(self, entries: list[_Entry]) -> None:
        """Put returned messages where they were: by number, not in front of everything.

        On a queue with several active subscriptions, what another one returned may belong before them.
        """
        for entry in entries:
            entry.redelivered = True
        self.waiting = deque(heapq.merge(entries, self.waiting, key=attrgetter("number")))


class MemoryServer:
    """What the :class:`MemoryBroker` objects of one process share; a restart of it is a new object."""

    def __init__(self) -> None:
        self.layout = Layout()
        self._queues: dict[str, _MemoryQueue] = {}
        self._numbers: Iterator[int] = itertools.count(1)

    def lose(self, subscription: MemorySubscription, reason: str = "the connection was cut") -> None:
        """End a subscription as a broken connection would: it is reported lost, and its messages return."""
        self._end(subscription)
        subscription.report_lost(reason)
        subscription._broker._forget(subscription)

    def _declare(self, queue: Queue) -> _MemoryQueue:
        return self._queues.setdefault(queue.name, _MemoryQueue(queue))

    def _queue(self, name: str) -> _MemoryQueue:
        queue = self._queues.get(name)
        if queue is None:
            raise TopologyMissing(f"{_PLACE}: there is no queue {name!r}; run `sdqueue topology apply`")
        return queue

    def _publish(self, targets: list[str], routing_key: str, message: Message) -> None:
        number = next(self._numbers)
        for name in targets:
            queue = self._queues[name]
            queue.waiting.append(_Entry(number, message, routing_key))
            queue.wake()

    def _end(self, subscription: MemorySubscription) -> None:
        queue = self._queues.get(subscription.queue)
        if queue is None or subscription not in queue.subscriptions:
            return
        queue.subscriptions.remove(subscription)
        queue.give_back(subscription.give_back())
        if subscription.private:
            del self._queues[subscription.queue]
        else:
            queue.wake()


class MemorySubscription:
    """A consumer on one queue of a :class:`MemoryServer`; made by :meth:`MemoryBroker.subscribe`."""

    def __init__(
        self, broker: MemoryBroker, queue: str, on_delivery: OnDelivery, prefetch: int, *, private: bool
    ) -> None:
        self.queue = queue
        self.private = private
        self._broker = broker
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self._unacked: dict[int, _Entry] = {}
        self._tags = itertools.count(1)
        self._ended = False
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def ack(self, delivery: Delivery) -> None:
        """See :class:`~sdqueue.brokers.Subscription`."""
        if delivery.subscription is self and self._unacked.pop(delivery.tag, None) is not None:
            self._broker.server._queue(self.queue).wake()

    async def wait_lost(self) -> str:
        """See :class:`~sdqueue.brokers.Subscription`."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """See :class:`~sdqueue.brokers.Subscription`."""
        self._ended = True
        self._broker.server._end(self)
        self._broker._forget(self)

    def has_room(self) -> bool:
        """Whether it may get another delivery."""
        return not self._ended and (self.private or len(self._unacked) < self._prefetch)

    def receive(self, entry: _Entry) -> None:
        """Hand a message over."""
        tag = next(self._tags)
        if not self.private:
            self._unacked[tag] = entry
        self._on_delivery(Delivery(entry.message, self.queue, tag, entry.redelivered, entry.routing_key, self))

    def give_back(self) -> list[_Entry]:
        """Stop, and return what is not acknowledged, in the order of the queue."""
        self._ended = True
        entries = sorted(self._unacked.values(), key=attrgetter("number"))
        self._unacked.clear()
        return entries

    def report_lost(self, reason: str) -> None:
        """Tell those who wait for it."""
        if not self._lost.done():
            self._lost.set_result(reason)


class MemoryBroker:
    """A broker inside one event loop; nothing survives the process.

    Parameters:
        topology: the names.
        server: share one between several brokers of a process; by default a broker has its own.
    """

    def __init__(self, topology: Topology, server: MemoryServer | None = None) -> None:
        self.topology = topology
        self.server = server if server is not None else MemoryServer()
        self._subscriptions: set[MemorySubscription] = set()
        self._entered = False

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._entered = False
        for subscription in list(self._subscriptions):
            await subscription.close()

    async def apply(self, *, timeout: float = 30.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`."""
        layout = self._layout()
        layout.check_partitions(self.topology, _PLACE)
        self._declare(self.topology.exchanges, self.topology.queues, self.topology.bindings)

    async def check(self, *, timeout: float = 10.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`; other properties are a ``TopologyMismatch``."""
        self._layout().check(self.topology, _PLACE)

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`."""
        targets = self._layout().targets(exchange, routing_key)
        if not exchange and routing_key not in self.server._queues:
            raise Unroutable(f"{_PLACE}: there is no queue {routing_key!r}")
        if not targets and exchange != self.topology.replies:
            raise Unroutable(f"{_PLACE}: no queue takes routing key {routing_key!r} of exchange {exchange!r}")
        if message.headers:
            # The publisher may go on using its dict.
            message = dataclasses.replace(message, headers=copy.deepcopy(dict(message.headers)))
        self.server._publish(targets, routing_key, message)
        # A confirm lets others run, or a loop that publishes would starve its consumers.
        await asyncio.sleep(0)

    async def subscribe(
        self, queue: str, on_delivery: OnDelivery, *, prefetch: int, timeout: float = 10.0
    ) -> MemorySubscription:
        """See :class:`~sdqueue.brokers.Broker`."""
        if prefetch < 1:
            raise ValueError(f"prefetch: must be at least 1, got {prefetch}")
        self._layout()
        return self._subscribed(self.server._queue(queue), on_delivery, prefetch, private=False)

    async def subscribe_replies(self, on_delivery: OnDelivery, *, timeout: float = 10.0) -> MemorySubscription:
        """See :class:`~sdqueue.brokers.Broker`."""
        self._layout()
        queue = self.server._declare(Queue(f"{self.topology.namespace}.reply-to.{uuid4().hex}"))
        return self._subscribed(queue, on_delivery, 0, private=True)

    async def declare_egress(self, channel: str, *, timeout: float = 10.0) -> str:
        """See :class:`~sdqueue.brokers.Broker`."""
        if self.topology.replies not in self._layout().exchanges:
            missing = self.topology.replies
            raise TopologyMissing(f"{_PLACE}: there is no exchange {missing!r}; run `sdqueue topology apply`")
        queue, binding = self.topology.egress(channel)
        self._declare((), (queue,), (binding,))
        return queue.name

    async def declare(self, queues: Sequence[Queue], *, timeout: float = 30.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`."""
        self._layout()
        self._declare((), tuple(queues), ())

    async def bind(self, bindings: Sequence[Binding], *, timeout: float = 30.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`."""
        layout = self._layout()
        layout.check_places(bindings, _PLACE)
        layout.add((), (), bindings)

    async def unbind(self, bindings: Sequence[Binding], *, timeout: float = 30.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`."""
        self._layout().unbind(bindings)

    async def remove(self, queue: str, *, timeout: float = 10.0) -> bool:
        """See :class:`~sdqueue.brokers.Broker`."""
        layout, found = self._layout(), self.server._queues.get(queue)
        if found is not None and (found.waiting or found.subscriptions):
            return False
        layout.remove(queue)
        self.server._queues.pop(queue, None)
        return True

    async def depth(self, queue: str, *, timeout: float = 10.0) -> int:
        """See :class:`~sdqueue.brokers.Broker`."""
        self._layout()
        return len(self.server._queue(queue).waiting)

    async def queue_state(self, queue: str, *, timeout: float = 10.0) -> QueueState:
        """See :class:`~sdqueue.brokers.Broker`."""
        self._layout()
        found = self.server._queue(queue)
        return QueueState(len(found.waiting), len(found.receivers()))

    async def describe(self, *, timeout: float = 10.0) -> str:
        """See :class:`~sdqueue.brokers.Broker`."""
        self._layout()
        return "memory (this process only)"

    def _layout(self) -> Layout:
        if not self._entered:
            raise BrokerUnavailable(f"{_PLACE}: is not open; use it inside `async with broker:`")
        return self.server.layout

    def _declare(
        self, exchanges: tuple[Exchange, ...], queues: tuple[Queue, ...], bindings: tuple[Binding, ...]
    ) -> None:
        lacking = self.server.layout.lacks(exchanges, queues, bindings)
        for queue in lacking[1]:
            self.server._declare(queue)
        self.server.layout.add(*lacking)

    def _subscribed(
        self, queue: _MemoryQueue, on_delivery: OnDelivery, prefetch: int, *, private: bool
    ) -> MemorySubscription:
        subscription = MemorySubscription(self, queue.declared.name, on_delivery, prefetch, private=private)
        queue.subscriptions.append(subscription)
        self._subscriptions.add(subscription)
        queue.wake()
        return subscription

    def _forget(self, subscription: MemorySubscription) -> None:
        self._subscriptions.discard(subscription)
