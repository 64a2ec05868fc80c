"""SQLiteBroker: turns and replies between the processes of one machine, in one file."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from sdqueue.brokers.broker import Delivery, Message, OnDelivery, QueueState
from sdqueue.brokers.sqlite_ledger import Ledger, Row
from sdqueue.brokers.sqlite_worker import Job, Worker
from sdqueue.brokers.topology import Binding, Queue, Topology
from sdqueue.errors import BrokerUnavailable, PublishRejected

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BODY: Final = 128 * 1024 * 1024
"""Longest body in bytes; RabbitMQ's own default limit."""

CLOSE_S: Final = 10.0
"""Longest wait for a subscription to be closed in a locked database; it is closed later then."""


class SQLiteSubscription:
    """A consumer on one queue; made by :meth:`SQLiteBroker.subscribe`."""

    def __init__(self, worker: Worker, queue: str, on_delivery: OnDelivery, *, private: bool = False) -> None:
        self.queue = queue
        self.id: int | None = None
        self._worker = worker
        self._on_delivery = on_delivery
        self._private = private
        self._loop = asyncio.get_running_loop()
        self._tags = itertools.count(1)
        self._unacked: dict[int, int] = {}
        self._acked: list[int] = []
        self._ended = False
        self._closing: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[str] = self._loop.create_future()

    def ack(self, delivery: Delivery) -> None:
        """See :class:`~sdqueue.brokers.Subscription`."""
        if self._ended or delivery.subscription is not self:
            return
        entry = self._unacked.pop(delivery.tag, None)
        if entry is not None:
            if not self._acked:
                self._loop.call_soon(self._flush)
            self._acked.append(entry)

    async def wait_lost(self) -> str:
        """See :class:`~sdqueue.brokers.Subscription`."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """See :class:`~sdqueue.brokers.Subscription`.

        Where the database stays locked it returns after ten seconds; the messages return when it is free again.
        """
        done, _ = await asyncio.wait([self.end()], timeout=CLOSE_S)
        if not done:
            logger.warning("%s: the database is locked, the subscription will be closed later", self.queue)

    @property
    def ended(self) -> bool:
        """Whether it was closed or lost."""
        return self._ended

    def end(self) -> asyncio.Future[None]:
        """Begin to close it; nothing is delivered from now on. The future is done when its messages are back."""
        if self._closing is None:
            self._flush()
            self._ended = True
            self._unacked.clear()
            self._closing = self._loop.create_future()
            self._worker.submit(Job(lambda ledger: ledger.end(self), self._closing, lasting=True))
        return self._closing

    def receive(self, rows: list[Row]) -> None:
        """Hand over what the worker has claimed."""
        for entry, seen, properties, body in rows:
            if self._ended:
                return
            tag = next(self._tags)
            if not self._private:
                self._unacked[tag] = entry
            routing_key, message = _read(properties, body)
            try:
                self._on_delivery(Delivery(message, self.queue, tag, bool(seen), routing_key, self))
            except Exception as error:  # noqa: BLE001 -- the next messages and other subscriptions go on
                context = {"message": f"on_delivery of {self.queue} raised; it must not", "exception": error}
                self._loop.call_exception_handler(context)

    def report_lost(self, reason: str) -> None:
        """Take note that the messages may be somebody else's now."""
        if not self._ended:
            self._ended = True
            self._unacked.clear()
            self._acked.clear()
            self._lost.set_result(reason)

    def _flush(self) -> None:
        if self._acked:
            entries, self._acked = self._acked, []
            job = Job(lambda ledger: ledger.ack(self, entries), self._loop.create_future(), lasting=True)
            self._worker.submit(job)


