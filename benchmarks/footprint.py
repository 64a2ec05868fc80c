"""Memory and CPU of one consumer process and one producer process: idle, and with turns in flight.

Run it against servers that nobody else uses; it makes a namespace of its own and deletes it::

    python -m benchmarks.footprint --amqp amqp://guest:guest@localhost/ --redis redis://localhost:6379/0

The processes are the real commands. The agent waits, as one does that asks a model, so that ``--turns`` turns of as
many sessions run at once, and for each an HTTP request waits at the producer for its reply. Memory is what is resident
when all wait; CPU is what a turn has cost from the first to the last, in ms of one core.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.throughput import clean
from sdqueue.settings import Settings

WAIT_S = 20.0
"""How long the agent takes; the webhook holds a request for 25 s at most."""

STARTS = 250
"""Requests that begin in a second; all at once, many would be told to come again."""

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


async def patient(text: str, history: object) -> str:
    """The agent, in the consumer."""
    await asyncio.sleep(WAIT_S)
    return text


@dataclass
class Process:
    """One of ours."""

    role: str
    process: asyncio.subprocess.Process
    metrics: str

    def memory_mib(self) -> float:
        """What is resident of it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024

    def cpu_s(self) -> float:
        """Seconds of a core so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S


async def start(role: str, environment: dict[str, str], stack: AsyncExitStack) -> Process:
    """Start it and wait until it is ready; it is stopped with the stack."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sdqueue.cli", role, stdout=asyncio.subprocess.PIPE,
        env={**environment, "SDQUEUE_METRICS_PORT": str(port)},
    )  # fmt: skip
    stack.push_async_callback(stop, process)
    assert process.stdout
    while b" ready: " not in (line := await process.stdout.readline()):
        if not line:
            raise SystemExit(f"the {role} has ended")
    return Process(role, process, f"http://127.0.0.1:{port}/metrics")


async def stop(process: asyncio.subprocess.Process) -> None:
    """As an operator does."""
    if process.returncode is None:
        process.terminate()
    await process.communicate()


def free_port() -> int:
    """One on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def running(http: aiohttp.ClientSession, consumer: Process) -> int:
    """How many turns the consumer says it runs."""
    async with http.get(consumer.metrics) as answer:
        found = re.search(r"^sdqueue_turns_running (\S+)", await answer.text(), re.MULTILINE)
    return int(float(found[1])) if found else 0


async def most_running(http: aiohttp.ClientSession, consumer: Process, turns: int) -> int:
    """Wait until all run, as long as the first one does."""
    for _ in range(int(2 * WAIT_S)):
        seen = await running(http, consumer)
        if seen >= turns:
            break
        await asyncio.sleep(0.5)
    return seen


async def ask(http: aiohttp.ClientSession, url: str, number: int, failed: list[int]) -> None:
    """Send a turn of a session of its own and wait for the reply."""
    headers = {"Idempotency-Key": f"t-{time.time_ns()}-{number}", "Prefer": "wait=25"}
    body = {"session_id": f"s-{number}", "text": "x" * 100}
    async with http.post(url, json=body, headers=headers) as answer:
        await answer.read()
        if answer.status >= 300:
            failed.append(answer.status)


async def measure(turns: int, environment: dict[str, str], port: int) -> None:
    """New processes, so that what one run has left in memory is not counted in the next."""
    async with AsyncExitStack() as stack:
        consumer = await start("consumer", environment, stack)
        producer = await start("producer", environment, stack)
        both = (consumer, producer)
        connector = aiohttp.TCPConnector(limit=0)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120))
        )
        await asyncio.sleep(2)
        before = [each.cpu_s() for each in both]
        failed: list[int] = []
        url = f"http://127.0.0.1:{port}/webhook/load"
        asking = []
        for number in range(turns):
            asking.append(asyncio.create_task(ask(http, url, number, failed)))
            await asyncio.sleep(1 / STARTS)
        if turns:
            seen = await most_running(http, consumer, turns)
        else:
            seen = 0
            await asyncio.sleep(10)
        memory = [each.memory_mib() for each in both]
        await asyncio.gather(*asking)
        for each, began, mib in zip(both, before, memory, strict=True):
            used = each.cpu_s() - began
            cost = f"{1000 * used / turns:.2f} ms a turn" if turns else f"{100 * used:.0f} m of a core"
            print(f"{each.role:9} {seen:6} in flight  {mib:6.0f} MiB  {cost}", flush=True)
        if failed:
            print(f"  {len(failed)} requests were refused: {sorted(set(failed))}")


async def main(arguments: argparse.Namespace) -> None:
    """Measure one after the other."""
    namespace, port = f"footprint-{os.getpid()}", free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SDQUEUE_")},
        "SDQUEUE_BROKER_URL": arguments.amqp, "SDQUEUE_STORE_URL": arguments.redis, "SDQUEUE_NAMESPACE": namespace,
        "SDQUEUE_AGENT": "benchmarks.footprint:patient", "SDQUEUE_CONCURRENCY": "10000", "SDQUEUE_LOG_LEVEL": "warning",
        "SDQUEUE_CHANNELS": "webhook", "SDQUEUE_PRODUCER_PORT": str(port), "SDQUEUE_GRACE_S": "1",
        "SDQUEUE_WEBHOOK_ENDPOINTS": '{"load": {"open": true, "mode": "hold"}}',
    }  # fmt: skip
    settings = Settings.load(broker_url=arguments.amqp, store_url=arguments.redis, namespace=namespace)
    try:
        for turns in (0, *arguments.turns):
            await measure(turns, environment, port)
    finally:
        await clean(settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amqp", required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--turns", type=int, nargs="+", default=[500, 2000])
    asyncio.run(main(parser.parse_args()))
