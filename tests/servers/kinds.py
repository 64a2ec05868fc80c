"""The kinds of server that the tests need, as values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.servers import rabbitmq, redis
from tests.servers.process import LocalServer


@dataclass(frozen=True)
class Kind:
    """What is known about a kind of server.

    Parameters:
        name: what people call it.
        marker: the pytest marker of tests that need it.
        address: the environment variable with the address of a running one.
        image_variable, image: the container image, and the environment variable that names another.
        port: where the container listens.
        url: how an address is written, with ``{host}`` and ``{port}``.
        package: Debian's package.
        local: the class of private instances.
        version: asks a running one for its product and version.
    """

    name: str
    marker: str
    address: str
    image_variable: str
    image: str
    port: int
    url: str
    package: str
    local: type[LocalServer]
    version: Callable[[str], Awaitable[str]]


RABBITMQ: Final = Kind(
    name="RabbitMQ",
    marker="rabbitmq",
    address="SDQUEUE_TEST_AMQP_URL",
    image_variable="SDQUEUE_TEST_RABBITMQ_IMAGE",
    image="rabbitmq:4-management",
    port=5672,
    url="amqp://guest:guest@{host}:{port}/",
    package="rabbitmq-server",
    local=rabbitmq.LocalRabbitMQ,
    version=rabbitmq.version,
)

REDIS: Final = Kind(
    name="Redis",
    marker="redis",
    address="SDQUEUE_TEST_REDIS_URL",
    image_variable="SDQUEUE_TEST_REDIS_IMAGE",
    image="redis:7",
    port=6379,
    url="redis://{host}:{port}/0",
    package="redis-server",
    local=redis.LocalRedis,
    version=redis.version,
)

KINDS: Final = {kind.marker: kind for kind in (RABBITMQ, REDIS)}
