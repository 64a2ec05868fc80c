"""Servers in containers, by testcontainers, where a Docker engine answers and has or can get the image."""

from __future__ import annotations

import os
import queue
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import docker  # type: ignore[import-untyped]  # docker ships no types
from docker.errors import DockerException, ImageNotFound  # type: ignore[import-untyped]  # the same
from docker.utils import parse_repository_tag  # type: ignore[import-untyped]  # the same
from requests import RequestException
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.servers.process import Unavailable
from tests.servers.undertaker import bury

SILENCE_S: Final = 10.0
"""A pull that reports nothing for so long is given up: without a network the engine may wait for minutes."""

SOCKET: Final = "unix:///var/run/docker.sock"
"""Where an engine is, unless ``DOCKER_HOST`` says otherwise."""

LABEL: Final = "sdqueue.tests"
"""On every container; its value is the folder of the run."""


def ensure_image(image: str) -> None:
    """Have the engine get the image unless it has it.

    Raises:
        Unavailable: no engine answers, or it cannot get the image.
    """
    try:
        _knock(os.environ.get("DOCKER_HOST") or SOCKET)
        client = docker.from_env(timeout=5)
        client.ping()
    except (OSError, DockerException, RequestException) as error:
        raise Unavailable("no Docker engine answers") from error
    try:
        client.images.get(image)
    except ImageNotFound:
        _pull(client, image)
    except (DockerException, RequestException) as error:
        raise Unavailable(f"the Docker engine fails: {error}") from error
    finally:
        client.close()


def _knock(address: str) -> None:
    """See that somebody listens.

    docker-py leaves a socket open whose connection was refused: whichever test the garbage collector runs in is told.
    """
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.settimeout(5)
            knocking.connect(address.removeprefix("unix://"))


def _pull(client: docker.DockerClient, image: str) -> None:
    events: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    repository, tag = parse_repository_tag(image)

    def pull() -> None:
        try:
            for event in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
                events.put(event.get("error", ""))
            events.put(None)
        except (DockerException, RequestException) as error:
            events.put(f"{getattr(error, 'explanation', None) or error}")

    # A daemon, so that a pull that hangs does not keep the process.
    threading.Thread(target=pull, daemon=True, name="docker pull").start()
    while True:
        try:
            event = events.get(timeout=SILENCE_S)
        except queue.Empty:
            raise Unavailable(f"the Docker engine got nothing of {image} in {SILENCE_S:.0f} s") from None
        if event is None:
            return
        if event:
            raise Unavailable(f"the Docker engine cannot get {image}: {event}")


@dataclass(frozen=True)
class Running:
    """A container, with host and port under which its server is reached."""

    container: DockerContainer
    host: str
    port: int

    def check(self) -> None:
        """See that it has not ended.

        Raises:
            Unavailable: it has; the message has the end of its log.
        """
        wrapped = self.container.get_wrapped_container()
        wrapped.reload()
        if wrapped.status not in ("created", "running"):
            log = wrapped.logs(tail=10).decode(errors="replace")
            raise Unavailable(f"the container of {self.container.image} has ended:\n{log}")


def ensure_here() -> None:
    """See that the engine's containers can be in the network of this machine.

    Raises:
        Unavailable: the engine is on another machine, if only a virtual one.
    """
    client = docker.from_env()
    try:
        about = client.info()
    finally:
        client.close()
    if not client.api.base_url.startswith("http+docker://") or "Desktop" in about["OperatingSystem"]:
        raise Unavailable(f"the Docker engine ({about['Name']}) is not on this machine")


def command_of(image: str) -> list[str]:
    """The command that an image runs when none is given; the engine must have it."""
    client = docker.from_env()
    try:
        return list(client.images.get(image).attrs["Config"]["Cmd"] or ())
    finally:
        client.close()


def unstarted(image: str, **options: Any) -> DockerContainer:
    """A container to be configured and started, which goes with this process, however that ends.

    Parameters:
        options: for the engine, as its Python library calls them.
    """
    # Ryuk, testcontainers' own watchdog, would be one more image to get.
    testcontainers_config.ryuk_disabled = True
    name = f"sdqueue-tests-{secrets.token_hex(6)}"
    bury(name)
    return DockerContainer(image, name=name, labels={LABEL: os.environ.get("SDQUEUE_TEST_RUN_FOLDER", "")}, **options)


@contextmanager
def container(image: str, port: int) -> Iterator[Running]:
    """Run the image, publishing its ``port``; nothing may listen there yet.

    Raises:
        Unavailable: it cannot be run.
    """
    ensure_image(image)
    running = unstarted(image).with_exposed_ports(port)
    try:
        running.start()
        address = Running(running, running.get_container_host_ip(), int(running.get_exposed_port(port)))
    except (DockerException, RequestException, ConnectionError, TimeoutError) as error:
        running.stop()
        raise Unavailable(f"{image} does not run: {error}") from error
    try:
        yield address
    finally:
        running.stop()
