"""RabbitMQ: a private instance, and what answers at an address."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiormq
from aiormq.exceptions import AMQPError

from tests.servers.epmd import Epmd
from tests.servers.process import LocalServer, PrivateServer, ServerFailed, Unavailable, free_port, launch
from tests.servers.system import MACHINE, System

LIMITS: Final = """
vm_memory_high_watermark.absolute = 1GiB
disk_free_limit.absolute = 1MB
raft.wal_max_size_bytes = 67108864
"""
"""What a private node may use, and can do with; tests that cause an alarm go back to it."""

CONFIGURATION: Final = f"""
listeners.tcp.1 = 127.0.0.1:{{port}}
log.console = false
log.file.level = warning
{LIMITS}"""

MEMBERS: Final = """
cluster_formation.peer_discovery_backend = classic_config
cluster_partition_handling = pause_minority
"""
"""What the nodes of a cluster have besides; their names follow."""


async def version(url: str) -> str:
    """Product and version of the server at ``url``, such as ``RabbitMQ 3.10.8``.

    Raises:
        Unavailable: nothing there answers.
    """
    try:
        async with asyncio.timeout(5):
            await _listens(url)
            connection = await aiormq.connect(url)
            try:
                about = connection.server_properties
            finally:
                await connection.close()
    except (AMQPError, OSError, ValueError) as error:
        raise Unavailable(f"{error}" or type(error).__name__) from error
    return f"{about['product']!s} {about['version']!s}"


async def _listens(url: str) -> None:
    """Fail quietly while nothing listens: the client would log every try. Nor does it count that an engine listens for
    a container whose server does not yet: it hangs up, and the client forgets a coroutine of its own over that."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 5672)
    try:
        writer.write(b"AMQP\0\0\x09\x01")
        if not await reader.read(1):
            raise ConnectionResetError("it hangs up on a greeting")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _scripts(system: System) -> Path | None:
    """Where the real scripts are: the command on Debian's PATH is a wrapper with a user and folders of its own."""
    command = system.find("rabbitmq-server")
    for folder in (Path("/usr/lib/rabbitmq/bin"), command and command.resolve().parent):
        if folder and command and system.has(folder / "rabbitmq-server"):
            return folder
    return None


class PrivateRabbitMQ(PrivateServer):
    """A private RabbitMQ node, wherever it runs."""

    async def version(self) -> str:
        """As :func:`version`."""
        return await version(self.url)

    async def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` on it and return what it says.

        Raises:
            ServerFailed: the command failed; the message has its output.
        """
        return await self.tool("rabbitmqctl", *arguments)

    @abstractmethod
    async def tool(self, script: str, *arguments: str) -> str:
        """Run another of RabbitMQ's commands, as :meth:`ctl`."""


class LocalRabbitMQ(LocalServer, PrivateRabbitMQ):
    """One of this machine's programs, or of another release of Debian.

    Parameters:
        folder, system: as in :class:`LocalServer`.
        epmd: the name server of a cluster that the node is to join; by default it has one of its own.
    """

    def __init__(self, folder: Path, system: System = MACHINE, *, epmd: Epmd | None = None) -> None:
        super().__init__(folder, system)
        self.node = f"sdqueue-{secrets.token_hex(4)}@127.0.0.1"  # a bare machine may not know localhost
        self.members: Sequence[str] = ()
        """The names of all nodes of the cluster, its own among them; empty without a cluster."""
        self._own_epmd = epmd is None
        self._epmd = epmd or Epmd(folder, system)
        self._choose_ports()

    @classmethod
    def missing(cls, system: System = MACHINE) -> str | None:
        """``rabbitmq-server`` with Erlang."""
        if _scripts(system) is None:
            return system.lacks("rabbitmq-server")
        return None if system.find("epmd") else system.lacks("epmd, a part of Erlang,")

    @property
    def url(self) -> str:
        """Its address, the default virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    async def tool(self, script: str, *arguments: str) -> str:
        """As in :class:`PrivateRabbitMQ`."""
        process = await asyncio.create_subprocess_exec(
            *self._command(script, "--quiet", *arguments), env=self._environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output = (await process.communicate())[0].decode(errors="replace")
        if process.returncode:
            raise ServerFailed(f"{script} {' '.join(arguments)} ended with {process.returncode}:\n{output}")
        return output

    def _choose_ports(self) -> None:
        self.port, self._dist_port = free_port(), free_port()
        if self._own_epmd:
            self._epmd.choose_port()

    def _command(self, script: str, *arguments: str) -> list[str]:
        scripts = _scripts(self.system)
        if scripts is None:
            raise Unavailable(self.system.lacks("rabbitmq-server"))
        return self.system.command([scripts / script, *arguments], self.folder)

    def _launch(self) -> subprocess.Popen[bytes]:
        configuration = CONFIGURATION.format(port=self.port)
        if self.members:
            configuration += MEMBERS
            for number, node in enumerate(self.members):
                configuration += f"cluster_formation.classic_config.nodes.{number + 1} = {node}\n"
        (self.folder / "rabbitmq.conf").write_text(configuration)
        (self.folder / "enabled_plugins").write_text("[].\n")
        self._epmd.start()
        return launch(self._command("rabbitmq-server"), self.folder / "server.log", self._environment())

    def _kill(self) -> None:
        super()._kill()
        if self._own_epmd:
            self._epmd.kill()

    def _environment(self) -> dict[str, str]:
        """Nothing of the machine's own RabbitMQ: neither its configuration nor its cookie, node, plugins or data."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return ours | {
            "HOME": str(self.folder),  # the cookie is made there
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_USE_LONGNAME": "true",  # an address is a long name
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self.folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._epmd.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            # Otherwise the script stays as the server's parent, and killing what was started leaves the server.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
