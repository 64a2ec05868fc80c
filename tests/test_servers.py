"""The tests' own servers: where they come from, what a run says of it, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiormq
import pytest
from aiormq.exceptions import ChannelNotFoundEntity
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.conftest import refuse
from tests.servers import containers, debian, install
from tests.servers.kinds import RABBITMQ, REDIS, Kind
from tests.servers.process import LocalServer, ServerFailed, Unavailable, free_port
from tests.servers.provide import NoServer, find_private_source, private, provide, sources
from tests.servers.rabbitmq import LocalRabbitMQ, PrivateRabbitMQ
from tests.servers.redis import LocalRedis, PrivateRedis

ROOT = Path(__file__).parents[1]


def processes_of(folder: Path) -> list[int]:
    """Live processes that work in this folder or below."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve().is_relative_to(folder.resolve()):
                found.append(int(process.name))
        except OSError:
            continue  # it has just ended, or is another user's
    return found


async def expect_no_process(folder: Path) -> None:
    """Erlang's helper processes notice within a moment that their server is gone."""
    async with asyncio.timeout(60):
        while processes_of(folder):
            await asyncio.sleep(0.02)


async def expect_no_run_folder(folder: Path) -> None:
    """The last process of a run removes its folder."""
    async with asyncio.timeout(60):
        while list(folder.glob("sdqueue-tests-*")):
            await asyncio.sleep(0.02)


def local(kind: Kind, folder: Path) -> LocalServer:
    """A private instance of this machine's programs, wherever those of other tests come from."""
    if "local" not in sources(os.environ):
        pytest.skip(f"about a {kind.name} of this machine, and SDQUEUE_TEST_SOURCES excludes local")
    try:
        return private(kind.marker, os.environ, folder)
    except Unavailable as why:
        refuse(f"no {kind.name}: an instance of this machine is needed, and {why}", os.environ)


# Where servers come from


def test_sources_are_tried_in_the_documented_order() -> None:
    assert sources({}) == ("environment", "container", "local")


def test_sources_can_be_chosen_and_keep_their_order() -> None:
    assert sources({"SDQUEUE_TEST_SOURCES": "local, environment"}) == ("environment", "local")


@pytest.mark.parametrize("kind", [RABBITMQ, REDIS])
def test_an_image_can_be_named_and_is_otherwise_that_of_the_release(kind: Kind) -> None:
    """So that images of another registry, or another server, can be tried."""
    assert kind.image({}) == kind.any_release.image
    assert kind.image({"SDQUEUE_TEST_SERVERS": "trixie"}) == kind.releases[1].image
    named = {kind.image_variable: "mine/server:1", "SDQUEUE_TEST_SERVERS": "trixie"}
    assert kind.image(named) == "mine/server:1"


