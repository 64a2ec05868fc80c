"""Erlang's name server, by which RabbitMQ nodes and their commands find each other."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.servers.process import Unavailable, free_port, launch, reap
from tests.servers.system import System


class Epmd:
    """A private one, so that nothing of it is shared with the machine's own RabbitMQ, or left.

    Parameters:
        folder: for its log.
        system: has the program.
    """

    def __init__(self, folder: Path, system: System) -> None:
        self.port = free_port()
        self._folder = folder
        self._system = system
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it unless it runs.

        Raises:
            Unavailable: the system has none.
        """
        program = self._system.find("epmd")
        if program is None:
            raise Unavailable(self._system.lacks("epmd, a part of Erlang,"))
        if self._process is None:
            words = [program, "-port", str(self.port), "-address", "127.0.0.1"]
            self._process = launch(self._system.command(words, self._folder), self._folder / "epmd.log")

    def kill(self) -> None:
        """Kill it; it can be started again, on another port after :meth:`choose_port`."""
        reap(self._process)
        self._process = None

    def choose_port(self) -> None:
        """Take another port."""
        self.port = free_port()
