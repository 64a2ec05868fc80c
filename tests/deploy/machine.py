"""Machine: one that systemd has booted, with sdqueue installed as deploy/systemd/README.md says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.deploy.engine import PYTHON_IMAGE_VARIABLE, Container, Engine, EngineFailed
from tests.servers.containers import ensure_image

DOCKERFILE: Final = Path(__file__).with_name("systemd.Dockerfile")
IMAGE: Final = "sdqueue-test-systemd"

# Not --privileged: an engine in a sandbox may lack some right that it would ask for.
OPTIONS: Final = (
    "--network=none", "--cap-add=ALL", "--cap-drop=SYS_RESOURCE", "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined", "--tmpfs=/run", "--tmpfs=/tmp:exec", "--cgroupns=host",
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
)  # fmt: skip

PATIENCE_S: Final = 60.0

ASK: Final = """
import json, sys, urllib.request
session, text = sys.argv[1:]
with open("/etc/sdqueue/credentials/openai_keys") as file:
    key = json.load(file)["me"]
body = {"model": "sdqueue", "messages": [{"role": "user", "content": text}], "user": session}
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8080/v1/chat/completions", json.dumps(body).encode(), headers)
with urllib.request.urlopen(request, timeout=90) as answer:
    print(json.load(answer)["choices"][0]["message"]["content"])
"""


class Machine:
    """Runs commands on it, as root."""

    def __init__(self, engine: Engine, container: Container) -> None:
        self._engine = engine
        self._container = container

    def run(self, command: str, *, timeout_s: float = 120.0) -> str:
        """Run a line of shell in a clone of the repository; returns what it prints.

        Raises:
            EngineFailed: it did not end with 0 in time.
        """
        return self._container.exec("sh", "-ec", command, options=["--workdir=/src"], timeout_s=timeout_s)

    def follow(self, page: Path, title: str = "") -> None:
        """Do what a page says, word by word.

        Parameters:
            page: has blocks of shell.
            title: of the one section that is followed. Default: all of them.
        """
        text = page.read_text()
        if title:
            text = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            self.run(block, timeout_s=300)

    def write(self, path: str, text: str) -> None:
        """Put a file there."""
        self._container.exec("sh", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"', "write", path, text)

    def ask(self, session: str, text: str) -> str:
        """Ask through the front door, and wait for the answer."""
        return self._container.exec("python3", "-c", ASK, session, text, timeout_s=100)

    def asking(self, session: str, text: str) -> subprocess.Popen[str]:
        """Ask, and do not wait."""
        command = [self._engine.client, "exec", self._container.name, "python3", "-c", ASK, session, text]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run(f"systemctl show --property={name} --value '{unit}'")

    def journal(self, unit: str) -> str:
        """What a unit has written since the machine was booted."""
        entries = self.run(f"journalctl --boot --unit='{unit}' --output=json --no-pager").splitlines()
        return "\n".join(str(json.loads(entry)["MESSAGE"]) for entry in entries)

    def until(self, what: Callable[[], bool], otherwise: Callable[[], str] = str) -> None:
        """Wait for something.

        Raises:
            EngineFailed: it has not come.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            if time.monotonic() > deadline:
                raise EngineFailed(f"it has not come in {PATIENCE_S:g} s: {otherwise()}")
            time.sleep(0.2)

    def boot(self) -> None:
        """Off and on again; without power it keeps what is on its disk."""
        self._container.stop(60)
        self._engine.run("start", self._container.name)
        self.booted()

    def booted(self) -> None:
        """Wait until systemd says that all is started."""

        def up() -> bool:
            state = self._engine.attempt("exec", self._container.name, "systemctl", "is-system-running").stdout.strip()
            return state in ("running", "degraded")  # a container has no kernel modules to load

        self.until(up, self._container.logs)


@contextmanager
def machine(engine: Engine) -> Iterator[Machine]:
    """One without sdqueue, which is gone afterwards.

    Raises:
        EngineFailed: it cannot be made.
        Unavailable: the image that it is built on is not there and cannot be pulled.
    """
    ensure_image(os.environ.get(PYTHON_IMAGE_VARIABLE) or "python:3.13-slim")
    engine.build(IMAGE, DOCKERFILE)
    with engine.container(IMAGE, options=OPTIONS) as container:
        made = Machine(engine, container)
        made.booted()
        yield made
