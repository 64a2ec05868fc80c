"""What producers remember when servers stand still or lose everything, when processes are killed, and on a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sdqueue_producers import Bucket, Parked, ProducerState
from sdqueue_producers.state import MemoryState, RedisState, SQLiteState

from sdqueue.errors import ConfigurationError, StoreUnavailable
from tests.servers.redis import PrivateRedis
from tests.servers.redis_group import RedisGroup

MakeRedis = Callable[..., Awaitable[PrivateRedis]]

TAKERS = """
import asyncio, sys
from sdqueue.settings import Settings
from sdqueue_producers import Bucket, Parked, open_state

async def main(url, namespace, name):
    state = open_state(Settings.load(broker_url="memory://", producer_state_url=url, namespace=namespace))
    await state.get(["x:ready"])
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    waits = await asyncio.gather(*(state.take("x", [Bucket("b", 10, 6000.0)]) for _ in range(50)))
    for number in range(1000):
        key = f"{name}-{number}"
        await state.park("x", f"s{number % 3}", Parked(key, "{}", 1, 0.0, 0.0))
        if number == 19:
            print(sum(wait == 0 for wait in waits), flush=True)
        if number >= 20:
            print(key, flush=True)
    await state.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_two_processes_share_a_bucket_and_an_outbox_until_they_are_killed(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, namespace: str
) -> None:
    """Given 50 takers in each of two processes, of a bucket of 10, which then park replies until SIGKILL."""
    url = request.getfixturevalue("redis_url") if kind == "redis" else f"sqlite:///{tmp_path}/producer.db"
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", TAKERS, url, namespace, name, stdin=PIPE, stdout=PIPE
        )
        for name in ("one", "two")
    ]
    said: list[str] = []
    try:
        async with asyncio.timeout(60):
            for process in processes:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"ready\n"
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(b"go\n")
            taken = 0
            for process in processes:
                assert process.stdout is not None
                taken += int(await process.stdout.readline())
                said.append((await process.stdout.readline()).decode().strip())
    finally:
        for process in processes:
            if process.returncode is None:
                os.kill(process.pid, signal.SIGKILL)
            rest, _ = await process.communicate()
            said += rest.decode().split("\n")[:-1]
    assert taken == 10

    state: ProducerState = RedisState(url, namespace=namespace) if kind == "redis" else SQLiteState(url[10:])
    found: list[str] = []
    for session in await state.due("x", now=1.0, count=10):
        while waiting := await state.parked("x", session):
            found.append(waiting.key)
            await state.unpark("x", session, waiting.key)
    await state.aclose()
    assert set(said) <= set(found), "what was parked for good is lost"
    assert len(set(found)) == len(found)
    for name in ("one", "two"):
        for remainder in range(3):
            numbers = [int(key.partition("-")[2]) for key in found if key.startswith(name)]
            line = [number for number in numbers if number % 3 == remainder]
            assert line == list(range(remainder, remainder + 3 * len(line), 3)), "the order is another one"


@pytest.mark.chaos
async def test_a_frozen_redis_is_said_in_time_and_goes_on_by_itself(private_redis: MakeRedis) -> None:
    server = await private_redis()
    state = RedisState(f"{server.url}?socket_timeout=0.5")
    bucket = Bucket("b", 1, 600.0)
    await state.park("x", "s", Parked("a", "{}", 1, 1.0, 1.0))
    server.pause()
    before = time.monotonic()
    for call in (
        lambda: state.get(["x:a"]),
        lambda: state.set({"x:a": "1"}, ttl_s=1),
        lambda: state.add("x:a", "1", ttl_s=1),
        lambda: state.delete(["x:a"]),
        lambda: state.take("x", [bucket]),
        lambda: state.block("x", "b", 1),
        lambda: state.park("x", "t", Parked("a", "{}", 1, 1.0, 1.0)),
        lambda: state.parked("x", "s"),
        lambda: state.due("x", now=1, count=1),
        lambda: state.postpone("x", "s", "a", attempts=1, due_at=1),
        lambda: state.unpark("x", "s", "a2"),
    ):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await call()
    assert time.monotonic() - before < 11 * 1.5
    server.resume()
    assert await state.parked("x", "s") == Parked("a", "{}", 1, 1.0, 1.0)
    await state.aclose()


@pytest.mark.chaos
async def test_a_redis_that_is_killed_and_starts_again_knows_what_it_knew(private_redis: MakeRedis) -> None:
    """Its scripts it has forgotten, and gets them again."""
    server = await private_redis()
    state = RedisState(f"{server.url}?socket_timeout=1", namespace="restarted")
    await state.set({"x:a": "1"}, ttl_s=600)
    await state.park("x", "s", Parked("a", "{}", 1, 1.0, 1.0))
    assert await state.take("x", [Bucket("b", 1, 600.0)]) == 0
    async with Redis.from_url(server.url) as client:
        await client.config_set("appendfsync", "always")
    await server.kill()
    with pytest.raises(StoreUnavailable):
        await state.get(["x:a"])
    await private_redis()
    assert await state.get(["x:a"]) == ["1"]
    assert await state.take("x", [Bucket("b", 1, 600.0)]) > 0
    assert await state.due("x", now=1, count=5) == ["s"]
    await state.aclose()


