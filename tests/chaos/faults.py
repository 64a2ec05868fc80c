"""Faults: what is done to consumers and servers. Each heals what it has broken before it returns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tests.chaos.proxy import Proxy
from tests.chaos.stage import Stage
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.redis import PrivateRedis

WATERMARK: Final = "1GiB"
"""What the private RabbitMQ is configured with."""


def node_of(stage: Stage) -> PrivateRabbitMQ:
    """A node of the broker, by chance where there are several; this run must have it for itself."""
    assert stage.servers.nodes, f"{stage.scenario.name} needs a RabbitMQ of its own"
    return stage.chance.choice(stage.servers.nodes)


def redis_of(stage: Stage) -> PrivateRedis:
    """The store, which this run must have for itself."""
    assert stage.servers.redis is not None, f"{stage.scenario.name} needs a Redis of its own"
    return stage.servers.redis


# Consumers


async def kill(stage: Stage) -> None:
    """``kill -9`` a consumer in the middle of its turns; another takes its place."""
    stage.busiest().kill()
    await stage.start()


async def replace(stage: Stage) -> None:
    """SIGTERM to a consumer in the middle of its turns, and another in its place: a rolling update."""
    victim = stage.busiest()
    stopping = asyncio.create_task(stage.pool.stop([victim]))
    await stage.start()
    await stopping


async def pause(stage: Stage, seconds: float = 8.0) -> None:
    """Stop a consumer for longer than its lock's life, the heartbeat of locks and that of the broker."""
    victim = stage.busiest()
    victim.pause()
    await asyncio.sleep(seconds)
    victim.resume()


async def kill_successor(stage: Stage) -> None:
    """Kill a consumer, and then the one that takes over, as soon as it begins what was returned; and once more."""
    await stage.start(2)
    for _ in range(3):
        victim, killed_at = stage.busiest(), time.monotonic()
        victim.kill()
        await stage.pool.event(killed_at, within_s=10, event="begin")
    await stage.start(2)


# The broker


async def close_connections(stage: Stage) -> None:
    """Have the broker close all connections, those of the producers too."""
    await stage.servers.ctl("close_all_connections", "chaos")


async def restart_broker(stage: Stage) -> None:
    """Stop the broker, or a node of it, in order and start it again."""
    await node_of(stage).restart()


async def crash_broker(stage: Stage) -> None:
    """Kill the broker, or a node of it, and start it again."""
    node = node_of(stage)
    await node.kill()
    await asyncio.sleep(1)
    await node.start()
    if stage.servers.cluster is not None:
        await stage.servers.cluster.redundant()  # so that the next one may go


async def alarm(stage: Stage, seconds: float = 5.0) -> None:
    """A memory alarm: the broker blocks everybody who publishes."""
    await stage.servers.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        await asyncio.sleep(seconds)
    finally:
        await stage.servers.ctl("set_vm_memory_high_watermark", "absolute", WATERMARK)


async def silence(stage: Stage, seconds: float = 10.0) -> None:
    """Let the network of a consumer go silent: nobody hears of it, until heartbeats are missed."""
    proxy = Proxy(stage.servers.addresses[0])
    url = await proxy.open()
    try:
        before = stage.pool.alive
        joined = (await stage.start(SDQUEUE_BROKER_URL=f"{url}?heartbeat=2"))[0]
        await stage.start()
        await stage.pool.stop(before)  # so that the one behind the proxy has work
        await stage.pool.event(time.monotonic(), within_s=10, event="begin", pid=joined.pid)
        proxy.silence()
        await asyncio.sleep(seconds)
        proxy.speak()
        await asyncio.sleep(2)
        await stage.pool.stop([joined])
    finally:
        await proxy.close()


# The store


async def pause_store(stage: Stage, seconds: float = 5.0) -> None:
    """Freeze Redis: connections stay open and nothing answers."""
    redis = redis_of(stage)
    redis.pause()
    await asyncio.sleep(seconds)
    redis.resume()


async def restart_store(stage: Stage) -> None:
    """Stop Redis in order and start it again a second later; what it had is on disk."""
    await redis_of(stage).stop()
    await asyncio.sleep(1)
    await redis_of(stage).start()


async def crash_store(stage: Stage) -> None:
    """Kill Redis and start it again; it had handed every write to the kernel before it answered."""
    await redis_of(stage).kill()
    await asyncio.sleep(1)
    await redis_of(stage).start()


async def fail_over(stage: Stage) -> None:
    """Kill the primary; Sentinel promotes the replica."""
    group, sentinel = stage.servers.group, stage.servers.sentinel
    assert group is not None, f"{stage.scenario.name} needs a store with Sentinel"
    assert sentinel is not None
    group.kill(sentinel.primary_index)
    stage.failed_over_at = time.monotonic()


async def empty_store(stage: Stage) -> None:
    """FLUSHALL: all sessions, locks and memories of turns are gone."""
    await redis_of(stage).flush()
    stage.emptied_at = time.monotonic()


MIXABLE: Final[tuple[Callable[[Stage], Awaitable[None]], ...]] = (
    kill, kill, replace, pause, close_connections, pause_store, restart_store, crash_store, crash_broker, alarm,
)  # fmt: skip
"""What may come at any time, by its share: the broker takes ten seconds to come back, a consumer one."""
