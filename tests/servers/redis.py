"""Redis: a private instance, and what answers at an address."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.servers.process import LocalServer, PrivateServer, Unavailable, launch
from tests.servers.system import MACHINE, System


def redis_server(system: System) -> Path | None:
    """The program of a system, Redis or Valkey."""
    return system.find("redis-server", "valkey-server")


async def version(url: str) -> str:
    """Product and version of the server at ``url``, such as ``Redis 7.0.15``.

    Raises:
        Unavailable: nothing there answers.
    """
    try:
        async with Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3) as client:
            about = await client.info("server")
    except (RedisError, OSError, ValueError) as error:
        raise Unavailable(f"{error}") from error
    if about.get("server_name") == "valkey":
        return f"Valkey {about['valkey_version']}"
    return f"Redis {about['redis_version']}"


class PrivateRedis(PrivateServer):
    """A private Redis, wherever it runs. It appends every write to a file, so that a restart keeps the data."""

    async def version(self) -> str:
        """As :func:`version`."""
        return await version(self.url)

    async def flush(self) -> None:
        """Empty it, as a server that lost its data."""
        async with Redis.from_url(self.url) as client:
            await client.flushall()


DURABLE: Final = {"save": "", "appendonly": "yes", "loglevel": "warning"}
"""The options of a private one."""


class LocalRedis(LocalServer, PrivateRedis):
    """One of this machine's programs, or of another release of Debian."""

    @classmethod
    def missing(cls, system: System = MACHINE) -> str | None:
        """``redis-server`` or ``valkey-server``."""
        return None if redis_server(system) else system.lacks("redis-server")

    @property
    def url(self) -> str:
        """Its address, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _launch(self) -> subprocess.Popen[bytes]:
        command = redis_server(self.system)
        if command is None:
            raise Unavailable(self.system.lacks("redis-server"))
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, **DURABLE}
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        return launch(self.system.command([command, *words], self.folder), self.folder / "server.log")
