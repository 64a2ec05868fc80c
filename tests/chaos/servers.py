"""The servers of a run: named ones of its own, which it may stop, kill and freeze, or the addresses of others."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.servers.cluster import RabbitMQCluster
from tests.servers.kinds import RABBITMQ, REDIS, Kind
from tests.servers.process import ServerFailed, Unavailable
from tests.servers.rabbitmq import LocalRabbitMQ, PrivateRabbitMQ
from tests.servers.redis import LocalRedis, PrivateRedis, version
from tests.servers.redis_group import RedisGroup, Sentinel
from tests.servers.system import System

CLUSTER: Final = "-cluster"
"""Behind a broker's name: three nodes of it."""

SENTINEL: Final = "-sentinel"
"""Behind a store's name: a primary and a replica of it, watched by Sentinel."""

BROKERS: Final = tuple(
    name + more for name in ("rabbitmq", *(r.name for r in RABBITMQ.releases)) for more in ("", CLUSTER)
)
STORES: Final = tuple(name + more for name in ("redis", *(r.name for r in REDIS.releases)) for more in ("", SENTINEL))


class CannotRun(Exception):
    """These servers cannot be had here; the message says why."""


@dataclass(frozen=True)
class Servers:
    """What a scenario runs on.

    Parameters:
        broker_url, store_url: how consumers find them.
        nodes: the nodes of the broker, one or three; empty where it is shared with others and must not be touched.
        redis: the store; ``None`` where it is shared, or a group.
        group, sentinel: the store where it is watched by Sentinel.
        cluster: what the nodes form, if they are several.
    """

    broker_url: str
    store_url: str
    nodes: tuple[PrivateRabbitMQ, ...] = ()
    redis: PrivateRedis | None = None
    group: RedisGroup | None = None
    sentinel: Sentinel | None = None
    cluster: RabbitMQCluster | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The broker's, one for each node, for clients that take only one."""
        return tuple(node.url for node in self.nodes) or (self.broker_url,)

    async def heal(self) -> None:
        """Let those that were frozen go on, and start those that are down."""
        if self.cluster is not None:
            await self.cluster.start()
        for server in (*self.nodes, self.redis):
            if server is not None:
                if server.running:
                    server.resume()
                await server.start()

    async def ctl(self, *words: str) -> None:
        """Run ``rabbitmqctl`` on every node; several listen to those of their own clients only."""
        await asyncio.gather(*(node.ctl(*words) for node in self.nodes))


@asynccontextmanager
async def private_servers(broker: str, store: str, folder: Path) -> AsyncIterator[tuple[Servers, str]]:
    """Start a broker and a store by name; yields them and what they say they are. They end with the block.

    Raises:
        CannotRun: one of them is not to be had here.
    """
    if broker not in BROKERS:
        raise CannotRun(f"no broker {broker!r}; there are {', '.join(BROKERS)}")
    if store not in STORES:
        raise CannotRun(f"no store {store!r}; there are {', '.join(STORES)}")
    rabbitmq_system = _system(RABBITMQ, broker.removesuffix(CLUSTER))
    redis_system = _system(REDIS, store.removesuffix(SENTINEL))
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as closing:
        try:
            if broker.endswith(CLUSTER):
                cluster = RabbitMQCluster(folder / "cluster", rabbitmq_system)
                closing.callback(cluster.close)
                await cluster.start()
                servers = Servers(cluster.url, "", tuple(cluster.nodes), cluster=cluster)
            else:
                rabbitmq = LocalRabbitMQ(folder / "rabbitmq", rabbitmq_system)
                closing.callback(rabbitmq.close)
                await rabbitmq.start()
                servers = Servers(rabbitmq.url, "", (rabbitmq,))
            product = await servers.nodes[0].version()
            if store.endswith(SENTINEL):
                (folder / "redis").mkdir()
                group = RedisGroup(folder / "redis", redis_system)
                closing.callback(group.close)
                sentinel = await group.sentinel()
                servers = replace(servers, store_url=sentinel.url, group=group, sentinel=sentinel)
                store_product = await version(f"redis://127.0.0.1:{sentinel.primary}/0")
            else:
                redis = LocalRedis(folder / "redis", redis_system)
                closing.callback(redis.close)
                await redis.start()
                servers = replace(servers, store_url=redis.url, redis=redis)
                store_product = await redis.version()
        except (ServerFailed, Unavailable) as error:
            raise CannotRun(f"{broker} and {store} cannot be run here: {error}") from error
        nodes = f" ({len(servers.nodes)} nodes)" if servers.cluster else ""
        yield servers, f"{product}{nodes}, {store_product}{' (Sentinel)' if servers.sentinel else ''}"


def _system(kind: Kind, name: str) -> System:
    release = next((r for r in kind.releases if r.name == name), kind.any_release)
    system = release.system(os.environ)
    missing = kind.local.missing(system)
    if missing:
        raise CannotRun(f"{name} cannot be run here: {missing}")
    return system
