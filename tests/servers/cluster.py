"""A cluster of RabbitMQ nodes on this machine, each of which can be killed and come back."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.servers.epmd import Epmd
from tests.servers.rabbitmq import LocalRabbitMQ
from tests.servers.system import MACHINE, System


class RabbitMQCluster:
    """Nodes that form a cluster when they start together for the first time.

    Parameters:
        folder: for the data of all.
        system: has the programs.
        size: how many nodes.
    """

    def __init__(self, folder: Path, system: System = MACHINE, size: int = 3) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._epmd = Epmd(folder, system)
        self.nodes = [LocalRabbitMQ(folder / f"node-{n}", system, epmd=self._epmd) for n in range(size)]
        for node in self.nodes:
            node.members = [node.node for node in self.nodes]
            cookie = node.folder / ".erlang.cookie"
            cookie.write_text(folder.name)
            cookie.chmod(0o400)

    @property
    def url(self) -> str:
        """Its address, with the hosts of all nodes."""
        hosts = ",".join(urlsplit(node.url).netloc.rpartition("@")[2] for node in self.nodes)
        return f"amqp://guest:guest@{hosts}/"

    async def start(self) -> Self:
        """Start the nodes that do not run, and return when all of them know each other.

        Raises:
            ServerFailed: a node does not come up, or does not join.
        """
        for node in self.nodes:
            if node.running:
                node.resume()
        async with asyncio.TaskGroup() as group:
            for node in self.nodes:
                group.create_task(node.start())
        await self.nodes[0].ctl("await_online_nodes", str(len(self.nodes)), "--timeout", "60")
        return self

    async def redundant(self) -> None:
        """Wait until any one node may be lost: every quorum queue has a majority without it."""
        async with asyncio.TaskGroup() as group:
            for node in self.nodes:
                words = ("await_online_quorum_plus_one", "--timeout", "60")
                group.create_task(node.tool("rabbitmq-upgrade", *words))

    def close(self) -> None:
        """Kill all and remove the folder."""
        for node in self.nodes:
            node.close()
        self._epmd.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
