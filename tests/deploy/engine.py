"""The Docker engine as the tests of deployments use it: build an image, run containers, wait for what they do.

All of it blocks; a test that talks to a container meanwhile calls it by ``asyncio.to_thread``.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.servers.pip import pip_settings
from tests.servers.process import Unavailable

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = ROOT / "deploy" / "image" / "Dockerfile"

IMAGE_VARIABLE: Final = "SDQUEUE_TEST_IMAGE"
"""Names an image of sdqueue that is there already, and is tried instead of one that is built."""

PYTHON_IMAGE_VARIABLE: Final = "SDQUEUE_TEST_PYTHON_IMAGE"
"""Names the image that sdqueue's is built on."""

BUILD_TIMEOUT_S: Final = 900.0
"""About 50 s on two cores; a slow package index takes longer."""

AUTHORITIES: Final = Path("/etc/ssl/certs/ca-certificates.crt")


class EngineFailed(Exception):
    """A command of Docker's has failed; the message has what it said."""


class Engine:
    """An engine that answers, by a client that can build with BuildKit.

    Raises:
        Unavailable: there is none.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = {**environ, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
        self.client = _client(environ)
        try:
            self.run("version", timeout_s=20)
        except EngineFailed as error:
            raise Unavailable(f"no Docker engine answers: {error}") from error

    def run(self, *arguments: str | Path, timeout_s: float = 60.0, environ: Mapping[str, str] | None = None) -> str:
        """Run ``docker`` with these arguments; returns its output without white space around it.

        Raises:
            EngineFailed: it did not end with 0 in time.
        """
        result = self.attempt(*arguments, timeout_s=timeout_s, environ=environ)
        if result.returncode:
            said = "\n".join((result.stdout + result.stderr).splitlines()[-40:])
            raise EngineFailed(f"docker {' '.join(map(str, arguments))} ended with {result.returncode}:\n{said}")
        return result.stdout.strip()

    def attempt(
        self, *arguments: str | Path, timeout_s: float = 60.0, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``docker`` with these arguments, whatever comes of it.

        Raises:
            EngineFailed: it did not end in time.
        """
        try:
            return subprocess.run(
                [self.client, *arguments], env={**self._environ, **(environ or {})}, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=timeout_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise EngineFailed(f"docker {' '.join(map(str, arguments))} took more than {timeout_s:g} s") from error

    def build(
        self,
        tag: str,
        dockerfile: Path = DOCKERFILE,
        context: Path = ROOT,
        *,
        arguments: Mapping[str, str] | None = None,
        no_cache: bool = False,
    ) -> str:
        """Build an image, on the machine's own network and with the machine's package index; returns what was said.

        Parameters:
            tag: its name.
            dockerfile: what to do.
            context: what goes to the engine.
            arguments: of the build.
            no_cache: do everything again.

        Raises:
            EngineFailed: it cannot be built.
        """
        given = {k: v for k, v in self._environ.items() if k.lower() in ("http_proxy", "https_proxy", "no_proxy")}
        if base := self._environ.get(PYTHON_IMAGE_VARIABLE):
            given["PYTHON_IMAGE"] = base
        options = [f"--build-arg={name}={value}" for name, value in {**given, **(arguments or {})}.items()]
        if no_cache:
            options.append("--no-cache")
        with TemporaryDirectory() as folder:
            result = self.attempt(
                "build", "--network=host", *options, *_pip_secrets(Path(folder)), "--tag", tag, "--file", dockerfile,
                context, timeout_s=BUILD_TIMEOUT_S,
            )  # fmt: skip
        if result.returncode:
            raise EngineFailed(f"{dockerfile} cannot be built:\n" + "\n".join(result.stderr.splitlines()[-40:]))
        return result.stderr

    def has(self, image: str) -> bool:
        """Whether the engine has the image already."""
        return not self.attempt("image", "inspect", image).returncode

    def image(self) -> str:
        """The name of sdqueue's image: built from this folder, where no other one is named by the environment.

        Raises:
            EngineFailed: it cannot be built.
            Unavailable: the image that it is built on is not there and cannot be pulled.
        """
        if named := self._environ.get(IMAGE_VARIABLE):
            return named
        from tests.servers.containers import ensure_image  # slow to import, and not always needed

        ensure_image(self._environ.get(PYTHON_IMAGE_VARIABLE) or "python:3.13-slim")
        tag = f"sdqueue-test:{hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]}"
        self.build(tag)
        return tag

    @contextmanager
    def container(
        self, image: str, *command: str, options: Sequence[str] = (), name: str | None = None
    ) -> Iterator[Container]:
        """Run a container in the background; it and its anonymous volumes are gone afterwards.

        Parameters:
            image: its image.
            command: what to run in it, or the arguments of its entry point.
            options: of ``docker run``, such as ``--read-only``.
            name: under which others in its network know it. Default: a random one.

        Raises:
            EngineFailed: it does not start.
        """
        name = name or f"sdqueue-test-{secrets.token_hex(4)}"
        running = Container(self, name)
        try:
            self.run("run", "--detach", "--name", name, *options, image, *command)
            yield running
        finally:
            self.attempt("rm", "--force", "--volumes", name)

    @contextmanager
    def network(self) -> Iterator[str]:
        """A network of its own, in which containers know each other by name; yields its name."""
        name = f"sdqueue-test-{secrets.token_hex(4)}"
        self.run("network", "create", name)
        try:
            yield name
        finally:
            self.attempt("network", "rm", name)

    @contextmanager
    def volume(self) -> Iterator[str]:
        """A volume; yields its name."""
        name = f"sdqueue-test-{secrets.token_hex(4)}"
        self.run("volume", "create", name)
        try:
            yield name
        finally:
            self.attempt("volume", "rm", "--force", name)


class Container:
    """A container of :meth:`Engine.container`."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name

    def inspect(self) -> dict[str, Any]:
        """What the engine knows about it."""
        (found,) = json.loads(self._engine.run("inspect", self.name))
        assert isinstance(found, dict)
        return found

    def logs(self) -> str:
        """What it has printed, to both outputs."""
        result = self._engine.attempt("logs", self.name)
        return result.stdout + result.stderr

    def exec(self, *command: str, options: Sequence[str] = (), timeout_s: float = 60.0) -> str:
        """Run a command in it; returns what it prints.

        Raises:
            EngineFailed: it did not end with 0 in time.
        """
        return self._engine.run("exec", *options, self.name, *command, timeout_s=timeout_s)

    def port(self, inside: int) -> int:
        """The port of this machine on which one of the container's is published."""
        return int(self._engine.run("port", self.name, f"{inside}/tcp").splitlines()[0].rpartition(":")[2])

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, and SIGKILL ``timeout_s`` later; returns the exit code."""
        self._engine.run("stop", "--time", f"{timeout_s:.0f}", self.name, timeout_s=timeout_s + 30)
        return self.ended(timeout_s=5)

    def signal(self, name: str) -> None:
        """Send a signal, such as ``KILL``, to its first process."""
        self._engine.run("kill", f"--signal={name}", self.name)

    def ended(self, timeout_s: float = 60.0) -> int:
        """Wait for its end; returns the exit code.

        Raises:
            EngineFailed: it has not ended in time.
        """
        return int(self._engine.run("wait", self.name, timeout_s=timeout_s))

    def printed(self, text: str, timeout_s: float = 90.0) -> str:
        """Wait until it has printed the text; returns all that it printed.

        Raises:
            EngineFailed: it ends before, or has not in time.
        """
        return self._until(lambda state, logs: text in logs, f"has not printed {text!r}", timeout_s)

    def healthy(self, timeout_s: float = 120.0) -> None:
        """Wait until its health check succeeds.

        Raises:
            EngineFailed: it ends before, or has not in time; the message has what the check said.
        """
        self._until(lambda state, logs: state["Health"]["Status"] == "healthy", "is not healthy", timeout_s)

    def unhealthy(self, timeout_s: float = 120.0) -> None:
        """Wait until its health check has failed as often as makes it unhealthy.

        Raises:
            EngineFailed: as :meth:`healthy`.
        """
        self._until(lambda state, logs: state["Health"]["Status"] == "unhealthy", "is not unhealthy", timeout_s)

    def _until(self, met: Callable[[Mapping[str, Any], str], bool], otherwise: str, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        while True:
            state, logs = self.inspect()["State"], self.logs()
            if met(state, logs):
                return logs
            running = state["Status"] in ("created", "running", "paused")
            if not running or time.monotonic() > deadline:
                checks = [f"{c['ExitCode']}: {c['Output']}" for c in (state.get("Health") or {}).get("Log") or ()]
                said = "\n".join([*logs.splitlines()[-20:], *checks])
                when = f"in {timeout_s:g} s" if running else f"and has ended with {state['ExitCode']}"
                raise EngineFailed(f"{self.name} {otherwise} {when}:\n{said}")
            time.sleep(0.2)


def _client(environ: Mapping[str, str]) -> str:
    """The first client on the path that builds with BuildKit: a Docker of 20 to 22 does, a later one by a plugin."""
    found = []
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        client = shutil.which("docker", path=folder)
        if client is None:
            continue
        asked = subprocess.run([client, "--version"], capture_output=True, text=True, check=False).stdout
        release = asked.removeprefix("Docker version ").partition(".")[0]
        plugin = subprocess.run([client, "buildx", "version"], capture_output=True, env=dict(environ), check=False)
        if plugin.returncode == 0 or (release.isdecimal() and 20 <= int(release) < 23):
            return client
        found.append(f"{client} has no BuildKit; install Docker's buildx plugin")
    raise Unavailable("; ".join(found) or "no docker command is installed")


def _pip_secrets(folder: Path) -> list[str]:
    """The options of a build with which pip in it gets packages as pip of this machine does."""
    settings, options = pip_settings(), []
    if AUTHORITIES.exists():  # the machine may know authorities that the image does not
        settings["cert"] = "/run/secrets/ca"
        options.append(f"--secret=id=ca,src={AUTHORITIES}")
    configuration = folder / "pip.conf"
    configuration.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    return [*options, f"--secret=id=pip,src={configuration}"]
