"""What a session takes in Redis, and what a turn that waits takes in RabbitMQ: the sizing table of docs/deploy.md.

Run it against servers that nobody else uses; it makes a namespace of its own and deletes it::

    python -m benchmarks.sizes --amqp amqp://guest:guest@localhost/ --redis redis://localhost:6379/0

Texts have 100 bytes, in both directions. Sessions are made by real turns through a consumer, so that what is remembered
of the last turns is there as well. RabbitMQ is asked by ``rabbitmqctl``, which ``--rabbitmqctl`` may name with options.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio

from benchmarks.throughput import clean
from sdqueue import Client, Consumer, MemoryBroker, SessionWorker, load_agent_factory
from sdqueue.backends import open_broker, open_locks, open_store
from sdqueue.consumer import ConsumerOptions
from sdqueue.settings import Settings

TEXT = "x" * 100

SETTLES_S = 10
"""What RabbitMQ needs after a load to tidy up."""


async def answer(text: str, history: object) -> str:
    """The agent: as many bytes as it is told."""
    return text


async def sessions(settings: Settings, turns: list[int]) -> None:
    """Print the bytes of a session after so many turns, a turn being two messages."""
    store, locks = open_store(settings), open_locks(settings)
    worker = SessionWorker(agent_factory=load_agent_factory("benchmarks.sizes:answer"), store=store, lock_backend=locks)
    async with (
        redis.asyncio.from_url(settings.store_url) as server,
        MemoryBroker(open_broker(settings).topology) as broker,
        Client(broker) as client,
    ):
        await broker.apply()
        async with Consumer(broker, worker, ConsumerOptions.from_settings(settings)):
            for count in turns:
                for _ in range(count):
                    await client.ask(f"after-{count}", TEXT)
        for count in turns:
            parts = {}
            async for key in server.scan_iter(f"{settings.namespace}:{{after-{count}}}:*", count=1000):
                parts[key.decode().rpartition(":")[2]] = await server.memory_usage(key, samples=0)
            shown = ", ".join(f"{name} {size}" for name, size in sorted(parts.items()))
            print(f"Redis     {2 * count:6} messages  {sum(parts.values()):8} bytes  ({shown})", flush=True)
    await locks.aclose()
    await store.aclose()


async def waiting(settings: Settings, turns: int, ctl: str, data: Path | None) -> None:
    """Print what RabbitMQ has of so many turns that nobody takes."""
    async with open_broker(settings) as broker, Client(broker) as client:
        empty = await taken(ctl, data)
        await broker.apply()
        before = await taken(ctl, data)
        for start in range(0, turns, 100):
            names = (f"user-{number}" for number in range(start, min(start + 100, turns)))
            await asyncio.gather(*(client.send(name, TEXT) for name in names))
        after = await taken(ctl, data)
    queues = len(broker.topology.queues)
    print(f"RabbitMQ  {queues:6} queues: {(before.memory - empty.memory) / queues / 1024:.0f} KiB of memory each")
    print(f"RabbitMQ  {turns:6} turns wait: {(after.memory - before.memory) / turns:.0f} bytes of memory each", end="")
    print(f", {(after.disk - before.disk) / turns:.0f} on the disk" if data else "", flush=True)


@dataclass(frozen=True)
class Taken:
    """Bytes that the whole server has."""

    memory: int
    disk: int


async def taken(ctl: str, data: Path | None) -> Taken:
    """What it has when it has settled."""
    await asyncio.sleep(SETTLES_S)
    memory = int(await output(*shlex.split(ctl), "-q", "eval", "erlang:memory(total)."))
    disk = await output("du", "-s", "--block-size=1", str(data)) if data else "0"
    return Taken(memory, int(disk.split()[0]))


async def output(*command: str) -> str:
    """What a command prints."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    text = (await process.communicate())[0].decode()
    if process.returncode:
        raise SystemExit(f"{shlex.join(command)} has ended with {process.returncode}")
    return text


async def main(arguments: argparse.Namespace) -> None:
    """Measure both."""
    settings = Settings.load(broker_url=arguments.amqp, store_url=arguments.redis, namespace=f"sizes-{os.getpid()}")
    try:
        await sessions(settings, [turns // 2 for turns in arguments.messages])
        await waiting(settings, arguments.waiting, arguments.rabbitmqctl, arguments.data)
    finally:
        await clean(settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amqp", required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--messages", type=int, nargs="+", default=[10, 100, 1000], help="of a session")
    parser.add_argument("--waiting", type=int, default=10_000, help="turns in RabbitMQ")
    parser.add_argument("--rabbitmqctl", default="rabbitmqctl")
    parser.add_argument("--data", type=Path, help="RabbitMQ's data, such as /var/lib/rabbitmq, to see its disk")
    sys.exit(asyncio.run(main(parser.parse_args())))
