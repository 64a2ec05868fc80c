"""The kinds of server that the tests need, and the releases of each that can be asked for, as values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.servers import rabbitmq, redis
from tests.servers.debian import system_of
from tests.servers.process import LocalServer
from tests.servers.system import System

SERVERS_VARIABLE: Final = "SDQUEUE_TEST_SERVERS"


@dataclass(frozen=True)
class Release:
    """A release of a kind of server.

    Parameters:
        name: what asks for it, such as ``rabbitmq-4``; empty for whatever there is.
        image: the container image.
        package: Debian's package.
        suite: the release of Debian that has it; ``None``: this machine, whatever it is.
        product: how the product and version of a running one begin.
    """

    name: str
    image: str
    package: str
    suite: str | None = None
    product: str = ""

    def system(self, environ: Mapping[str, str]) -> System:
        """Where its programs are."""
        return system_of(self.suite, environ)

    def check(self, product: str) -> str | None:
        """What is wrong with a running server, ``None`` where it is of this release."""
        return None if product.startswith(self.product) else f"it is {product}, and {self.name} is asked for"


@dataclass(frozen=True)
class Kind:
    """What is known about a kind of server.

    Parameters:
        name: what people call it.
        marker: the pytest marker of tests that need it.
        address: the environment variable with the address of a running one.
        image_variable: the environment variable that names a container image.
        release_variable: the environment variable that asks for a release by its name.
        port: where the container listens.
        url: how an address is written, with ``{host}`` and ``{port}``.
        local: the class of private instances.
        version: asks a running one for its product and version.
        any_release: used where no release is asked for.
        releases: those that can be asked for.
    """

    name: str
    marker: str
    address: str
    image_variable: str
    release_variable: str
    port: int
    url: str
    local: type[LocalServer]
    version: Callable[[str], Awaitable[str]]
    any_release: Release
    releases: tuple[Release, ...]

    def image(self, environ: Mapping[str, str]) -> str:
        """The container image: the one that is named, or that of the release."""
        return environ.get(self.image_variable) or self.release(environ).image

    def release(self, environ: Mapping[str, str]) -> Release:
        """The release that the environment asks for: by name, or all servers of a suite of Debian.

        Raises:
            ValueError: there is none of that name.
        """
        wanted = environ.get(self.release_variable, "")
        suite = environ.get(SERVERS_VARIABLE, "")
        if wanted:
            for release in self.releases:
                if wanted in (release.name, release.name.removeprefix(f"{self.marker}-")):
                    return release
            known = ", ".join(release.name for release in self.releases)
            raise ValueError(f"{self.release_variable} is {wanted!r}; there are {known}")
        if suite:
            for release in self.releases:
                if release.suite == suite:
                    return release
            known = ", ".join(f"{release.suite}" for release in self.releases)
            raise ValueError(f"{SERVERS_VARIABLE} is {suite!r}; there are {known}")
        return self.any_release


RABBITMQ: Final = Kind(
    name="RabbitMQ",
    marker="rabbitmq",
    address="SDQUEUE_TEST_AMQP_URL",
    image_variable="SDQUEUE_TEST_RABBITMQ_IMAGE",
    release_variable="SDQUEUE_TEST_RABBITMQ",
    port=5672,
    url="amqp://guest:guest@{host}:{port}/",
    local=rabbitmq.LocalRabbitMQ,
    version=rabbitmq.version,
    any_release=Release("", "rabbitmq:4-management", "rabbitmq-server"),
    releases=(
        Release("rabbitmq-3", "rabbitmq:3-management", "rabbitmq-server", "bookworm", "RabbitMQ 3."),
        Release("rabbitmq-4", "rabbitmq:4-management", "rabbitmq-server", "trixie", "RabbitMQ 4."),
    ),
)

REDIS: Final = Kind(
    name="Redis",
    marker="redis",
    address="SDQUEUE_TEST_REDIS_URL",
    image_variable="SDQUEUE_TEST_REDIS_IMAGE",
    release_variable="SDQUEUE_TEST_REDIS",
    port=6379,
    url="redis://{host}:{port}/0",
    local=redis.LocalRedis,
    version=redis.version,
    any_release=Release("", "redis:7", "redis-server"),
    releases=(
        Release("redis-7", "redis:7", "redis-server", "bookworm", "Redis 7."),
        Release("valkey-8", "valkey/valkey:8", "valkey-server", "trixie", "Valkey 8."),
    ),
)

KINDS: Final = {kind.marker: kind for kind in (RABBITMQ, REDIS)}


def packages(suite: str) -> list[str]:
    """What the servers of a suite are installed from, of all kinds together."""
    return [release.package for kind in KINDS.values() for release in kind.releases if release.suite == suite]
