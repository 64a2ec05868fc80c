"""RabbitMQ and Redis as deploy/security sets them up: over TLS, with a user for each role."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from tests.conftest import refuse
from tests.servers.process import free_port, launch
from tests.servers.rabbitmq import CONFIGURATION, LocalRabbitMQ
from tests.servers.redis import LocalRedis, redis_server
from tests.servers.system import System

MAKE: Final = Path(__file__).parents[2] / "deploy" / "security" / "make.py"
ROLES: Final = ("producer", "consumer", "operator", "monitor")

PLUGINS: Final = "[rabbitmq_management].\n"


class Secured:
    """The files that ``make.py`` makes, and two servers that run on them.

    Parameters:
        folder: an empty folder, or one that does not exist yet.
        rabbitmq, redis: the systems of the servers.
        options: of ``make.py``, besides hosts and ports.
    """

    def __init__(self, folder: Path, rabbitmq: System, redis: System, options: Sequence[str] = ()) -> None:
        self.made = folder / "made"
        self.options = options
        folder.mkdir(parents=True, exist_ok=True)
        self.rabbitmq = SecuredRabbitMQ(folder / "rabbitmq", rabbitmq, self)
        self.redis = SecuredRedis(folder / "redis", redis, self)

    def make(self, *more: str) -> None:
        """Run ``make.py`` with the ports that the servers have now."""
        make(
            self.made, "--rabbitmq", "127.0.0.1,localhost", "--redis", "127.0.0.1,localhost",
            "--amqps-port", str(self.rabbitmq.port), "--rediss-port", str(self.redis.port),
            "--management-port", str(self.rabbitmq.management_port), *self.options, *more,
        )  # fmt: skip

    async def start(self) -> None:
        """Start both."""
        await self.rabbitmq.start()
        await self.redis.start()

    def close(self) -> None:
        """Kill both and remove their folders."""
        self.rabbitmq.close()
        self.redis.close()

    def url(self, role: str, kind: str) -> str:
        """The address that a role has of the ``broker`` or the ``store``."""
        return (self.made / role / f"sdqueue_{kind}_url").read_text()

    def settings(self, role: str) -> dict[str, str]:
        """The environment of a process of a role."""
        return {"SDQUEUE_BROKER_URL": self.url(role, "broker"), "SDQUEUE_STORE_URL": self.url(role, "store")}

    def client(self, role: str) -> Redis:
        """A client of Redis as this role, or as ``admin``."""
        user = "admin" if role == "admin" else f"sdqueue-{role}"
        word = (self.made / "passwords" / user).read_text()
        ca = str(self.made / "authority" / "ca.pem")
        return Redis(
            host="127.0.0.1", port=self.redis.port, username=user, password=word, ssl=True, ssl_ca_certs=ca, protocol=2
        )


def make(folder: Path, *options: str) -> str:
    """Run ``make.py`` and return what it says; whatever it says against it is raised."""
    if not shutil.which("openssl"):
        refuse("no openssl", os.environ)
    command = [sys.executable, "-I", "-W", "error", str(MAKE), str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class SecuredRabbitMQ(LocalRabbitMQ):
    """A node with the files of a :class:`Secured`."""

    def __init__(self, folder: Path, system: System, secured: Secured) -> None:
        self._secured = secured
        self.management_port = free_port()
        super().__init__(folder, system)

    @property
    def url(self) -> str:
        """As the monitor: the user that may do least."""
        return self._secured.url("monitor", "broker")

    def definitions(self) -> Any:
        """What it was told of users and rights."""
        return json.loads((self._secured.made / "rabbitmq" / "definitions.json").read_text())

    def _choose_ports(self) -> None:
        super()._choose_ports()
        self.management_port = free_port()

    def _launch(self) -> subprocess.Popen[bytes]:
        self._secured.make()
        ours = [line for line in CONFIGURATION.splitlines() if not line.startswith("listeners.")]
        given = (self._secured.made / "rabbitmq" / "rabbitmq.conf").read_text()
        self._write_configuration("\n".join([*ours, given]), PLUGINS)
        self._epmd.start()
        return launch(self._command("rabbitmq-server"), self.folder / "server.log", self._environment())

    def _write_configuration(self, text: str, plugins: str) -> None:
        (self.folder / "rabbitmq.conf").write_text(text)
        (self.folder / "enabled_plugins").write_text(plugins)


class SecuredRedis(LocalRedis):
    """A Redis with the files of a :class:`Secured`."""

    def __init__(self, folder: Path, system: System, secured: Secured) -> None:
        self._secured = secured
        self.plain_port = free_port()
        """Listens without TLS, on this machine alone, for tests of what the users may do."""
        super().__init__(folder, system)

    def plain(self, role: str) -> str:
        """The address without TLS."""
        who = f"sdqueue-{role}:{(self._secured.made / 'passwords' / f'sdqueue-{role}').read_text()}"
        return f"redis://{who}@127.0.0.1:{self.plain_port}/0"

    def _choose_ports(self) -> None:
        super()._choose_ports()
        self.plain_port = free_port()

    @property
    def url(self) -> str:
        """As the monitor."""
        return self._secured.url("monitor", "store")

    def _launch(self) -> subprocess.Popen[bytes]:
        self._secured.make()
        command = redis_server(self.system)
        assert command is not None
        words = [str(self._secured.made / "redis" / "redis.conf"), "--dir", str(self.folder)]
        words += ["--port", str(self.plain_port), "--appendfsync", "no"]  # hundreds of tests; no machine goes down
        return launch(self.system.command([command, *words], self.folder), self.folder / "server.log")
