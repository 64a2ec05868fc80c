"""What streaming costs: deltas a second, and how much later the final reply comes.

Run it against servers that nobody else uses; it makes a namespace of its own and deletes it::

    python -m benchmarks.streaming --amqp amqp://guest:guest@localhost/ --redis redis://localhost:6379/0

The same agent answers the same turns whole, streamed without a log, and streamed with one, in turns of the same run.
It says ``--words`` words with a pause after each, as a model does. What is measured of each turn is the time from its
question to its final reply beyond what the agent took.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator

import uvloop

from benchmarks.throughput import clean
from sdqueue import FunctionAgent, SessionWorker
from sdqueue.backends import open_broker, open_delta_log, open_locks, open_store
from sdqueue.client import Client
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.settings import Settings


class Run:
    """One way to answer, and what was measured of it."""

    def __init__(self, name: str, *, stream: bool, log: bool) -> None:
        self.name, self.stream, self.log = name, stream, log
        self.late: list[float] = []
        self.deltas = 0
        self.seconds = 0.0

    async def measure(self, settings: Settings, arguments: argparse.Namespace) -> None:
        """Let all sessions ask at once, each one turn after the other."""
        took: dict[str, float] = {}

        async def words(text: str, history: object) -> AsyncIterator[str]:
            started = time.perf_counter()
            for number in range(arguments.words):
                yield f"word {number} "
                await asyncio.sleep(arguments.pause)
            took[text] = time.perf_counter() - started

        store, locks = open_store(settings), open_locks(settings)
        log = open_delta_log(settings) if self.log else None
        worker = SessionWorker(agent_factory=lambda: FunctionAgent(words), store=store, lock_backend=locks)

        async def ask(client: Client, session: str) -> None:
            for number in range(arguments.turns):
                text = f"{session} {number}"
                started = time.perf_counter()
                if self.stream:
                    replies = [reply async for reply in client.stream(session, text)]
                    self.deltas += len(replies) - 1
                else:
                    await client.ask(session, text)
                self.late.append(time.perf_counter() - started - took[text])

        options = ConsumerOptions.from_settings(settings)
        async with open_broker(settings) as broker, Client(broker) as client:
            await broker.apply()
            async with Consumer(broker, worker, options, delta_log=log):
                started = time.perf_counter()
                await asyncio.gather(*(ask(client, f"{self.name}-{n}") for n in range(arguments.sessions)))
                self.seconds += time.perf_counter() - started
        for backend in (store, locks, log):
            if backend is not None:
                await backend.aclose()  # type: ignore[attr-defined]  # all that the settings name have it

    def __str__(self) -> str:
        cuts = statistics.quantiles(self.late, n=100)
        return (
            f"{self.name:9}  {self.deltas / self.seconds:6.0f} deltas/s  "
            f"final reply after the agent: p50 {cuts[49] * 1000:5.1f} ms  p99 {cuts[98] * 1000:5.1f} ms"
        )


async def main(arguments: argparse.Namespace) -> None:
    """Measure the three ways in turns."""
    namespace = f"bench-{os.getpid()}"
    settings = Settings.load(broker_url=arguments.amqp, store_url=arguments.redis, namespace=namespace, partitions=16)
    ways = [
        Run("whole", stream=False, log=False), Run("streamed", stream=True, log=False),
        Run("with log", stream=True, log=True),
    ]  # fmt: skip
    try:
        for _ in range(arguments.rounds):
            for way in ways:
                await way.measure(settings, arguments)
    finally:
        await clean(settings)
    for way in ways:
        print(way)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--amqp", required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--pause", type=float, default=0.01)
    parser.add_argument("--rounds", type=int, default=3)
    uvloop.run(main(parser.parse_args()))
