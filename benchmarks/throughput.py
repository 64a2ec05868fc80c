"""Turns a second of one consumer process, against a bare loop that does the same round trips.

Run it against servers that nobody else uses; it makes namespaces of its own and deletes them::

    python benchmarks/throughput.py --amqp amqp://guest:guest@localhost/ --redis redis://localhost:6379/0

Both sides get the same backlog: turns of 100 bytes from 500 sessions on 64 quorum queues. The bare loop awaits, for
each message, two Redis scripts, a confirmed publish and an acknowledgement, up to ``prefetch`` messages side by side;
it locks nothing, checks nothing and remembers nothing. Compare the ratio, not the figures: machines differ.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from itertools import count

import aio_pika
import redis.asyncio
import uvloop

from sdqueue import MemoAgent, SessionWorker, partition_of, routing_key
from sdqueue.backends import open_broker, open_locks, open_store
from sdqueue.brokers import Broker, Message
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.messages import InboundTurn
from sdqueue.observe import Observer
from sdqueue.settings import Settings

TEXT = "x" * 100


class Tally(Observer):
    """Counts settled turns."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.settled = 0
        self.started = 0.0
        self.done = asyncio.Event()

    def turn_settled(self, **_: object) -> None:
        """One more."""
        self.count()

    def count(self) -> None:
        """One more; time starts with the first."""
        if not self.settled:
            self.started = time.perf_counter()
        self.settled += 1
        if self.settled == self.wanted:
            self.done.set()

    async def rate(self) -> float:
        """Turns a second from the first to the last."""
        await self.done.wait()
        return self.settled / (time.perf_counter() - self.started)


async def fill(broker: Broker, turns: int, sessions: int) -> None:
    """Put the backlog into the queues."""
    topology = broker.topology
    numbers = count()

    async def producer() -> None:
        for number in numbers:
            if number >= turns:
                return
            turn = InboundTurn(session_id=f"s-{number % sessions}", text=TEXT, id=f"t-{number}")
            key = routing_key(partition_of(turn.session_id, topology.partitions))
            await broker.publish(topology.turns, key, Message(turn.to_bytes(), message_id=turn.id), timeout=60)

    await asyncio.gather(*(producer() for _ in range(200)))


async def bare(settings: Settings, turns: int) -> float:
    """The loop that everybody writes first."""
    client = redis.asyncio.from_url(settings.store_url, max_connections=2**31)
    script = client.register_script("redis.call('SET', KEYS[1], ARGV[1], 'PX', 30000) return 1")
    tally = Tally(turns)
    topology = open_broker(settings).topology
    connection = await aio_pika.connect(settings.broker_url)
    publishing = await aio_pika.connect(settings.broker_url)
    async with connection, publishing:
        out = await (await publishing.channel()).get_exchange(topology.replies, ensure=False)

        async def on_message(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            await script([f"{settings.namespace}:{message.message_id}"], ["lock"])
            await script([f"{settings.namespace}:{message.message_id}"], [message.body])
            await out.publish(aio_pika.Message(message.body, delivery_mode=2), "default.final.0000", mandatory=False)
            await message.ack()
            tally.count()

        for partition in range(settings.partitions):
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=settings.prefetch)
            queue = await channel.get_queue(topology.partition_queue(partition), ensure=False)
            await queue.consume(on_message)
        rate = await tally.rate()
    await client.aclose()
    return rate


async def full(settings: Settings, turns: int) -> float:
    """sdqueue with all its guarantees."""
    store, locks = open_store(settings), open_locks(settings)
    worker = SessionWorker(agent_factory=MemoAgent, store=store, lock_backend=locks, max_sessions=10_000)
    tally = Tally(turns)
    async with open_broker(settings) as broker:
        consumer = Consumer(broker, worker, ConsumerOptions.from_settings(settings), observer=tally)
        async with consumer:
            rate = await tally.rate()
    await store.aclose()
    await locks.aclose()
    return rate


async def clean(settings: Settings) -> None:
    """Delete what this namespace has on the broker and in Redis."""
    topology = open_broker(settings).topology
    async with await aio_pika.connect(settings.broker_url) as connection:
        channel = await connection.channel()
        for queue in topology.queues:
            await channel.queue_delete(queue.name)
        for exchange in topology.exchanges:
            await channel.exchange_delete(exchange.name)
    async with redis.asyncio.from_url(settings.store_url) as client:
        async for key in client.scan_iter(f"{settings.namespace}*", count=1000):
            await client.delete(key)


async def measure(arguments: argparse.Namespace) -> None:
    """Run both sides in turn and print their rates and the ratio."""
    rates: dict[str, list[float]] = {"bare": [], "full": []}
    for number in range(arguments.rounds):
        for name, side in (("bare", bare), ("full", full)):
            settings = Settings.load(
                broker_url=arguments.amqp, store_url=arguments.redis, namespace=f"bench-{os.getpid()}-{number}-{name}"
            )
            try:
                async with open_broker(settings) as broker:
                    await broker.apply()
                    await fill(broker, arguments.turns, arguments.sessions)
                rates[name].append(await side(settings, arguments.turns))
            finally:
                await clean(settings)
        ratio = rates["full"][-1] / rates["bare"][-1]
        sys.stdout.write(f"bare {rates['bare'][-1]:6.0f}/s   sdqueue {rates['full'][-1]:6.0f}/s   ratio {ratio:.2f}\n")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amqp", default="amqp://guest:guest@localhost/")
    parser.add_argument("--redis", default="redis://localhost:6379/0")
    parser.add_argument("--turns", type=int, default=5000)
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