class SQLiteBroker:
    """A broker in a file, for all processes of one machine. Not for network file systems.

    A publish returns when it is on the disk; those that wait at the same time share an fsync. A process that dies is
    noticed by the others within some 20 ms and its messages go on in order; one that is stopped keeps them.

    Parameters:
        topology: the names.
        path: the database. Beside it come ``-wal`` and ``-shm`` by SQLite, and a directory ``.members``.
    """

    def __init__(self, topology: Topology, path: str | os.PathLike[str]) -> None:
        self.topology = topology
        self.path = Path(path).absolute()
        self._worker: Worker | None = None
        self._subscriptions: set[SQLiteSubscription] = set()

    async def __aenter__(self) -> Self:
        if self._worker is None:
            self._worker = Worker(Ledger(self.path, self.topology))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            for subscription in self._subscriptions:
                subscription.end()
            self._subscriptions.clear()
            await worker.stop()

    async def apply(self, *, timeout: float = 30.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`."""
        topology = self.topology
        await self._run(lambda ledger: ledger.apply(topology), timeout, durable=True)

    async def check(self, *, timeout: float = 10.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`; other properties are a ``TopologyMismatch``."""
        topology = self.topology
        await self._run(lambda ledger: ledger.check(topology), timeout)

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`."""
        properties, body = _write(routing_key, message), bytes(message.body)
        if len(body) > MAX_BODY:
            raise PublishRejected(f"{self.path}: the body has {len(body)} bytes, at most {MAX_BODY} are accepted")
        await self._run(
            lambda ledger: ledger.publish(exchange, routing_key, properties, body),
            timeout,
            durable=True,
            publishes=True,
        )

    async def subscribe(
        self, queue: str, on_delivery: OnDelivery, *, prefetch: int, timeout: float = 10.0
    ) -> SQLiteSubscription:
        """See :class:`~sdqueue.brokers.Broker`."""
        if prefetch < 1:
            raise ValueError(f"prefetch: must be at least 1, got {prefetch}")
        subscription = SQLiteSubscription(self._open(), queue, on_delivery)
        return await self._enter(subscription, lambda ledger: ledger.subscribe(subscription, prefetch), timeout)

    async def subscribe_replies(self, on_delivery: OnDelivery, *, timeout: float = 10.0) -> SQLiteSubscription:
        """See :class:`~sdqueue.brokers.Broker`."""
        subscription = SQLiteSubscription(self._open(), "", on_delivery, private=True)
        return await self._enter(subscription, lambda ledger: ledger.subscribe_private(subscription), timeout)

    async def declare_egress(self, channel: str, *, timeout: float = 10.0) -> str:
        """See :class:`~sdqueue.brokers.Broker`."""
        return await self._run(lambda ledger: ledger.declare_egress(self.topology, channel), timeout, durable=True)

    async def declare(self, queues: Sequence[Queue], *, timeout: float = 30.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`."""
        await self._run(lambda ledger: ledger.declare(queues), timeout, durable=True)

    async def bind(self, bindings: Sequence[Binding], *, timeout: float = 30.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`."""
        await self._run(lambda ledger: ledger.bind(bindings), timeout, durable=True)

    async def unbind(self, bindings: Sequence[Binding], *, timeout: float = 30.0) -> None:
        """See :class:`~sdqueue.brokers.Broker`."""
        await self._run(lambda ledger: ledger.unbind(bindings), timeout, durable=True)

    async def remove(self, queue: str, *, timeout: float = 10.0) -> bool:
        """See :class:`~sdqueue.brokers.Broker`."""
        return await self._run(lambda ledger: ledger.remove(queue), timeout, durable=True, watch=True)

    async def depth(self, queue: str, *, timeout: float = 10.0) -> int:
        """See :class:`~sdqueue.brokers.Broker`."""
        return await self._run(lambda ledger: ledger.depth(queue), timeout, watch=True)

    async def queue_state(self, queue: str, *, timeout: float = 10.0) -> QueueState:
        """See :class:`~sdqueue.brokers.Broker`."""
        return await self._run(
            lambda ledger: QueueState(ledger.depth(queue), ledger.receivers(queue)), timeout, watch=True
        )

    async def describe(self, *, timeout: float = 10.0) -> str:
        """See :class:`~sdqueue.brokers.Broker`."""
        return await self._run(lambda _: f"SQLite {sqlite3.sqlite_version} ({self.path})", timeout)

    def _open(self) -> Worker:
        if self._worker is None:
            raise BrokerUnavailable(f"{self.path}: the broker is not open; use it inside `async with broker:`")
        return self._worker

    async def _enter(
        self, subscription: SQLiteSubscription, work: Callable[[Ledger], None], timeout: float
    ) -> SQLiteSubscription:
        self._subscriptions = {s for s in self._subscriptions if not s.ended}
        self._subscriptions.add(subscription)
        try:
            await self._run(work, timeout, watch=True)
        except BaseException:
            # The worker may be just at it. The end comes after it, and then nobody stands in line.
            subscription.end()
            raise
        return subscription

    async def _run(self, work: Callable[[Ledger], T], timeout: float, **how: Any) -> T:
        worker = self._open()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = Job(work, future, **how)
        worker.submit(job)
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            why = worker.trouble or "the disk is slow, or much is waiting before it"
            raise BrokerUnavailable(f"{self.path}: not done within {timeout:g} s: {why}") from None
        finally:
            job.abandoned = not future.done() or future.cancelled()


def _write(routing_key: str, message: Message) -> str:
    """The properties as JSON, which takes any string, lone surrogates as well."""
    properties = [
        routing_key,
        message.message_id,
        message.correlation_id,
        message.reply_to,
        message.content_type,
        dict(message.headers),
    ]
    try:
        return json.dumps(properties, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise PublishRejected(f"headers: must be JSON, but {error}") from error


def _read(properties: str, body: bytes) -> tuple[str, Message]:
    routing_key, message_id, correlation_id, reply_to, content_type, headers = json.loads(properties)
    return routing_key, Message(body, message_id, correlation_id, reply_to, content_type, headers)
