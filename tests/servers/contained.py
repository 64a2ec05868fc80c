"""Private servers in containers: what :mod:`.rabbitmq` and :mod:`.redis` start as processes, where an engine runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from docker.errors import APIError, DockerException, NotFound  # type: ignore[import-untyped]  # docker ships no types
from requests import RequestException
from testcontainers.core.container import DockerContainer

from tests.servers.containers import command_of, ensure_here, ensure_image, unstarted
from tests.servers.process import STOP_TIMEOUT_S, PrivateServer, ServerFailed
from tests.servers.rabbitmq import LIMITS, PrivateRabbitMQ
from tests.servers.redis import DURABLE, PrivateRedis
from tests.servers.redis_group import Process, RedisGroup


class ContainerServer(PrivateServer):
    """One container, whose port is published as the same one whenever it runs; its data are in it.

    Parameters:
        image: the engine has it or can get it.

    Raises:
        Unavailable: no engine answers, or it cannot get the image.
    """

    INSIDE: int
    """The port on which the server listens in the container."""

    def __init__(self, image: str) -> None:
        super().__init__()
        ensure_image(image)
        self.image = image
        self._running: DockerContainer | None = None
        self._host = "localhost"

    def _prepare(self, container: DockerContainer) -> None:
        """Give a new container what its server needs."""

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self._host}:{self.port}"

    @property
    def _container(self) -> Any:
        """The engine's; it must exist."""
        assert self._running is not None, f"{type(self).__name__} was not started"
        return self._running.get_wrapped_container()

    @property
    def _status(self) -> str:
        """As the engine says it: ``running``, ``paused``, ``exited`` …; empty where there is no container."""
        if self._running is None:
            return ""
        try:
            self._container.reload()
        except NotFound:
            return ""
        return str(self._container.status)

    @property
    def running(self) -> bool:
        """As in :class:`PrivateServer`."""
        return self._status in ("running", "paused")

    async def _begin(self) -> None:
        try:
            if self._running is None:
                await asyncio.to_thread(self._create)
            else:
                await asyncio.to_thread(self._container.start)
        except (DockerException, RequestException) as error:
            if not self._was_up:
                self._remove()  # its port cannot be changed any more
            raise ServerFailed(f"{self.image} does not run: {error}") from error

    def _create(self) -> None:
        container = unstarted(self.image).with_bind_ports(self.INSIDE, self.port)
        self._prepare(container)
        self._running = container
        container.start()
        self._host = container.get_container_host_ip()

    async def stop(self) -> None:
        """As in :class:`PrivateServer`."""
        if self.running:
            self.resume()
            await asyncio.to_thread(self._container.stop, timeout=int(STOP_TIMEOUT_S))

    async def kill(self) -> None:
        """As in :class:`PrivateServer`. The engine kills no paused one."""
        if self.running:
            self.resume()
            await asyncio.to_thread(self._end)

    def _end(self) -> None:
        try:
            self._container.kill()
            self._container.wait(timeout=STOP_TIMEOUT_S)
        except (APIError, RequestException):
            if self.running:
                raise

    def pause(self) -> None:
        """As in :class:`PrivateServer`."""
        self._container.pause()

    def resume(self) -> None:
        """As in :class:`PrivateServer`."""
        if self._status == "paused":
            self._container.unpause()

    def close(self) -> None:
        """As in :class:`PrivateServer`."""
        self._remove()

    def _remove(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None

    def log(self) -> str:
        """As in :class:`PrivateServer`."""
        if not self._status:
            return ""
        return str(self._container.logs(tail=30).decode(errors="replace"))


class ContainerRabbitMQ(ContainerServer, PrivateRabbitMQ):
    """A private RabbitMQ node in a container."""

    INSIDE = 5672

    @property
    def url(self) -> str:
        """Its address, the default virtual host."""
        return f"amqp://guest:guest@{self.address}/"

    def _prepare(self, container: DockerContainer) -> None:
        container.with_copy_into_container(LIMITS.encode(), "/etc/rabbitmq/conf.d/90-tests.conf", 0o644)

    async def tool(self, script: str, *arguments: str) -> str:
        """As in :class:`PrivateRabbitMQ`."""
        result = await asyncio.to_thread(self._container.exec_run, [script, "--quiet", *arguments])
        output = str(result.output.decode(errors="replace"))
        if result.exit_code:
            raise ServerFailed(f"{script} {' '.join(arguments)} ended with {result.exit_code}:\n{output}")
        return output


class ContainerRedis(ContainerServer, PrivateRedis):
    """A private Redis or Valkey in a container."""

    INSIDE = 6379

    @property
    def url(self) -> str:
        """Its address, database 0."""
        return f"redis://{self.address}/0"

    def _prepare(self, container: DockerContainer) -> None:
        # Redis and Valkey call their programs differently.
        container.with_command(
            [*command_of(self.image), *(word for name, value in DURABLE.items() for word in (f"--{name}", value))]
        )


class ContainerRedisGroup(RedisGroup):
    """Redis processes that find each other, and are found, on 127.0.0.1: containers in the machine's own network.

    Parameters:
        folder: seen by all of them under the same path.
        image: the engine has it or can get it.

    Raises:
        Unavailable: no engine answers, it cannot get the image, or it is on another machine.
    """

    def __init__(self, folder: Path, image: str) -> None:
        super().__init__(folder)
        ensure_image(image)
        ensure_here()
        self._image = image

    def _launch(self, words: Sequence[str], folder: Path) -> Process:
        user = f"{os.getuid()}:{os.getgid()}"
        container = unstarted(self._image, network_mode="host", user=user, entrypoint=[])
        container.with_command([command_of(self._image)[0], *words])
        container.with_volume_mapping(str(self.folder), str(self.folder), "rw")
        return _Contained(container.start())


class _Contained:
    """One of them."""

    def __init__(self, container: DockerContainer) -> None:
        self._container = container

    def kill(self) -> None:
        """As a power cut would, and nothing where that has been done."""
        with contextlib.suppress(NotFound):
            self._container.stop()  # which is removal by force

    def wait(self) -> None:
        """Nothing is left to wait for."""


CONTAINED: Final[dict[str, Callable[[str], ContainerServer]]] = {
    "rabbitmq": ContainerRabbitMQ, "redis": ContainerRedis,
}  # fmt: skip
"""The classes by the marker of their kind."""
