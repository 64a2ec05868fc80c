"""The servers of a run: named ones of its own, which it may stop, kill and freeze, or the addresses of others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.servers.process import LocalServer
from tests.servers.rabbitmq import LocalRabbitMQ
from tests.servers.redis import LocalRedis

BROKERS: Final = {"rabbitmq": LocalRabbitMQ}
STORES: Final = {"redis": LocalRedis}


class CannotRun(Exception):
    """These servers cannot be had here; the message says why."""


@dataclass(frozen=True)
class Servers:
    """What a scenario runs on.

    Parameters:
        broker_url, store_url: where they are.
        rabbitmq, redis: their processes; ``None`` where they are shared with others and must not be touched.
    """

    broker_url: str
    store_url: str
    rabbitmq: LocalRabbitMQ | None = None
    redis: LocalRedis | None = None

    async def heal(self) -> None:
        """Let those that were frozen go on, and start those that are down."""
        for server in (self.rabbitmq, self.redis):
            if server is not None:
                if server.running:
                    server.resume()
                await server.start()


@asynccontextmanager
async def private_servers(broker: str, store: str, folder: Path) -> AsyncIterator[tuple[Servers, str]]:
    """Start a broker and a store by name; yields them and what they say they are. They end with the block.

    Raises:
        CannotRun: one of them is not to be had here.
    """
    started: list[LocalServer] = []
    try:
        for kinds, name in ((BROKERS, broker), (STORES, store)):
            kind = kinds.get(name)
            if kind is None:
                raise CannotRun(f"no server {name!r}; there are {', '.join(kinds)}")
            missing = kind.missing()
            if missing:
                raise CannotRun(f"{name} cannot be run here: {missing}")
            server: LocalServer = kind(folder / name)
            started.append(server)
            await server.start()
        rabbitmq, redis = started
        assert isinstance(rabbitmq, LocalRabbitMQ)
        assert isinstance(redis, LocalRedis)
        products = f"{await rabbitmq.version()}, {await redis.version()}"
        yield Servers(rabbitmq.url, redis.url, rabbitmq, redis), products
    finally:
        for server in started:
            server.close()
