"""The SQLite broker between processes: they die, stop and start at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import sqlite3
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sdqueue.brokers.broker import Message
from sdqueue.brokers.sqlite import SQLiteBroker
from sdqueue.errors import Unroutable
from sdqueue.testing.brokers import Inbox, numbered
from tests.brokers.sqlite_process import TOPOLOGY

pytestmark = pytest.mark.chaos

QUEUE = TOPOLOGY.partition_queue(0)
ROOT = Path(__file__).parents[2]

Start = Callable[..., Awaitable[Process]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


@pytest.fixture
async def broker(path: Path) -> AsyncIterator[SQLiteBroker]:
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        await broker.apply()
        yield broker


@pytest.fixture
async def start(path: Path) -> AsyncIterator[Start]:
    """Starts ``sqlite_process.py`` in a role; what still runs at the end is killed."""
    processes: list[Process] = []

    async def started(role: str, *arguments: object) -> Process:
        command = [sys.executable, "-m", "tests.brokers.sqlite_process", role, str(path), *map(str, arguments)]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)
        processes.append(process)
        return process

    yield started
    for process in processes:
        if process.returncode is None:
            process.kill()
        # To the end of its output, or the pipe would be closed by the garbage collector.
        await process.communicate()


async def line(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return (await process.stdout.readline()).decode().strip()


async def consuming(start: Start, *, prefetch: int, acks: bool = False) -> Process:
    process = await start("consume", prefetch, "acks" if acks else "keeps")
    assert await line(process) == "ready"
    return process


async def publish(broker: SQLiteBroker, count: int, first: int = 0) -> None:
    for body in numbered(range(first, first + count)):
        await broker.publish(TOPOLOGY.turns, "0000", Message(body))


async def test_a_killed_consumer_s_messages_go_to_the_standby_in_order_within_a_second(
    broker: SQLiteBroker, start: Start
) -> None:
    """Given an active consumer with a full window and standbys, when it is killed, then the next one has it all.

    Three times, for the machine itself may pause for longer once.
    """
    line_up = [await consuming(start, prefetch=20) for _ in range(4)]
    await publish(broker, 30)
    assert [await line(line_up[0]) for _ in range(20)] == [f"got {n} 0" for n in range(20)]
    waits = []
    for active, standby in itertools.pairwise(line_up):
        active.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert await line(standby) == "got 0 1"
        waits.append(time.monotonic() - killed)
        assert [await line(standby) for _ in range(19)] == [f"got {n} 1" for n in range(1, 20)]
    assert sorted(waits)[1] < 1, waits


async def test_a_succession_of_killed_consumers_keeps_the_order(broker: SQLiteBroker, start: Start) -> None:
    """Consumers that acknowledge at once are killed at any moment, while more is published."""
    line_up = [await consuming(start, prefetch=10, acks=True) for _ in range(3)]
    seen: list[int] = []
    for position, process in enumerate(line_up):
        publishing = asyncio.ensure_future(publish(broker, 100, first=100 * position))
        while not seen or seen[-1] < 100 * position + 40:
            seen.append(int((await line(process)).split()[1]))
        if position < 2:
            process.send_signal(signal.SIGKILL)
            output, _ = await process.communicate()
            seen += [int(text.split()[1]) for text in output.decode().splitlines()]
        await publishing
    while seen[-1] < 299:
        seen.append(int((await line(line_up[-1])).split()[1]))
    first_seen = list(dict.fromkeys(seen))
    assert first_seen == list(range(300))


async def test_a_stopped_consumer_keeps_its_queue(broker: SQLiteBroker, start: Start) -> None:
    """A process that only sleeps has not lost anything: when it wakes it goes on, and nobody else began."""
    active = await consuming(start, prefetch=5)
    await publish(broker, 3)
    assert await line(active) == "got 0 0"
    await stop(active, broker.path)
    standby = Inbox()
    await broker.subscribe(QUEUE, standby, prefetch=5)
    await standby.expect_no_more(0.3)
    active.send_signal(signal.SIGCONT)
    assert [await line(active) for _ in range(2)] == ["got 1 0", "got 2 0"]
    active.send_signal(signal.SIGKILL)
    await standby.expect(3)
    assert standby.bodies == numbered(range(3))


async def stop(process: Process, path: Path) -> None:
    """Stop it where it is in no transaction: in one, nobody could subscribe before it goes on."""
    async with asyncio.timeout(20):
        while True:
            process.send_signal(signal.SIGSTOP)
            while not _all_stopped(process.pid):
                await asyncio.sleep(0.01)
            with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError:
                    process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.01)


def _all_stopped(pid: int) -> bool:
    states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


async def test_what_was_confirmed_to_a_killed_producer_is_there_in_order(broker: SQLiteBroker, start: Start) -> None:
    for round_ in range(3):
        inbox = Inbox(acks=True)
        subscription = await broker.subscribe(QUEUE, inbox, prefetch=50)
        producer = await start("produce")
        for _ in range(20 + 7 * round_):
            await line(producer)
        producer.send_signal(signal.SIGKILL)
        output, _ = await producer.communicate()
        said = output.decode()
        confirmed = 20 + 7 * round_ + said.count("\n")
        await publish(broker, 1, first=10**9)
        while b"1000000000" not in inbox.bodies:
            await inbox.expect(len(inbox.bodies) + 1)
        arrived = [int(body) for body in inbox.bodies[:-1]]
        assert arrived == list(range(len(arrived)))
        assert len(arrived) >= confirmed
        await subscription.close()


async def test_two_processes_apply_at_once(path: Path, start: Start) -> None:
    processes = [await start("apply") for _ in range(3)]
    for process in processes:
        assert await line(process) == "ready"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
    assert [await line(process) for process in processes] == ["applied"] * 3
    assert [await process.wait() for process in processes] == [0] * 3
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        await broker.check()


async def test_the_private_queue_of_a_dead_process_is_cleaned_up(broker: SQLiteBroker, start: Start) -> None:
    """The failure: clients come and go, and each leaves a queue that fills for ever."""
    await broker.subscribe(QUEUE, Inbox(), prefetch=1)
    client = await start("reply")
    queue = await line(client)
    await broker.publish("", queue, Message(b"x"))
    client.send_signal(signal.SIGKILL)
    await client.wait()
    refused = False
    async with asyncio.timeout(10):
        while not refused:
            try:
                await broker.publish("", queue, Message(b"x"))
            except Unroutable:
                refused = True
    assert refused


async def test_another_process_gets_a_message_at_once_and_not_at_the_next_look(
    broker: SQLiteBroker, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rung by its FIFO: a turn there and a reply back come while the next look of either process is an hour away."""
    monkeypatch.setattr("sdqueue.brokers.sqlite_worker.WATCH_S", 3600.0)
    echo = await start("echo", 3600)
    assert await line(echo) == "ready"
    inbox = Inbox()
    replies = await broker.subscribe_replies(inbox)
    for n in range(60):
        await broker.publish(TOPOLOGY.turns, "0000", Message(b"%d" % n, reply_to=replies.queue))
        await inbox.expect(n + 1)
    assert inbox.bodies == numbered(range(60))
