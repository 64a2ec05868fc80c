"""What one machine does on SQLite: turns a second, latency, turns in flight, size on the disk.

The consumers are the real command, in processes of their own; the questions come from this process, over the same file,
and wait for their answers, as a producer's do. All of it shares the machine, so it is a whole one that is measured::

    python -m benchmarks.one_machine --folder /var/tmp --processes 1 2

Every turn and every reply is on the disk before the next step: choose a folder on the disk that you mean. Texts have
100 bytes; the agent answers at once, or after ``WAIT_S`` where turns in flight are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from sdqueue import Client, MemoAgent
from sdqueue.settings import Settings

TEXT = "x" * 100
WAIT_S = 5.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


async def patient(text: str, history: object) -> str:
    """An agent that waits, as one does that asks a model."""
    await asyncio.sleep(WAIT_S)
    return text


class Place:
    """A folder with the two databases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings.load(
            broker_url=f"sqlite:///{folder}/broker.db", store_url=f"sqlite:///{folder}/sessions.db"
        )

    @asynccontextmanager
    async def consumers(self, processes: int, agent: str) -> AsyncIterator[list[asyncio.subprocess.Process]]:
        """Consumers that are ready, until the block ends."""
        environment = {
            **os.environ, "SDQUEUE_BROKER_URL": self.settings.broker_url, "SDQUEUE_STORE_URL": self.settings.store_url,
            "SDQUEUE_AGENT": agent, "SDQUEUE_LOG_LEVEL": "warning", "SDQUEUE_CONCURRENCY": "4096",
        }  # fmt: skip
        running = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "sdqueue.cli", "consumer", env=environment, stdout=asyncio.subprocess.PIPE
            )
            for _ in range(processes)
        ]
        try:
            for process in running:
                assert process.stdout is not None
                async with asyncio.timeout(60):
                    await process.stdout.readline()
            yield running
        finally:
            for process in running:
                process.terminate()
            await asyncio.gather(*(process.wait() for process in running))

    def bytes(self) -> dict[str, int]:
        """How large each database is, with its log."""
        return {name: sum(f.stat().st_size for f in self.folder.glob(f"{name}.db*")) for name in ("broker", "sessions")}


def quantile(values: Iterable[float], part: float) -> float:
    """A quantile, in milliseconds."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))]


async def closed(client: Client, asking: int, seconds: float) -> tuple[float, list[float]]:
    """So many sessions ask again as soon as they have their answer: turns a second, and how long each took."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def session(number: int) -> None:
        while (asked := time.perf_counter()) < end:
            await client.ask(f"closed-{number}", TEXT)
            took.append(time.perf_counter() - asked)

    began = time.perf_counter()
    await asyncio.gather(*(session(number) for number in range(asking)))
    return len(took) / (time.perf_counter() - began), took


async def steady(client: Client, rate: float, seconds: float) -> list[float]:
    """So many turns a second of a hundred sessions in turn, whatever becomes of them: how long each took."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(number: int) -> float:
        await asyncio.sleep(began + number / rate - loop.time())
        await client.ask(f"steady-{number % 100}", TEXT)
        return loop.time() - (began + number / rate)

    return await asyncio.gather(*(one(number) for number in range(int(rate * seconds))))


async def in_flight(client: Client, turns: int) -> float:
    """So many sessions ask at once an agent that takes its time: seconds until the last has its answer."""
    began = time.perf_counter()
    await asyncio.gather(*(client.ask(f"flight-{number}", TEXT) for number in range(turns)))
    return time.perf_counter() - began


async def grown(client: Client, place: Place, turns: int) -> dict[str, float]:
    """Bytes that a turn leaves on the disk, of a session with so many."""
    before = place.bytes()
    for _ in range(turns // 20):
        await asyncio.gather(*(client.ask(f"grown-{number}", TEXT) for number in range(20)))
    return {name: (size - before[name]) / turns for name, size in place.bytes().items()}


def cpu_s(process: asyncio.subprocess.Process) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def memory_mib(process: asyncio.subprocess.Process) -> float:
    """What is resident of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def measure(arguments: argparse.Namespace) -> None:
    """Measure and print, a line each."""
    for processes in arguments.processes:
        with TemporaryDirectory(dir=arguments.folder, prefix="sdqueue-bench-") as folder:
            place = Place(Path(folder))
            memo = f"{MemoAgent.__module__}:{MemoAgent.__name__}"
            async with (
                place.consumers(processes, memo) as running,
                Client.from_settings(place.settings) as client,
            ):
                await closed(client, 10, 1)  # warm
                for asking in arguments.asking:
                    rate, took = await closed(client, asking, arguments.seconds)
                    say(
                        f"{processes} consumer  {asking:4} sessions ask on and on: {rate:5.0f} turns/s, "
                        f"p50 {quantile(took, 0.5):4.0f} ms, p99 {quantile(took, 0.99):4.0f} ms"
                    )
                for rate in arguments.rates:
                    took = await steady(client, rate, arguments.seconds)
                    say(
                        f"{processes} consumer  {rate:4} turns/s: p50 {quantile(took, 0.5):4.0f} ms, "
                        f"p99 {quantile(took, 0.99):4.0f} ms"
                    )
                sizes = await grown(client, place, 2000)
                say("   ".join(f"{name}: {size:.0f} bytes a turn" for name, size in sizes.items()))
                used = [cpu_s(process) for process in running]
                await asyncio.sleep(10)
                idle = [100 * (cpu_s(process) - before) / 10 for process, before in zip(running, used, strict=True)]
                say(
                    f"CPU: {', '.join(f'{seconds:.1f} s' for seconds in used)} until now; idle "
                    f"{', '.join(f'{part:.1f} %' for part in idle)} of a core; "
                    f"{', '.join(f'{memory_mib(process):.0f} MiB' for process in running)}"
                )
    with TemporaryDirectory(dir=arguments.folder, prefix="sdqueue-bench-") as folder:
        place = Place(Path(folder))
        async with (
            place.consumers(1, "benchmarks.one_machine:patient") as (consumer,),
            Client.from_settings(place.settings) as client,
        ):
            for turns in arguments.flight:
                took = await in_flight(client, turns)
                memory = memory_mib(consumer)
                say(
                    f"{turns:5} turns at once that take {WAIT_S:g} s: all answered after {took:.1f} s, {memory:.0f} MiB"
                )


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to be measured")  # noqa: S108 -- a disk, not a name
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--asking", type=int, nargs="*", default=[1, 20, 200])
    parser.add_argument("--rates", type=int, nargs="*", default=[10, 50, 100, 200])
    parser.add_argument("--flight", type=int, nargs="*", default=[500, 2000])
    parser.add_argument("--seconds", type=float, default=10.0)
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