async def test_a_named_image_is_what_the_engine_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here of an engine that is not there: shared and private servers say so, and nothing else is tried."""
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    asked: list[str] = []
    ensure = containers.ensure_image
    monkeypatch.setattr(containers, "ensure_image", lambda image: (asked.append(image), ensure(image)))
    environ = {"SDQUEUE_TEST_SOURCES": "container", "SDQUEUE_TEST_REDIS_IMAGE": "mine/server:1"}
    with pytest.raises(NoServer, match="no Redis: container: no Docker engine answers"):
        async with provide(REDIS, environ, tmp_path):
            pass
    with pytest.raises(NoServer, match="container: no Docker engine answers; local: SDQUEUE_TEST_SOURCES excludes it"):
        find_private_source(REDIS, environ)
    assert asked == ["mine/server:1", "mine/server:1"]


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(ValueError, match="moon"):
        sources({"SDQUEUE_TEST_SOURCES": "local,moon"})


async def test_an_address_in_the_environment_comes_first(redis_url: str, tmp_path: Path) -> None:
    environ = {"SDQUEUE_TEST_REDIS_URL": redis_url}
    async with provide(REDIS, environ, tmp_path) as server:
        assert (server.url, server.origin) == (redis_url, "SDQUEUE_TEST_REDIS_URL")
        assert str(server) == f"{server.product} (SDQUEUE_TEST_REDIS_URL)"
        assert server.passed_over == ()


@pytest.mark.redis
async def test_an_address_that_does_not_answer_is_passed_over_and_named(tmp_path: Path) -> None:
    gone = local(REDIS, tmp_path / "gone")  # a free port
    environ = {"SDQUEUE_TEST_REDIS_URL": gone.url, "SDQUEUE_TEST_SOURCES": "environment,local"}
    async with provide(REDIS, environ, tmp_path / "redis") as server:
        assert server.origin == "local instance"
        assert server.url != gone.url
        assert "SDQUEUE_TEST_REDIS_URL does not answer" in server.passed_over[0]
    await expect_no_process(tmp_path)


# Releases


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, ("", "")),
        ({"SDQUEUE_TEST_SERVERS": "trixie"}, ("rabbitmq-4", "valkey-8")),
        ({"SDQUEUE_TEST_SERVERS": "bookworm"}, ("rabbitmq-3", "redis-7")),
        ({"SDQUEUE_TEST_SERVERS": "bookworm", "SDQUEUE_TEST_RABBITMQ": "4"}, ("rabbitmq-4", "redis-7")),
        ({"SDQUEUE_TEST_RABBITMQ": "rabbitmq-3", "SDQUEUE_TEST_REDIS": "valkey-8"}, ("rabbitmq-3", "valkey-8")),
    ],
)
def test_releases_are_asked_for_by_name_or_all_of_a_suite(environ: dict[str, str], names: tuple[str, str]) -> None:
    assert (RABBITMQ.release(environ).name, REDIS.release(environ).name) == names


@pytest.mark.parametrize("environ", [{"SDQUEUE_TEST_SERVERS": "sid"}, {"SDQUEUE_TEST_RABBITMQ": "5"}])
def test_an_unknown_release_is_named(environ: dict[str, str]) -> None:
    ((variable, value),) = environ.items()
    with pytest.raises(ValueError, match=f"{variable} is '{value}'; there are"):
        RABBITMQ.release(environ)


async def test_a_server_of_another_release_is_passed_over_and_named(redis_url: str, tmp_path: Path) -> None:
    product = await REDIS.version(redis_url)
    other = "redis-7" if product.startswith("Valkey") else "valkey-8"
    environ = {"SDQUEUE_TEST_REDIS_URL": redis_url, "SDQUEUE_TEST_SOURCES": "environment", "SDQUEUE_TEST_REDIS": other}
    with pytest.raises(NoServer, match=f"it is {product}, and {other} is asked for"):
        async with provide(REDIS, environ, tmp_path):
            pass


def test_a_release_that_is_not_here_says_what_would_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "cannot_enter", lambda: None)
    release = debian.Debian("trixie", {"SDQUEUE_TEST_CACHE": str(tmp_path)})
    assert (
        LocalRedis.missing(release) == f"Debian trixie is not in {tmp_path}; `make servers SERVERS=trixie` installs it"
    )
    monkeypatch.setattr(debian, "cannot_enter", lambda: "only root can")
    assert LocalRabbitMQ.missing(release) == "only root can"


def test_a_release_that_cannot_be_installed_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mirror is tried, and what the last one said is told."""
    if why_not := debian.cannot_enter() or (None if shutil.which("debootstrap") else "debootstrap is not installed"):
        pytest.skip(why_not)
    mirrors = [f"http://127.0.0.1:{free_port()}/debian" for _ in range(2)]
    monkeypatch.setattr(debian, "mirrors", lambda: mirrors)
    release = debian.Debian("trixie", {"SDQUEUE_TEST_CACHE": str(tmp_path)})
    with pytest.raises(Unavailable, match=mirrors[1]):
        release.install(["valkey-server"])
    assert [path.name for path in tmp_path.iterdir()] == ["trixie.lock"]