async def test_on_a_cluster_all_keys_of_a_channel_are_in_one_slot(redis_group: RedisGroup) -> None:
    state = RedisState(f"redis+cluster://127.0.0.1:{(await redis_group.cluster())[0]}")
    try:
        for channel in ("slack", "webhook", "telegram", "a", "b"):
            names = [f"{channel}:{name}" for name in ("seen:1", "seen:}{2", "delivery:t:0")]
            await state.set(dict.fromkeys(names, channel), ttl_s=60)
            assert await state.get(names) == [channel] * 3
            assert await state.add(f"{channel}:seen:9", "1", ttl_s=60)
            await state.delete(names[:2])
            assert await state.get(names) == [None, None, channel]
            buckets = [Bucket("app", 2, 600.0), Bucket("post:C1", 1, 600.0)]
            assert await state.take(channel, buckets) == 0
            assert await state.take(channel, buckets) > 0
            await state.block(channel, "app", 9)
            for session in ("s", "t{"):
                await state.park(channel, session, Parked("a", channel, 1, 1.0, 1.0))
                await state.park(channel, session, Parked("b", channel, 1, 1.0, 1.0))
            await state.postpone(channel, "s", "a", attempts=2, due_at=5)
            await state.unpark(channel, "t{", "a")
            assert await state.due(channel, now=5, count=5) == ["t{", "s"]
            assert await state.parked(channel, "s") == Parked("a", channel, 2, 5.0, 1.0)
    finally:
        await state.aclose()


async def test_on_a_client_of_the_application(redis_url: str, namespace: str) -> None:
    """Also one that decodes; it stays open."""
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        state = RedisState(namespace=namespace, client=client)
        await state.set({"x:a": "é"}, ttl_s=60)
        await state.park("x", "s", Parked("a", "é", 1, 1.0, 1.0))
        assert await state.get(["x:a"]) == ["é"]
        assert await state.parked("x", "s") == Parked("a", "é", 1, 1.0, 1.0)
        await state.aclose()
        assert await client.ping()


async def test_everything_in_redis_but_the_outbox_expires(redis_url: str, namespace: str) -> None:
    """A bucket as soon as it is full again; and nothing is left of a session that waits no more."""
    state = RedisState(redis_url, namespace=namespace)
    async with Redis.from_url(redis_url) as client:
        await state.set({"x:a": "1"}, ttl_s=60)
        await state.take("x", [Bucket("b", 10, 90.0)])
        await state.block("x", "b", 60)
        keys = [key async for key in client.scan_iter(f"{namespace}:*")]
        assert len(keys) == 3
        assert all([0 < await client.ttl(key) <= 90 for key in keys])
        await client.delete(*keys)
        await state.park("x", "s", Parked("a", "1", 1, 1.0, 1.0))
        await state.unpark("x", "s", "a")
        assert [key async for key in client.scan_iter(f"{namespace}:*")] == []
    await state.aclose()


def test_a_namespace_that_cannot_name_keys_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="namespace"):
        RedisState("redis://localhost", namespace="a{b}")


async def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "producer.db").write_bytes(b"something else" * 100)
    state = SQLiteState(tmp_path / "producer.db")
    with pytest.raises(StoreUnavailable, match=r"producer\.db"):
        await state.get(["x:a"])
    await state.aclose()


async def test_what_has_expired_leaves_no_row_in_the_file(tmp_path: Path) -> None:
    now = 1000.0
    state = SQLiteState(tmp_path / "producer.db", clock=lambda: now)
    for number in range(50):
        await state.set({f"x:{number}": "1"}, ttl_s=10)
        await state.take("x", [Bucket(f"b{number}", 1, 10.0)])
        await state.block("x", f"b{number}", 10)
    now = 1011.0
    await state.set({"x:new": "1"}, ttl_s=10)
    await state.take("x", [Bucket("new", 1, 10.0)])
    counts = await state._thread.read(
        lambda connection: [
            connection.execute(f"SELECT COUNT(*) FROM producer_{table}").fetchone()[0]
            for table in ("values", "buckets", "blocks")
        ]
    )
    assert counts == [1, 1, 0]
    await state.aclose()


async def test_what_has_expired_leaves_the_memory() -> None:
    now = 1000.0
    state = MemoryState(clock=lambda: now)
    for number in range(10_000):
        now += 1
        await state.add(f"x:{number}", "1", ttl_s=10)
        await state.take("x", [Bucket(f"b{number}", 1, 10.0)])
        await state.block("x", f"b{number}", 10)
    assert len(state._values) + len(state._levels) + len(state._blocked) <= 1000


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_clock_that_is_set_back_lets_nothing_out_and_stops_nothing(kind: str, tmp_path: Path) -> None:
    now = 1_700_000_000.0
    state: ProducerState = (
        MemoryState(clock=lambda: now) if kind == "memory" else SQLiteState(tmp_path / "x.db", clock=lambda: now)
    )
    bucket = Bucket("b", 2, 10.0)
    assert [await state.take("x", [bucket]) == 0 for _ in range(3)] == [True, True, False]
    now -= 3600
    wait = await state.take("x", [bucket])
    assert 0 < wait < 10.1
    now += wait
    assert await state.take("x", [bucket]) == 0, "it waits until the clock is where it was"
    assert await state.take("x", [bucket]) > 0
    await state.aclose()


@pytest.mark.parametrize(("count", "per_s"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, -1.0), (1, float("inf"))])
def test_a_bucket_that_never_lets_one_out_is_refused(count: int, per_s: float) -> None:
    with pytest.raises(ValueError, match="bucket 'b'"):
        Bucket("b", count, per_s)
