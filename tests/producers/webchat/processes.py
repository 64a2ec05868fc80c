"""The processes of a web chat: ``sdqueue producer`` and ``sdqueue consumer``, real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.producers.webchat.stand import BACKEND, SECRET
from tests.servers.process import free_port


class Pool:
    """A producer on a port of its own and a consumer; either may be killed and begun again."""

    def __init__(self, folder: Path, backends: Mapping[str, str], **settings: str) -> None:
        self.folder = folder
        self.gate = folder / "gate"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {
            **os.environ, "SDQUEUE_WEBCHAT_SECRETS": SECRET, "SDQUEUE_WEBCHAT_BACKEND_SECRETS": BACKEND,
            "SDQUEUE_WEBCHAT_ANONYMOUS": "true", "SDQUEUE_WEBCHAT_ANONYMOUS_PER_MINUTE": "1000",
            "SDQUEUE_WEBCHAT_MESSAGES_PER_MINUTE": "1000", "WEBCHAT_GATE": str(self.gate), **backends,
            **{f"SDQUEUE_{name.upper()}": value for name, value in settings.items()},
        }  # fmt: skip
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.start("consumer")
        self.start("producer")
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in list(self._running):
            self.kill(name)

    def start(self, name: str, port: int = 0) -> None:
        """Begin a process and wait until it says that it is ready; ``producer…`` or ``consumer…``."""
        command = [sys.executable, "-m", "sdqueue.cli"]
        if name.startswith("producer"):
            command += ["producer", "--channels", "webchat", "--producer-port", str(port or self.port)]
        else:
            command += ["consumer", "--agent", "tests.producers.webchat.agent:answer"]
        with (self.folder / f"{name}.log").open("ab") as log:
            where = log.tell()
            self._running[name] = subprocess.Popen(command, env=self.environ, stdout=log, stderr=log)
        deadline = time.monotonic() + 40
        while b" ready" not in (said := (self.folder / f"{name}.log").read_bytes()[where:]):
            if self._running[name].poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{name} did not start:\n{said.decode()}")
            time.sleep(0.05)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a process at once."""
        process = self._running.pop(name)
        process.send_signal(number)
        process.wait(40)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


def sqlite(folder: Path) -> dict[str, str]:
    """Backends of one machine."""
    return {
        "SDQUEUE_BROKER_URL": f"sqlite:///{folder}/broker.db",
        "SDQUEUE_STORE_URL": f"sqlite:///{folder}/store.db",
    }