def test_the_mirrors_of_the_machine_come_before_debians() -> None:
    assert debian.mirrors()[-1] == "http://deb.debian.org/debian"


async def test_a_server_of_another_release_is_its_own_process_and_mounts_nothing_on_the_machine(tmp_path: Path) -> None:
    try:
        server = private("valkey-8", os.environ, tmp_path / "valkey")
    except Unavailable as why:
        pytest.skip(f"{why}")
    await server.start()
    assert (await server.version()).startswith("Valkey 8.")
    assert processes_of(server.folder) == [server.pid]
    assert f"{debian.Debian('trixie', os.environ).root}" not in Path("/proc/self/mounts").read_text()
    server.close()
    assert processes_of(tmp_path) == []


def test_the_matrix_says_what_it_did_not_run_and_why() -> None:
    """Given no source that could give a server, then it does not fail, and nothing is silent."""
    environ = {**os.environ, "SDQUEUE_TEST_SOURCES": "environment", "SDQUEUE_TEST_AMQP_URL": ""}
    result = subprocess.run(
        [sys.executable, "-m", "tests.servers.matrix", "trixie", "--short"],
        cwd=ROOT, env=environ, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    said = "trixie, the short form: NOT RUN: no rabbitmq-4 (environment: SDQUEUE_TEST_AMQP_URL is not set)"
    assert said in result.stdout


async def test_without_any_source_every_reason_is_given(tmp_path: Path) -> None:
    with pytest.raises(NoServer, match=r"no RabbitMQ: environment: SDQUEUE_TEST_AMQP_URL is not set"):
        async with provide(RABBITMQ, {"SDQUEUE_TEST_SOURCES": "environment"}, tmp_path):
            pass


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_machine_without_a_docker_engine_is_told_at_once_and_nothing_is_left_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    where = f"tcp://127.0.0.1:{free_port()}" if kind == "tcp" else f"unix://{tmp_path}/none.sock"
    monkeypatch.setenv("DOCKER_HOST", where)
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("ignore")
        gc.collect()  # what other tests have left
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(Unavailable, match="no Docker engine answers"):
            containers.ensure_image("redis:7")
        gc.collect()
    assert [str(warning.message) for warning in left] == []


def test_an_engine_that_gets_nothing_of_an_image_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine without a network may wait for minutes before it says so."""

    class Engine:
        class api:
            @staticmethod
            def pull(*_: object, **__: object) -> list[dict[str, str]]:
                silence.wait()
                return []

    silence = threading.Event()
    monkeypatch.setattr(containers, "SILENCE_S", 0.05)
    with pytest.raises(Unavailable, match="got nothing of redis:7"):
        containers._pull(Engine(), "redis:7")
    silence.set()


def test_make_test_installs_servers_and_never_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a machine of root's with Debian and nothing else, then CI alone would install an engine, by .ci/."""
    installed: list[str] = []
    monkeypatch.setenv("SDQUEUE_TEST_SERVERS", "")
    monkeypatch.setenv("SDQUEUE_TEST_SOURCES", "")
    monkeypatch.setattr(install, "find_source", lambda *_: (None, ["container: no Docker engine answers"]))
    monkeypatch.setattr(install, "cannot_install", lambda: None)
    monkeypatch.setattr(install.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(install, "install", installed.extend)

    assert install.main() == 0

    assert set(installed) == {"rabbitmq-server", "redis-server", "openssl", *install.BROWSER}
    assert ".ci" not in (ROOT / "Makefile").read_text()


def test_no_service_is_started_by_an_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(install, "POLICY", policy)
    with install.services_off():
        assert subprocess.run([policy], check=False).returncode == 101
    assert not policy.exists()


def test_a_policy_that_exists_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("of the owner")
    monkeypatch.setattr(install, "POLICY", policy)
    with install.services_off():
        assert policy.read_text() == "of the owner"
    assert policy.read_text() == "of the owner"


# What a run does without a server


@pytest.mark.parametrize("environ", [{}, {"CI": ""}])
def test_a_missing_server_skips(environ: dict[str, str]) -> None:
    with pytest.raises(pytest.skip.Exception, match="no Redis"):
        refuse("no Redis: not installed", environ)


def test_a_missing_server_fails_in_ci() -> None:
    with pytest.raises(pytest.fail.Exception, match="no Redis"):
        refuse("no Redis: not installed", {"CI": "1"})


INNER = """
def test_shared(redis_url): assert redis_url
def test_private(private_redis): assert private_redis
def test_free(namespace): assert namespace
"""


def inner(tmp_path: Path, *arguments: str, test: str = INNER, **environ: str) -> subprocess.CompletedProcess[str]:
    """A run of its own, by default of three tests, two of which need a server."""
    (tmp_path / "test_inner.py").write_text(test)
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SDQUEUE", "CI"))}
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider",
        "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), *arguments, str(tmp_path / "test_inner.py"),
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=ROOT, env={**ours, "TMPDIR": str(tmp_path), **environ}, text=True, check=False, timeout=100,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_a_run_without_servers_skips_loudly(tmp_path: Path) -> None:
    result = inner(tmp_path, SDQUEUE_TEST_SOURCES="environment")
    assert result.returncode == 0, result.stdout
    assert "1 passed, 2 skipped" in result.stdout
    assert "2 TESTS NOT RUN" in result.stdout
    assert "no Redis: " in result.stdout


def test_a_run_without_servers_fails_in_ci(tmp_path: Path) -> None:
    result = inner(tmp_path, SDQUEUE_TEST_SOURCES="environment", CI="true")
    assert result.returncode == 1, result.stdout
    assert "1 passed, 2 errors" in result.stdout


@pytest.mark.redis
@pytest.mark.parametrize("workers", [0, 2])
async def test_a_run_says_which_server_it_uses_and_leaves_nothing(tmp_path: Path, workers: int) -> None:
    """With workers too, although the one that asked for the server may end before the other."""
    local(REDIS, tmp_path / "not-started")
    result = inner(tmp_path, *(["-n", str(workers)] if workers else []), SDQUEUE_TEST_SOURCES="local")
    assert result.returncode == 0, result.stdout
    assert "3 passed" in result.stdout
    assert "sdqueue servers: " in result.stdout
    assert "(local instance), private Redis (local)" in result.stdout
    await expect_no_process(tmp_path)
    await expect_no_run_folder(tmp_path)


DIES = """
import os, signal
from pathlib import Path


async def test_dies(redis_url, private_redis):
    Path(PID_FILE).write_text(str((await private_redis()).pid))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.redis
async def test_a_run_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    """No fixture runs after SIGKILL: the keeper of the shared server sees it, the kernel ends the private one."""
    local(REDIS, tmp_path / "not-started")
    dies = DIES.replace("PID_FILE", repr(str(tmp_path / "pid")))

    killed = inner(tmp_path, test=dies, SDQUEUE_TEST_SOURCES="local")

    assert killed.returncode == -signal.SIGKILL, killed.stdout
    await expect_no_process(tmp_path)
    assert not Path("/proc", (tmp_path / "pid").read_text(), "exe").exists()
    await expect_no_run_folder(tmp_path)


# Private servers


async def test_a_private_redis_stops_starts_and_keeps_its_data(
    private_redis: Callable[..., Awaitable[PrivateRedis]],
) -> None:
    server = await private_redis()
    url = server.url
    async with Redis.from_url(url) as client:
        await client.set("key", "value")
    for end in (server.stop, server.kill):
        await end()
        assert not server.running
        async with Redis.from_url(url) as client:
            with pytest.raises(RedisConnectionError):
                await client.ping()

        await server.start()
        assert server.url == url
        async with Redis.from_url(url) as client:
            assert await client.get("key") == b"value"
    await server.flush()
    async with Redis.from_url(url) as client:
        assert await client.get("key") is None


async def test_a_paused_redis_does_not_answer_until_it_goes_on(
    private_redis: Callable[..., Awaitable[PrivateRedis]],
) -> None:
    server = await private_redis()
    async with Redis.from_url(server.url) as client:
        await client.ping()
        server.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.echo("late"), 0.2)
        server.resume()
    async with Redis.from_url(server.url) as client:
        assert await client.ping()


async def test_a_private_server_is_running_for_the_next_test_whatever_was_done_to_it(
    private_redis: Callable[..., Awaitable[PrivateRedis]],
) -> None:
    server = await private_redis()
    server.pause()
    assert await (await private_redis()).version()
    await server.kill()
    assert await private_redis() is server
    assert await server.version()


async def test_a_private_rabbitmq_restarts_with_its_queues_and_is_controlled(
    private_rabbitmq: Callable[..., Awaitable[PrivateRabbitMQ]],
) -> None:
    server = await private_rabbitmq()
    assert (await server.version()).startswith("RabbitMQ ")
    connection = await aiormq.connect(server.url)
    channel = await connection.channel()
    await channel.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
    await connection.close()

    await server.restart()

    assert (await server.ctl("list_queues", "name")).split() == ["name", "kept"]
    with pytest.raises(ServerFailed, match="rabbitmqctl no_such_command ended with"):
        await server.ctl("no_such_command")


@pytest.mark.rabbitmq
async def test_a_closed_server_leaves_neither_process_nor_folder(tmp_path: Path) -> None:
    """RabbitMQ brings epmd and two helpers along."""
    server = await local(RABBITMQ, tmp_path / "server").start()
    assert server.pid in processes_of(server.folder)
    server.close()
    await expect_no_process(server.folder)
    assert not server.folder.exists()


# Namespaces


LEAVES = """
from pathlib import Path

import aiormq
from redis.asyncio import Redis


async def test_leaves(namespace, amqp_url, redis_url):
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    for name in (f"{namespace}.turns.0003", f"{namespace}.replies.slack"):
        await channel.queue_declare(name, durable=True)
    await channel.queue_declare("of-somebody-else", exclusive=True)
    await channel.exchange_declare(f"{namespace}.replies", exchange_type="topic", durable=True)
    await connection.close()
    async with Redis.from_url(redis_url) as client:
        await client.set(f"{namespace}:{{user-42}}:record", "x")
        await client.set(f"prefix:{namespace}", "x")
    Path(NAME_FILE).write_text(namespace)
"""


async def test_what_a_test_leaves_under_its_namespace_is_deleted(tmp_path: Path, amqp_url: str, redis_url: str) -> None:
    test = LEAVES.replace("NAME_FILE", repr(str(tmp_path / "name")))

    result = inner(tmp_path, test=test, SDQUEUE_TEST_AMQP_URL=amqp_url, SDQUEUE_TEST_REDIS_URL=redis_url)

    assert result.returncode == 0, result.stdout
    assert "(SDQUEUE_TEST_AMQP_URL)" in result.stdout
    namespace = (tmp_path / "name").read_text()
    async with Redis.from_url(redis_url) as client:
        assert await client.keys(f"*{namespace}*") == []
    connection = await aiormq.connect(amqp_url)
    for queue in (f"{namespace}.turns.0003", f"{namespace}.replies.slack"):
        with pytest.raises(ChannelNotFoundEntity):
            await (await connection.channel()).queue_declare(queue, passive=True)
    with pytest.raises(ChannelNotFoundEntity):
        await (await connection.channel()).exchange_declare(f"{namespace}.replies", passive=True)
    await connection.close()
