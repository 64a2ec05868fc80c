"""Several Redis processes that belong together: a primary with its replica and Sentinel, a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.servers.process import Unavailable, free_port, launch
from tests.servers.redis import redis_server
from tests.servers.system import MACHINE, System

SERVICE: Final = "main"
"""What Sentinel calls the primary."""


@dataclass(frozen=True)
class Sentinel:
    """A primary, a replica and a Sentinel that watches them, by their ports.

    Parameters:
        primary_index: names the primary for :meth:`RedisGroup.kill`.
    """

    primary: int
    replica: int
    sentinel: int
    primary_index: int

    @property
    def url(self) -> str:
        """The address of the service; the first Sentinel that it names is not there, as may happen."""
        return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self.sentinel}/{SERVICE}/0?socket_timeout=1"


class Process(Protocol):
    """What is known of one of them."""

    def kill(self) -> None:
        """As a power cut would."""

    def wait(self) -> Any:
        """Until it is gone."""


class RedisGroup:
    """Redis processes of one test, on free ports of 127.0.0.1.

    Parameters:
        folder: for the data of all; it exists.
        system: has the program.
    """

    def __init__(self, folder: Path, system: System = MACHINE) -> None:
        self.folder = folder
        self._system = system
        self._processes: list[Process] = []

    def launch(self, *options: str, config: str | None = None) -> int:
        """One more; a free port is put in place of ``{port}``. Returns the port."""
        port = free_port()
        folder = self.folder / str(port)
        folder.mkdir()
        words = [word.format(port=port) for word in options]
        if config is not None:
            (folder / "server.conf").write_text(config.format(port=port))
            words = [str(folder / "server.conf"), *words]
        common = ["--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"]
        self._processes.append(self._launch([*words, *common], folder))
        return port

    def _launch(self, words: Sequence[str], folder: Path) -> Process:
        program = redis_server(self._system)
        if program is None:
            raise Unavailable(self._system.lacks("redis-server"))
        return launch(self._system.command([program, *words], folder), folder / "server.log")

    async def sentinel(self) -> Sentinel:
        """A primary that is watched, with a replica that follows it. A dead primary is replaced after half a second."""
        primary = self.launch("--port", "{port}")
        index = len(self._processes) - 1
        await until(ping, primary)
        replica = self.launch(
            "--port", "{port}", "--replicaof", f"127.0.0.1 {primary}", "--repl-diskless-sync-delay", "0"
        )
        sentinel = self.launch(
            "--sentinel",
            config=f"port {{port}}\nsentinel monitor {SERVICE} 127.0.0.1 {primary} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 2000\n",
        )
        await until(_sees_replica, sentinel)
        return Sentinel(primary, replica, sentinel, index)

    async def cluster(self) -> list[int]:
        """Three nodes that serve a third of the slots each; returns their ports."""
        buses = [free_port() for _ in range(3)]
        ports = []
        for bus in buses:
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", str(bus))
            ports.append(self.launch("--port", "{port}", *options))
        for number, port in enumerate(ports):
            await until(ping, port)
            first, last = number * 5462, min(16384, (number + 1) * 5462) - 1
            await command(port, "CLUSTER ADDSLOTSRANGE", first, last)
            await command(port, "CLUSTER MEET", "127.0.0.1", ports[0], buses[0])
        for port in ports:
            await until(_cluster_is_ok, port)
        for port in ports:  # it makes a short start, and would take a node for dead where the machine pauses
            await command(port, "CONFIG SET", "cluster-node-timeout", 60_000)
        return ports

    def kill(self, index: int) -> None:
        """Kill one, by its place in the order of starting, as a power cut would."""
        self._processes[index].kill()
        self._processes[index].wait()

    def close(self) -> None:
        """Kill all."""
        for process in self._processes:
            process.kill()
            process.wait()


async def until(check: Callable[..., Awaitable[Any]], *args: Any, timeout_s: float = 30.0) -> Any:
    """Ask a server again until the answer is true; one that does not answer yet is no error."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                answer = await check(*args)
            except (RedisError, OSError):
                answer = None
            if answer:
                return answer
            await asyncio.sleep(0.05)


async def ping(port: int, **options: Any) -> bool:
    """Whether a server answers."""
    async with Redis(host="127.0.0.1", port=port, **options) as client:
        return bool(await client.ping())


async def command(port: int, *words: Any) -> Any:
    """What a server answers to a command."""
    client: Any = Redis(host="127.0.0.1", port=port)
    async with client:
        return await client.execute_command(*words)


async def _sees_replica(port: int) -> bool:
    client: Any = Redis(host="127.0.0.1", port=port)
    async with client:
        return int((await client.sentinel_masters())[SERVICE]["num-slaves"]) == 1


async def _cluster_is_ok(port: int) -> bool:
    info = await command(port, "CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3")
