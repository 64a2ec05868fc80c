"""A process of its own for the tests of the SQLite broker: ``python sqlite_process.py ROLE PATH …``.

It tells what happens in lines on its standard output, and lives until it is killed or its input ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine

from sdqueue.brokers import sqlite_worker
from sdqueue.brokers.broker import Delivery, Message
from sdqueue.brokers.sqlite import SQLiteBroker
from sdqueue.brokers.topology import Topology

TOPOLOGY = Topology("proc", partitions=2)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


async def until_told() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def apply(path: str) -> None:
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        say("ready")
        await until_told()
        await broker.apply()
        await broker.check()
        say("applied")


async def produce(path: str) -> None:
    """Publish numbers one after the other for ever, and say which are confirmed."""
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        number = 0
        while True:
            await broker.publish(TOPOLOGY.turns, "0000", Message(b"%d" % number))
            say(number)
            number += 1


async def consume(path: str, prefetch: str, acks: str) -> None:
    """Say what comes and, where told to, acknowledge it."""

    def on_delivery(delivery: Delivery) -> None:
        say("got", delivery.message.body.decode(), int(delivery.redelivered))
        if acks == "acks":
            delivery.subscription.ack(delivery)

    async with SQLiteBroker(TOPOLOGY, path) as broker:
        await broker.subscribe(TOPOLOGY.partition_queue(0), on_delivery, prefetch=int(prefetch))
        say("ready")
        await until_told()


async def reply(path: str) -> None:
    """Have a private queue."""
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        subscription = await broker.subscribe_replies(lambda _: None)
        say(subscription.queue)
        await until_told()


async def echo(path: str, watch_s: str) -> None:
    """Answer what comes on partition 0 to its ``reply_to``, and look by itself only every so many seconds."""
    sqlite_worker.WATCH_S = float(watch_s)  # type: ignore[misc]  # it is final but for this
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        turns: asyncio.Queue[Delivery] = asyncio.Queue()
        await broker.subscribe(TOPOLOGY.partition_queue(0), turns.put_nowait, prefetch=10)
        say("ready")
        while True:
            delivery = await turns.get()
            assert delivery.message.reply_to is not None
            await broker.publish("", delivery.message.reply_to, Message(delivery.message.body))
            delivery.subscription.ack(delivery)


ROLES: dict[str, Callable[..., Coroutine[None, None, None]]] = {
    "apply": apply,
    "produce": produce,
    "consume": consume,
    "reply": reply,
    "echo": echo,
}

if __name__ == "__main__":
    asyncio.run(ROLES[sys.argv[1]](*sys.argv[2:]))
