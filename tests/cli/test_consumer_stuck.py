"""`sdqueue consumer` that is told to end while its servers stand still: it ends within its grace, and soon after.

``terminationGracePeriodSeconds`` and the like are SDQUEUE_GRACE_S and what is allowed here.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from sdqueue import Client
from sdqueue.brokers import RabbitMQBroker, Topology
from tests.cli.place import Place, expect_began, expect_end, expect_line
from tests.servers.rabbitmq import LocalRabbitMQ
from tests.servers.redis import LocalRedis

GRACE_S = 2
LATE_S = 30
"""It takes 5 s more where RabbitMQ is asked in vain, and where anything else is waited for, for ever."""


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stuck", ["nothing", "redis", "rabbitmq", "both"])
async def test_it_ends_soon_after_its_grace_whatever_stands_still(
    place: Place,
    namespace: str,
    private_rabbitmq: Callable[..., Awaitable[LocalRabbitMQ]],
    private_redis: Callable[..., Awaitable[LocalRedis]],
    stuck: str,
) -> None:
    """Given a turn that never ends, and others of its session that wait."""
    rabbitmq, redis = await private_rabbitmq(), await private_redis()
    env = {
        "SDQUEUE_BROKER_URL": rabbitmq.url, "SDQUEUE_STORE_URL": redis.url, "SDQUEUE_NAMESPACE": namespace,
        "SDQUEUE_GRACE_S": str(GRACE_S), "SDQUEUE_AGENT": "agents:endless",
    }  # fmt: skip
    process = await place.start("consumer", env=env)
    await expect_line(process, " ready: ")
    async with RabbitMQBroker(rabbitmq.url, Topology(namespace, 4)) as broker, Client(broker) as client:
        for number in range(3):
            await client.send("s", f"say {number}", id=f"t{number}")
    await expect_began(place, process)
    servers = {"nothing": (), "redis": (redis,), "rabbitmq": (rabbitmq,), "both": (redis, rabbitmq)}[stuck]
    try:
        for server in servers:
            server.pause()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        await expect_end(process)
        took = time.monotonic() - began
    finally:
        for server in servers:
            server.resume()
    assert GRACE_S <= took < LATE_S
