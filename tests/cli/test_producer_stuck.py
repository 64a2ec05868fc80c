"""`sdqueue producer` that is told to end while what it needs stands still: it ends within its grace, and soon after."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from sdqueue_producers.state.redis import RedisState

from sdqueue.brokers import RabbitMQBroker, Topology
from tests.cli.manager import Manager
from tests.cli.place import Place, expect_end
from tests.cli.producing import expect_file, expect_lines, install, producer, say
from tests.producers.egress.world import Publisher
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.redis import PrivateRedis

ACK_S = 2
"""Seconds in which the platform wants its answer; what is on its way to the broker has them, whatever the grace is."""


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("stuck", ["redis", "both"])
async def test_it_ends_soon_after_its_grace_whatever_stands_still(
    place: Place,
    manager: Manager,
    namespace: str,
    private_rabbitmq: Callable[..., Awaitable[PrivateRabbitMQ]],
    private_redis: Callable[..., Awaitable[PrivateRedis]],
    stuck: str,
    twice: bool,
) -> None:
    """Given replies in the middle of a call and in the outbox, a request that waits, and servers that stand still.

    Told twice, it does not wait for its grace, here of ten minutes.
    """
    rabbitmq, redis = await private_rabbitmq(), await private_redis()
    install(place)
    grace_s = 600 if twice else 2
    env = manager.environment(
        SDQUEUE_BROKER_URL=rabbitmq.url, SDQUEUE_STORE_URL=redis.url, SDQUEUE_NAMESPACE=namespace,
        SDQUEUE_GRACE_S=str(grace_s), SLOW="1", BUSY="s", ACK_S=str(ACK_S),
    )  # fmt: skip
    process, url = await producer(place, env=env)
    async with RabbitMQBroker(rabbitmq.url, Topology(namespace)) as broker:
        publish = Publisher(broker, "pub")
        for number in range(60):  # more than a lane holds, so that some wait in the outbox
            await publish.final(f"t{number}", "hello", "s")
        await publish.final("u", "hello", "u")
    await expect_lines(place.folder, "begun", 2)  # "u" came last, so all of "s" are in hand
    (place.folder / "busy").write_text("")
    await expect_lines(place.folder, "begun", 3)  # by the outbox
    assert await parked(redis, namespace, "s") == "t0:0"
    servers = [redis] if stuck == "redis" else [redis, rabbitmq]
    try:
        for server in servers:
            server.pause()
        saying = asyncio.create_task(say(url, "s", 1))
        await expect_file(place.folder / "received")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        await manager.until("STOPPING=1")
        if twice:
            process.send_signal(signal.SIGTERM)
        await expect_end(process)
        took = time.monotonic() - began
        await saying
    finally:
        for server in servers:
            server.resume()
    # A RabbitMQ that does not answer is asked for 5 s to take its channels back; all else would be waited for for ever.
    assert took < 30


async def parked(redis: PrivateRedis, namespace: str, session: str) -> str | None:
    """The first reply of a session in the outbox."""
    state = RedisState(redis.url, namespace=namespace)
    try:
        found = await state.parked("pub", session)
    finally:
        await state.aclose()
    return found and found.key
