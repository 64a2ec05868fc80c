"""What a test leaves behind under its namespace, and its removal: the server is shared, and may be the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import aiormq
from redis.asyncio import Redis

from sdqueue.brokers.topology import Topology

PARTITIONS: Final = 64
"""Partition queues of other processes are looked for up to the default number."""


@contextmanager
def declarations() -> Iterator[tuple[set[str], set[str]]]:
    """Remember the queues and exchanges that this process declares meanwhile: AMQP cannot list them."""
    queues: set[str] = set()
    exchanges: set[str] = set()
    declare_queue, declare_exchange = aiormq.Channel.queue_declare, aiormq.Channel.exchange_declare

    async def queue_declare(self: aiormq.Channel, queue: str = "", **given: Any) -> Any:
        queues.add(queue)
        return await declare_queue(self, queue, **given)

    async def exchange_declare(self: aiormq.Channel, exchange: str = "", **given: Any) -> Any:
        exchanges.add(exchange)
        return await declare_exchange(self, exchange, **given)

    aiormq.Channel.queue_declare = queue_declare  # type: ignore[method-assign]  # for the time of a test
    aiormq.Channel.exchange_declare = exchange_declare  # type: ignore[method-assign]  # the same
    try:
        yield queues, exchanges
    finally:
        aiormq.Channel.queue_declare = declare_queue  # type: ignore[method-assign]  # put back
        aiormq.Channel.exchange_declare = declare_exchange  # type: ignore[method-assign]  # put back


async def clear_rabbitmq(url: str, namespace: str, queues: Iterable[str], exchanges: Iterable[str]) -> None:
    """Delete a namespace's topology and those of the given queues and exchanges that belong to it.

    RabbitMQ confirms the deletion of what does not exist, so nothing needs to be looked up.
    """
    topology = Topology(namespace, PARTITIONS)
    connection = await aiormq.connect(url)
    try:
        channel = await connection.channel()
        for queue in {queue.name for queue in topology.queues} | {topology.resharding} | set(queues):
            if queue.startswith(namespace):
                await channel.queue_delete(queue)
        for exchange in {exchange.name for exchange in topology.exchanges} | set(exchanges):
            if exchange.startswith(namespace):
                await channel.exchange_delete(exchange)
    finally:
        await connection.close()


async def clear_redis(url: str, namespace: str) -> None:
    """Delete all keys that have the namespace in their name."""
    async with Redis.from_url(url) as client:
        async for key in client.scan_iter(match=f"*{namespace}*", count=1000):
            await client.delete(key)
