"""Fixtures of all tests: servers that the run shares, servers of a test's own, and a namespace for each test."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
from hypothesis import HealthCheck, settings

from tests import schedule
from tests.servers.cluster import RabbitMQCluster
from tests.servers.kinds import KINDS, RABBITMQ, REDIS, Kind
from tests.servers.namespaces import clear_rabbitmq, clear_redis, declarations
from tests.servers.process import PrivateServer, Unavailable
from tests.servers.provide import NoServer, private_group, private_server, sources
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.redis import PrivateRedis
from tests.servers.redis_group import RedisGroup
from tests.servers.run import Run
from tests.servers.system import System

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # superdialog's import would fetch a list of prices

FOLDER: Final = "SDQUEUE_TEST_RUN_FOLDER"
"""Tells the workers of pytest-xdist where the run's servers are written down."""

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
"""A machine that stands still for a moment makes no example wrong."""

RUN: Final = pytest.StashKey[Run]()

SHARED: Final = {"amqp_url": RABBITMQ, "redis_url": REDIS}

NEEDS: Final = {
    **SHARED, "private_rabbitmq": RABBITMQ, "rabbitmq_cluster": RABBITMQ, "private_redis": REDIS, "redis_group": REDIS,
}  # fmt: skip

Private = PrivateServer | RabbitMQCluster


# The run


def pytest_configure(config: pytest.Config) -> None:
    """Begin the run, or join it as a worker."""
    if hasattr(config, "workerinput"):
        config.stash[RUN] = Run(Path(os.environ[FOLDER]))
    else:
        config.stash[RUN] = Run.begin()
        os.environ[FOLDER] = str(config.stash[RUN].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what the run started, also after Ctrl-C."""
    if RUN in config.stash and not hasattr(config, "workerinput"):
        config.stash[RUN].end()


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by the servers that they need: by their fixtures, or by a parameter of the marker's name.

    Workers get them in the order in which they should be taken.
    """
    for item in items:
        for kind in _needed(item, NEEDS):
            item.add_marker(kind.marker)
    if hasattr(config, "workerinput"):
        items[:] = schedule.in_order(items, config.rootpath)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around everything that looks at the source of a failure
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no garbage be collected while a failure is described.

    Python 3.11 loses count in ``ast.parse`` when garbage that is collected in the middle of it prints a traceback,
    which parses too; the SystemError would end the whole run without a word about the test.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """What ``-n auto`` means; the environment decides first."""
    return None if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") else schedule.workers()


@pytest.hookimpl(tryfirst=True)  # before the collection is reported
def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the shared servers that the chosen tests need, together, and outside of any test's time limit."""
    if session.config.option.collectonly:
        return
    kinds = {kind for item in session.items for kind in _needed(item, SHARED)}
    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(session.config.stash[RUN].get, kind) for kind in kinds]:
            try:
                future.result()
            except NoServer:
                continue  # the fixture skips or fails each test that needs it


def _needed(item: pytest.Item, fixtures: Mapping[str, Kind]) -> set[Kind]:
    """What a test needs by these fixtures, or by a parameter with the name of a marker: the fixture that takes the
    parameter then asks for the address by itself."""
    names = getattr(item, "fixturenames", ())
    words = item.callspec.id.split("-") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    return {fixtures[name] for name in names if name in fixtures} | {KINDS[word] for word in words if word in KINDS}


def _report(config: pytest.Config) -> list[str]:
    servers = config.stash[RUN].servers()
    reasons = (reason for server in servers for reason in server.passed_over)
    passed_over = dict.fromkeys(reason for reason in reasons if not reason.endswith("is not set"))
    private = config.stash[RUN].private_sources()
    told = [f"private {KINDS[marker].name} ({source})" for marker, source in private.items()]
    return (
        [f"sdqueue servers: {', '.join([*map(str, servers), *told])}"] * bool(servers or told)
        + [f"  passed over: {'; '.join(passed_over)}"] * bool(passed_over)
    )  # fmt: skip


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say where the servers come from."""
    return _report(config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say it again where the workers collected, and say loudly which tests were skipped for want of a server."""
    lines = _report(config)
    if lines:
        terminalreporter.section("servers")
        terminalreporter.write_line("\n".join(lines))
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", ())]
    reasons = [str(where[2]) for where in skipped if isinstance(where, tuple)]
    for name in (*(kind.name for kind in KINDS.values()), "browser"):
        without = [reason for reason in reasons if f"no {name}: " in reason]
        if without:
            terminalreporter.section(f"{len(without)} TESTS NOT RUN", yellow=True, bold=True)
            terminalreporter.write_line(without[0].removeprefix("Skipped: "), yellow=True)


def refuse(reason: str, environ: Mapping[str, str]) -> NoReturn:
    """A test cannot have its server: skip it, but fail it in CI, where nobody reads what was skipped."""
    if environ.get("CI"):
        pytest.fail(f"{reason} (CI is set, so this fails)", pytrace=False)
    pytest.skip(reason)


