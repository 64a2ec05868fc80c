"""deploy/compose as a project of its own, by ``docker compose``."""

from __future__ import annotations

import json
import os
import queue
import secrets
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.deploy.engine import ROOT, Engine, EngineFailed

FOLDER: Final = ROOT / "deploy" / "compose"
AGENT: Final = ROOT / "tests" / "deploy" / "agent"
UP_S: Final = 180.0


class Project:
    """The deployment, under a name and on a port that nothing else has.

    Parameters:
        engine: to run it on.
        image: sdqueue's.
        files: that are added to compose.yaml; :meth:`add` adds one later.
        settings: variables of compose.yaml.
    """

    def __init__(self, engine: Engine, image: str, *, files: Iterable[Path] = (), **settings: str) -> None:
        self.name = f"sdqueue-test-{secrets.token_hex(4)}"
        self._engine = engine
        self._files = [FOLDER / "compose.yaml", *files]
        self._environ = {"SDQUEUE_IMAGE": image, "SDQUEUE_PORT": "0", **settings}

    def add(self, file: Path) -> None:
        """Another file, which counts from the next :meth:`up`."""
        self._files.append(file)

    def compose(self, *arguments: str, timeout_s: float = 60.0) -> str:
        """``docker compose`` with these arguments; returns what it prints.

        Raises:
            EngineFailed: it did not end with 0 in time; the message has the logs of all services.
        """
        try:
            return self._engine.run(*self._words(*arguments), timeout_s=timeout_s, environ=self._environ)
        except EngineFailed as error:
            raise EngineFailed(f"{error}\n{self.logs(tail=25)}") from None

    def up(self, *options: str) -> None:
        """Bring all of it up, and wait until it is healthy; the image is there."""
        self.compose("up", "--no-build", "--wait", *options, timeout_s=UP_S)

    def exec(self, service: str, *command: str, timeout_s: float = 60.0) -> str:
        """Run a command in a container of the service; returns what it prints."""
        return self.compose("exec", "-T", service, *command, timeout_s=timeout_s)

    def logs(self, *services: str, tail: int = 1000) -> str:
        """What they have printed."""
        said = self._engine.attempt(*self._words("logs", "--no-color", f"--tail={tail}", *services))
        return said.stdout + said.stderr

    def containers(self, service: str = "", *, stopped: bool = False) -> list[str]:
        """The containers of a service, or of all."""
        return self.compose("ps", "--quiet", *["--all"] * stopped, *[service] * bool(service)).split()

    def inspect(self, container: str) -> dict[str, Any]:
        """What the engine knows about a container."""
        (found,) = json.loads(self._engine.run("inspect", container))
        assert isinstance(found, dict)
        return found

    def crash(self, container: str, image: str) -> None:
        """SIGKILL its first process from outside, as the kernel does when memory is short: ``docker kill`` would count
        as the wish to have it stopped."""
        pid = self.inspect(container)["State"]["Pid"]
        kill = f"import os; os.kill({pid}, 9)"
        self._engine.run("run", "--rm", "--pid=host", "--user=0", "--entrypoint=python", image, "-c", kill)

    def healthy(self, service: str, count: int, *, within_s: float = 90.0) -> None:
        """Wait until so many containers of the service are healthy.

        Raises:
            EngineFailed: they are not in time.
        """
        deadline = time.monotonic() + within_s
        while True:
            states = [self.inspect(container)["State"] for container in self.containers(service)]
            if sum(state["Health"]["Status"] == "healthy" for state in states) == count:
                return
            if time.monotonic() > deadline:
                raise EngineFailed(
                    f"{service} is not healthy in {within_s:g} s: {states}\n{self.logs(service, tail=40)}"
                )
            time.sleep(0.5)

    def url(self) -> str:
        """Where the producer is reached."""
        return f"http://127.0.0.1:{self.compose('port', 'producer', '8080').rpartition(':')[2]}"

    def left(self) -> dict[str, list[str]]:
        """What there is of the project, by kind."""
        mine = f"--filter=label=com.docker.compose.project={self.name}"
        listed = {
            "containers": self._engine.run("ps", "--all", "--quiet", mine),
            "networks": self._engine.run("network", "ls", "--quiet", mine),
            "volumes": self._engine.run("volume", "ls", "--quiet", mine),
        }
        return {kind: lines.split() for kind, lines in listed.items() if lines}

    def remove(self) -> None:
        """Stop it and remove everything of it."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout=10", timeout_s=UP_S)

    @contextmanager
    def load(self, *options: str) -> Iterator[Running]:
        """A load, in a container beside those of the consumers; it ends with the block."""
        words = self._words(
            "run", "--rm", "--no-deps", "--no-TTY", f"--volume={ROOT / 'tests'}:/load/tests:ro",
            "--env=PYTHONPATH=/load", "--entrypoint=python", "consumer", "-m", "tests.deploy.load", *options,
        )  # fmt: skip
        environ = {**os.environ, **self._environ}
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [self._engine.client, *words], env=environ, stdin=pipe, stdout=pipe, text=True
        ) as process:
            running = Running(process)
            try:
                yield running
            finally:
                process.terminate()
                running.close()

    def _words(self, *arguments: str) -> list[str]:
        files = [f"--file={file}" for file in self._files]
        return [
            "compose",
            "--progress=plain",
            f"--project-name={self.name}",
            "--env-file=/dev/null",
            *files,
            *arguments,
        ]


class Running:
    """A load that has begun."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._last = "0"
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def answers(self, more: int, *, within_s: float = 120.0) -> None:
        """Wait until so many more turns are answered.

        Raises:
            EngineFailed: they are not in time.
        """
        while not self._lines.empty():
            self._next(time.monotonic(), "more answers")
        wanted = int(self._last) + more
        deadline = time.monotonic() + within_s
        while int(self._last) < wanted:
            self._next(deadline, f"{more} answers more")

    def finish(self, *, within_s: float = 150.0) -> dict[str, Any]:
        """Send no more, wait for the answers; returns what was sent and what came."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        deadline = time.monotonic() + within_s
        while not self._last.startswith("{"):
            self._next(deadline, "its end")
        evidence = json.loads(self._last)
        assert isinstance(evidence, dict)
        return evidence

    def close(self) -> None:
        """Return when nothing reads any more."""
        self._reader.join()

    def _next(self, deadline: float, what: str) -> None:
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise EngineFailed(f"the load has not come to {what} in time; answered: {self._last}") from None
        if line is None:
            raise EngineFailed(f"the load has ended with {self._process.wait()} before {what}")
        self._last = line.strip() or self._last

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)
