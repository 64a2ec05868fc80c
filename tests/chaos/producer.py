"""The producer: raw AMQP by the wire contract. What it says was sent, the broker has confirmed.

The order of a session is the order of its confirms: the next turn goes out when the last one is confirmed, and one
without a confirm is sent again under its id until it has one, whatever happens to the broker meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Final

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractExchange

from tests.chaos.evidence import Sent
from tests.chaos.plan import Message, Plan

CONFIRM_S: Final = 8.0
"""A publish without a confirm for so long is tried again on another connection."""

CONNECTIONS: Final = 4

LOST: Final = (OSError, TimeoutError, RuntimeError, asyncio.InvalidStateError, aio_pika.exceptions.AMQPError)
"""What the clients raise when a connection goes, or has gone. Some of their errors are RuntimeErrors."""


class Outlet:
    """A connection that publishes to one exchange, opened again when it fails.

    Parameters:
        urls: of the broker's nodes, tried in turn.
        exchange: where to.
    """

    def __init__(self, urls: Sequence[str], exchange: str) -> None:
        self._urls = itertools.cycle(urls)
        self._name = exchange
        self._lock = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._exchange: AbstractExchange | None = None

    async def publish(self, message: Message) -> None:
        """Publish until the broker confirms it."""
        while True:
            exchange: AbstractExchange | None = None
            try:
                async with asyncio.timeout(CONFIRM_S):
                    exchange = await self._get()
                    await exchange.publish(_as_amqp(message), message.key, mandatory=True)
                return
            except LOST:
                self._renew(exchange)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._renew(exchange)  # aiormq cancels what waits on a connection that is lost
            await asyncio.sleep(0.2)

    async def close(self) -> None:
        """End it."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2):
                    await self._connection.close()

    async def _get(self) -> AbstractExchange:
        async with self._lock:
            if self._exchange is None:
                self._connection = await aio_pika.connect(next(self._urls), heartbeat=4)
                channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
                self._exchange = await channel.get_exchange(self._name, ensure=False)
            return self._exchange

    def _renew(self, failed: AbstractExchange | None) -> None:
        """The next publish opens another connection, unless somebody else has done so already."""
        if failed is None or failed is self._exchange:
            self._exchange = None
            if self._connection is not None:
                asyncio.get_running_loop().create_task(_close(self._connection))
                self._connection = None


async def _close(connection: AbstractConnection) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(2):
            await connection.close()


def _as_amqp(message: Message) -> aio_pika.Message:
    made = aio_pika.Message(
        message.body, content_type="application/json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT
    )
    made.message_id = message.message_id
    return made


class Producer:
    """Sends a plan.

    Parameters:
        urls: of the broker's nodes.
        namespace: of the topology.
        plan: what to send.
    """

    def __init__(self, urls: Sequence[str], namespace: str, plan: Plan) -> None:
        self.sent: list[Sent] = []
        """What was confirmed, in the order of the confirms."""
        self.repeated_at: dict[str, float] = {}
        """When something of it was sent once more, by its mark."""
        self.started_at = 0.0
        self._enough = False
        self._plan = plan
        self._outlets = [Outlet(urls, f"{namespace}.turns") for _ in range(CONNECTIONS)]

    async def run(self) -> None:
        """Send everything; returns when all is confirmed."""
        self.started_at = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                for number, messages in enumerate(self._plan.sessions()):
                    outlet = self._outlets[number % CONNECTIONS]
                    tasks.create_task(self._send_all(messages, outlet, tasks))
        finally:
            await asyncio.gather(*(outlet.close() for outlet in self._outlets))

    def finish(self) -> None:
        """Send no more than what is under way: what the load was for has been done."""
        self._enough = True

    async def _send_all(self, messages: Iterator[Message], outlet: Outlet, tasks: asyncio.TaskGroup) -> None:
        for message in messages:
            await asyncio.sleep(max(0.0, self.started_at + message.due_s - time.monotonic()))
            if self._enough:
                return
            await outlet.publish(message)
            m = message
            self.sent.append(Sent(m.mark, m.session, m.kind, time.monotonic(), m.think_s, m.deadly))
            if message.again_s is not None:
                tasks.create_task(self._send_again(message, outlet))

    async def _send_again(self, message: Message, outlet: Outlet) -> None:
        assert message.again_s is not None
        await asyncio.sleep(message.again_s)
        self.repeated_at[message.mark] = time.monotonic()
        await outlet.publish(message)


def quiet() -> None:
    """The clients of a harness that breaks connections on purpose need not tell of each."""
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
