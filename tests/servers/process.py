"""A server process of the tests' own: started, stopped, killed, frozen, and never left behind."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tests.servers.system import MACHINE, System

START_TIMEOUT_S: Final = 60.0
"""RabbitMQ is up in 5 to 11 s on two idle cores; tests share theirs."""

STOP_TIMEOUT_S: Final = 20.0

# Runs a command that the kernel kills as soon as the process that started it is gone, however that ended: the tests
# may be killed with SIGKILL, and then no fixture stops anything. The signal belongs to the thread that started it,
# so servers are started from a thread that stays. Where there is no prctl (macOS), only the fixtures stop servers.
_TIED: Final = """
import ctypes, os, signal, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started this is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class ServerFailed(Exception):
    """A server did not come up; the message has the end of its log."""


class Unavailable(Exception):
    """A source cannot give a server; the message says why."""


def free_port() -> int:
    """A TCP port on which nothing listens, below the range from which the system takes ports for connections.

    A server keeps its port while it is stopped; a port of that range could be taken by a client meanwhile.
    """
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def launch(
    command: Sequence[str | Path], log: Path, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that Ctrl-C does not reach it, tied to this process."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environ, start_new_session=True, cwd=log.parent,
        )  # fmt: skip


async def ended(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Whether the process ends within ``timeout`` seconds. It is no asyncio process: it outlives a test's loop."""
    deadline = asyncio.get_running_loop().time() + timeout
    while process.poll() is None:
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


class PrivateServer(ABC):
    """A server of one test or module, which may do anything to it; address and data stay until :meth:`close`."""

    def __init__(self) -> None:
        self.port = free_port()
        self._was_up = False

    @property
    @abstractmethod
    def url(self) -> str:
        """Its address; the same as long as it lives."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether it runs; a paused one does."""

    @abstractmethod
    async def version(self) -> str:
        """Product and version, asked of the running server.

        Raises:
            Unavailable: it does not answer.
        """

    @abstractmethod
    async def _begin(self) -> None:
        """Start it, without waiting until it answers.

        Raises:
            ServerFailed: it cannot be started.
        """

    async def start(self) -> Self:
        """Start it if it is not running, and return when it answers.

        Raises:
            ServerFailed: it does not come up.
        """
        if self.running:
            return self
        for attempts_left in (2, 1, 0):
            try:
                await self._begin()
                await self._answers()
            except ServerFailed as error:
                await self.kill()
                taken = any(words in f"{error}" for words in ("in use", "eaddrinuse", "already allocated"))
                if self._was_up or not taken or not attempts_left:
                    raise
                self._choose_ports()
            else:
                break
        self._was_up = True
        return self

    async def _answers(self) -> None:
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            if not self.running:
                raise ServerFailed(f"{type(self).__name__} ended while starting:\n{self.log()}")
            try:
                await self.version()
            except Unavailable as why:
                if asyncio.get_running_loop().time() > deadline:
                    raise ServerFailed(f"not up in {START_TIMEOUT_S:.0f} s ({why}):\n{self.log()}") from why
                await asyncio.sleep(0.05)
            else:
                return

    def _choose_ports(self) -> None:
        """Take other ports; two runs may have picked the same one."""
        self.port = free_port()

    @abstractmethod
    async def stop(self) -> None:
        """Stop it in an orderly way; its data stay. Nothing happens if it is not running."""

    @abstractmethod
    async def kill(self) -> None:
        """Kill it as a power cut would; its data stay."""

    async def restart(self) -> None:
        """Stop it and start it again, with the same address and data."""
        await self.stop()
        await self.start()

    @abstractmethod
    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""

    @abstractmethod
    def resume(self) -> None:
        """Let a frozen one go on."""

    @abstractmethod
    def close(self) -> None:
        """Kill it and remove all that it has left."""

    @abstractmethod
    def log(self) -> str:
        """The end of what it has written."""


class LocalServer(PrivateServer):
    """One on a free port of 127.0.0.1, with a folder for its data.

    Parameters:
        folder: an empty folder, or one that does not exist yet.
        system: has the server's programs.
    """

    def __init__(self, folder: Path, system: System = MACHINE) -> None:
        super().__init__()
        self.folder = folder
        self.system = system
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    @abstractmethod
    def missing(cls, system: System = MACHINE) -> str | None:
        """What has to be installed for it, ``None`` if nothing."""

    @abstractmethod
    def _launch(self) -> subprocess.Popen[bytes]:
        """Start the process."""

    async def _begin(self) -> None:
        self._process = self._launch()

    @property
    def running(self) -> bool:
        """Whether the process exists; a paused one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            ServerFailed: it is not running.
        """
        if self._process is None or self._process.poll() is not None:
            raise ServerFailed(f"{type(self).__name__} in {self.folder} is not running")
        return self._process.pid

    async def stop(self) -> None:
        """As in :class:`PrivateServer`."""
        if self._process is not None and self.running:
            self.resume()
            self._process.terminate()
            await ended(self._process, STOP_TIMEOUT_S)
        await self.kill()

    async def kill(self) -> None:
        """As in :class:`PrivateServer`."""
        self._kill()

    def pause(self) -> None:
        """As in :class:`PrivateServer`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """As in :class:`PrivateServer`."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it and remove its folder."""
        self._kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kill(self) -> None:
        reap(self._process)
        self._process = None

    def log(self) -> str:
        """As in :class:`PrivateServer`."""
        lines: list[str] = []
        for path in sorted(self.folder.rglob("*.log")):
            lines += path.read_text(errors="replace").splitlines()[-30:]
        return "\n".join(lines)


def reap(process: subprocess.Popen[bytes] | None) -> None:
    """Kill a process and reap it."""
    if process is not None:
        process.kill()
        process.wait()