# Shared servers


def _url(config: pytest.Config, kind: Kind) -> str:
    try:
        return config.stash[RUN].get(kind).url
    except NoServer as error:
        refuse(f"{error}", os.environ)


@pytest.fixture(scope="session")
def amqp_url(pytestconfig: pytest.Config) -> str:
    """The address of the run's RabbitMQ."""
    return _url(pytestconfig, RABBITMQ)


@pytest.fixture(scope="session")
def redis_url(pytestconfig: pytest.Config) -> str:
    """The address of the run's Redis."""
    return _url(pytestconfig, REDIS)


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own; what it made under it in the shared servers is deleted afterwards."""
    name = f"t-{secrets.token_hex(4)}"
    run = request.config.stash[RUN]
    with declarations() as (queues, exchanges):
        yield name
    used = run.used
    if RABBITMQ.marker in used and (queues or request.node.get_closest_marker(RABBITMQ.marker)):
        _await(clear_rabbitmq(used[RABBITMQ.marker].url, name, queues, exchanges))
    if REDIS.marker in used:
        _await(clear_redis(used[REDIS.marker].url, name))


def _await(work: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop and thread of its own, whatever state the test has left its loop in."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


# Servers of a test's own


def system_of(kind: Kind) -> System:
    """Where the programs of servers come from that are started with files of the test's own, or form a cluster.

    A test that cannot have them is refused; it is skipped in a run that is to be on containers alone.
    """
    if "local" not in sources(os.environ):
        pytest.skip(f"it starts {kind.name} by its programs, and SDQUEUE_TEST_SOURCES excludes local")
    system = kind.release(os.environ).system(os.environ)
    missing = kind.local.missing(system)
    if missing:
        refuse(f"no {kind.name}: its programs are needed, and {missing}", os.environ)
    return system


class PrivateServers:
    """The private servers of a module by kind and name; all are closed after its last test."""

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        self._make_folder = make_folder
        self._servers: dict[tuple[str, str], Private] = {}

    def get(self, kind: str, name: str, make: Callable[[Path], Private]) -> Private:
        if (kind, name) not in self._servers:
            self._servers[kind, name] = make(self._make_folder(f"{kind}-{name}"))
        return self._servers[kind, name]

    def close(self) -> None:
        for server in self._servers.values():
            server.close()


@pytest.fixture(scope="module")
def private_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateServers]:
    servers = PrivateServers(tmp_path_factory.mktemp)
    yield servers
    servers.close()


def _private_source(kind: Kind, config: pytest.Config) -> str:
    try:
        return config.stash[RUN].private_source(kind)
    except NoServer as error:
        refuse(f"{error}", os.environ)


def _private(kind: Kind, config: pytest.Config, servers: PrivateServers) -> Callable[..., Awaitable[Any]]:
    source = _private_source(kind, config)

    def make(folder: Path) -> PrivateServer:
        return private_server(kind, source, os.environ, folder)

    async def get(name: str = "main") -> Private:
        server = await servers.get(kind.marker, name, make).start()
        if isinstance(server, PrivateServer):
            server.resume()
        return server

    return get


@pytest.fixture
def private_rabbitmq(
    pytestconfig: pytest.Config, private_servers: PrivateServers
) -> Callable[..., Awaitable[PrivateRabbitMQ]]:
    """``await private_rabbitmq()``: a RabbitMQ that the test may stop, kill or freeze.

    It starts in 5 to 11 s, so the tests of a module share the one of a name, running again whatever was done to it.
    """
    return _private(RABBITMQ, pytestconfig, private_servers)


@pytest.fixture
def rabbitmq_cluster(private_servers: PrivateServers) -> Callable[..., Awaitable[RabbitMQCluster]]:
    """``await rabbitmq_cluster()``: three nodes, all up; a module's tests share them."""
    system = system_of(RABBITMQ)

    async def get(name: str = "main") -> RabbitMQCluster:
        cluster = private_servers.get("cluster", name, lambda folder: RabbitMQCluster(folder, system))
        assert isinstance(cluster, RabbitMQCluster)
        return await cluster.start()

    return get


@pytest.fixture
def private_redis(
    pytestconfig: pytest.Config, private_servers: PrivateServers
) -> Callable[..., Awaitable[PrivateRedis]]:
    """``await private_redis()``: a Redis that the test may stop, kill, freeze or empty; a module's tests share it."""
    return _private(REDIS, pytestconfig, private_servers)


@pytest.fixture
def redis_group(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[RedisGroup]:
    """Redis processes that belong together, for this test alone: Sentinel, a cluster."""
    try:
        group = private_group(_private_source(REDIS, pytestconfig), os.environ, tmp_path)
    except Unavailable as why:
        refuse(f"no Redis: a group of them is needed, and {why}", os.environ)
    yield group
    group.close()
    # redis-py leaves the connections to nodes that are gone to the garbage collector, which would complain in
    # some later test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
