"""Where a server comes from: the first source that works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.servers.kinds import KINDS, REDIS, Kind, Release
from tests.servers.process import START_TIMEOUT_S, LocalServer, PrivateServer, ServerFailed, Unavailable
from tests.servers.redis_group import RedisGroup

SOURCES: Final = ("environment", "container", "local")

PRIVATE: Final = ("container", "local")
"""Sources of servers that a test may stop, kill and freeze."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Parameters:
        product: what it says it is, such as ``RabbitMQ 3.10.8``.
        url: its address.
        origin: where it comes from, for people.
        passed_over: why it does not come from an earlier source.
    """

    product: str
    url: str
    origin: str
    passed_over: Sequence[str] = ()

    def __str__(self) -> str:
        """As the run reports it."""
        return f"{self.product} ({self.origin})"


class NoServer(Exception):
    """No source gives the server; the message names each with its reason."""


def sources(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The sources to try, in their order.

    Raises:
        ValueError: ``SDQUEUE_TEST_SOURCES`` names one that does not exist.
    """
    wanted = [name.strip() for name in environ.get("SDQUEUE_TEST_SOURCES", "").split(",") if name.strip()]
    unknown = sorted(set(wanted) - set(SOURCES))
    if unknown:
        raise ValueError(f"SDQUEUE_TEST_SOURCES names {', '.join(unknown)}; there are {', '.join(SOURCES)}")
    return tuple(name for name in SOURCES if not wanted or name in wanted)


def find_source(kind: Kind, environ: Mapping[str, str]) -> tuple[str | None, list[str]]:
    """Where a run will get it, or ``None``, and why not from the sources before; nothing is started.

    Raises:
        ValueError: as :func:`sources`.
    """
    tried: list[str] = []
    for source in sources(environ):
        try:
            return _look(kind, source, environ), tried
        except Unavailable as why:
            tried.append(f"{source}: {why}")
    return None, tried


def find_private_source(kind: Kind, environ: Mapping[str, str]) -> str:
    """Which of :data:`PRIVATE` gives private servers; nothing is started.

    Raises:
        NoServer: none does; the message says why.
        ValueError: as :func:`sources`.
    """
    tried: list[str] = []
    for source in PRIVATE:
        try:
            if source not in sources(environ):
                raise Unavailable("SDQUEUE_TEST_SOURCES excludes it")
            _look(kind, source, environ)
        except Unavailable as why:
            tried.append(f"{source}: {why}")
        else:
            return source
    raise NoServer(f"no {kind.name}: a private instance is needed; {'; '.join(tried)}")


def private_server(kind: Kind, source: str, environ: Mapping[str, str], folder: Path) -> PrivateServer:
    """One from a source that :func:`find_private_source` has found; the caller starts and closes it.

    Parameters:
        folder: for its data, where it is no container.

    Raises:
        Unavailable: the source has it no more.
    """
    if source == "container":
        from tests.servers.contained import CONTAINED  # slow to import, and not always needed

        return CONTAINED[kind.marker](kind.image(environ))
    return _private(kind, kind.release(environ), environ, folder)


def _look(kind: Kind, source: str, environ: Mapping[str, str]) -> str:
    if source == "environment":
        return f"{asyncio.run(_asked(kind, environ))} at {kind.address}"
    if source == "container":
        from tests.servers.containers import ensure_image  # slow to import, and not always needed

        image = kind.image(environ)
        ensure_image(image)
        return f"container {image}"
    system = kind.release(environ).system(environ)
    missing = kind.local.missing(system)
    if missing:
        raise Unavailable(missing)
    return system.place


def private_group(source: str, environ: Mapping[str, str], folder: Path) -> RedisGroup:
    """Redis processes that belong together, as :func:`private_server`."""
    if source == "container":
        from tests.servers.contained import ContainerRedisGroup  # slow to import, and not always needed

        return ContainerRedisGroup(folder, REDIS.image(environ))
    return RedisGroup(folder, REDIS.release(environ).system(environ))


@asynccontextmanager
async def provide(kind: Kind, environ: Mapping[str, str], folder: Path) -> AsyncIterator[Server]:
    """A server of this kind from the first source that works; what was started for it is stopped at the end.

    Parameters:
        folder: for the data of a private instance.

    Raises:
        NoServer: none works.
        ValueError: as :func:`sources`.
    """
    passed_over: list[str] = []
    async with AsyncExitStack() as stack:
        for source in sources(environ):
            try:
                product, url, origin = await stack.enter_async_context(_OPEN[source](kind, environ, folder))
            except (Unavailable, ServerFailed) as why:
                passed_over.append(f"{source}: {why}")
                continue
            yield Server(product, url, origin, tuple(passed_over))
            return
    raise NoServer(f"no {kind.name}: {'; '.join(passed_over)}")


@asynccontextmanager
async def _environment(kind: Kind, environ: Mapping[str, str], _: Path) -> AsyncIterator[tuple[str, str, str]]:
    yield await _asked(kind, environ), environ[kind.address], kind.address


async def _asked(kind: Kind, environ: Mapping[str, str]) -> str:
    """The product at the address in the environment."""
    url = environ.get(kind.address)
    if not url:
        raise Unavailable(f"{kind.address} is not set")
    try:
        product = await kind.version(url)
    except Unavailable as why:
        raise Unavailable(f"the server at {kind.address} does not answer: {why}") from why
    _check(kind, environ, product)
    return product


@asynccontextmanager
async def _container(kind: Kind, environ: Mapping[str, str], _: Path) -> AsyncIterator[tuple[str, str, str]]:
    from tests.servers.containers import container  # slow to import, and not always needed

    image = kind.image(environ)
    with container(image, kind.port) as running:
        url = kind.url.format(host=running.host, port=running.port)
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            try:
                product = await kind.version(url)
                break
            except Unavailable:
                running.check()
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.2)
        _check(kind, environ, product)
        yield product, url, f"container {image}"


@asynccontextmanager
async def _local(kind: Kind, environ: Mapping[str, str], folder: Path) -> AsyncIterator[tuple[str, str, str]]:
    server = _private(kind, kind.release(environ), environ, folder)
    try:
        await server.start()
        product = await server.version()
        _check(kind, environ, product)
        yield product, server.url, server.system.place
    finally:
        server.close()


def _check(kind: Kind, environ: Mapping[str, str], product: str) -> None:
    why_not = kind.release(environ).check(product)
    if why_not:
        raise Unavailable(why_not)


def private(name: str, environ: Mapping[str, str], folder: Path) -> LocalServer:
    """A private instance of a release that the caller starts, stops, kills, freezes and closes.

    Parameters:
        name: of the release, such as ``rabbitmq-4`` or ``valkey-8``; ``rabbitmq`` or ``redis`` for that which the
            environment asks for.
        folder: for its data.

    Raises:
        Unavailable: it cannot be had; the message says what is missing.
        ValueError: there is no such release.
    """
    for kind in KINDS.values():
        if name == kind.marker:
            return _private(kind, kind.release(environ), environ, folder)
        for release in kind.releases:
            if name == release.name:
                return _private(kind, release, environ, folder)
    known = [name for kind in KINDS.values() for name in (kind.marker, *(release.name for release in kind.releases))]
    raise ValueError(f"no server is called {name!r}; there are {', '.join(known)}")


def _private(kind: Kind, release: Release, environ: Mapping[str, str], folder: Path) -> LocalServer:
    system = release.system(environ)
    missing = kind.local.missing(system)
    if missing:
        raise Unavailable(missing)
    return kind.local(folder, system)


_OPEN: Final = {"environment": _environment, "container": _container, "local": _local}
