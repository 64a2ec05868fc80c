"""`sdqueue producer` that is told to end while what it needs stands still: it ends within its grace, and soon after."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from sdqueue.brokers import RabbitMQBroker, Topology
from tests.cli.place import Place
from tests.cli.producing import expect_file, install, producer, say
from tests.producers.egress.world import Publisher
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.redis import PrivateRedis

GRACE_S = 2


@pytest.mark.chaos
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("stuck", ["redis", "both"])
async def test_it_ends_soon_after_its_grace_whatever_stands_still(
    place: Place,
    namespace: str,
    private_rabbitmq: Callable[..., Awaitable[PrivateRabbitMQ]],
    private_redis: Callable[..., Awaitable[PrivateRedis]],
    stuck: str,
    twice: bool,
) -> None:
    """Given replies in the middle of a call and in the outbox, a request that waits, and servers that stand still."""
    rabbitmq, redis = await private_rabbitmq(), await private_redis()
    install(place)
    env = {
        "SDQUEUE_BROKER_URL": rabbitmq.url, "SDQUEUE_STORE_URL": redis.url, "SDQUEUE_NAMESPACE": namespace,
        "SDQUEUE_GRACE_S": str(GRACE_S), "SLOW": "1",
    }  # fmt: skip
    process, url = await producer(place, env=env)
    async with RabbitMQBroker(rabbitmq.url, Topology(namespace)) as broker:
        publish = Publisher(broker, "pub")
        for number in range(60):  # more than a lane holds, so that some wait in the outbox
            await publish.final(f"t{number}", "hello", "s")
        await publish.final("u", "hello", "u")
    await expect_file(place.folder / "delivering")
    await asyncio.sleep(1)
    servers = [redis] if stuck == "redis" else [redis, rabbitmq]
    try:
        for server in servers:
            server.pause()
        saying = asyncio.create_task(say(url, "s", 1))
        await asyncio.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        if twice:
            await asyncio.sleep(0.3)
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 60)
        took = time.monotonic() - began
        await saying
    finally:
        for server in servers:
            server.resume()
    # A RabbitMQ that does not answer is asked for 5 s to take its channels back; then the connection is dropped.
    assert took < (0 if twice else GRACE_S) + (12 if stuck == "both" else 5)
