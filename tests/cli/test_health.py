"""Probes: what a process says while what it needs is away, while it is blocked, and while it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.cli.place import PATIENCE_S, Place, expect_began, expect_end, expect_line
from tests.cli.probing import Probe
from tests.cli.producing import expect_file, install, producer
from tests.servers.process import LocalServer
from tests.servers.rabbitmq import LocalRabbitMQ
from tests.servers.redis import LocalRedis

pytestmark = pytest.mark.timeout(300)  # many processes begin, one after the other

BLOCKING = """
import time, pathlib

async def blocking(text, history):
    pathlib.Path("began").write_text(text)
    while not pathlib.Path("go").exists():
        time.sleep(0.05)
    return "at last"
"""

Servers = dict[str, LocalServer]

NOTICED_S = 20.0
"""Seconds in which it is noticed that a backend hangs. Heartbeats of RabbitMQ would tell it after 25 s."""


@pytest.fixture
async def servers(
    private_rabbitmq: Callable[..., Awaitable[LocalRabbitMQ]], private_redis: Callable[..., Awaitable[LocalRedis]]
) -> Servers:
    rabbitmq, redis = await asyncio.gather(private_rabbitmq(), private_redis())
    return {"broker": rabbitmq, "store": redis}


def settings(servers: Servers, namespace: str, probe: Probe) -> dict[str, str]:
    return {
        **probe.env,
        "SDQUEUE_BROKER_URL": servers["broker"].url,
        "SDQUEUE_STORE_URL": servers["store"].url,
        "SDQUEUE_NAMESPACE": namespace,
    }


async def health(place: Place, probe: Probe, *arguments: str) -> tuple[int, str]:
    result = await place.run("health", "--timeout", f"{PATIENCE_S}", *arguments, env=probe.env)
    return result.code, result.out + result.err


async def expect_health(place: Place, probe: Probe, code: int, words: str, *arguments: str) -> str:
    """Ask until it is so: a server that has much to do may be a reason meanwhile."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            told, said = await health(place, probe, *arguments)
            if told == code and words in said:
                return said


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("away", "trouble", "reason"),
    [
        ("broker", "pause", "broker: "),
        ("broker", "kill", "broker: "),
        ("store", "pause", "Redis"),
        ("store", "kill", "Redis"),
    ],
)
async def test_a_consumer_is_not_ready_while_a_backend_is_away_and_lives_on(
    place: Place, servers: Servers, namespace: str, away: str, trouble: str, reason: str
) -> None:
    probe, server = Probe(), servers[away]
    process = await place.start("consumer", env=settings(servers, namespace, probe))
    await expect_line(process, " ready: ")
    await probe.expect("/readyz", 200)
    await expect_health(place, probe, 0, "ready\n")
    # RabbitMQ 3.10 may leave a quorum queue dead for ever that is killed in the moment after its declaration.
    await asyncio.sleep(3)

    try:
        server.pause() if trouble == "pause" else await server.kill()
        refused = await probe.expect("/readyz", 503, reason, within=NOTICED_S)
        assert refused.body["status"] == "not-ready"
        await probe.expect_stays("/healthz", 200, 4)
        await probe.expect_stays("/readyz", 503, 1)
        said = await expect_health(place, probe, 1, reason)
        assert said.startswith("not-ready: ")
        await expect_health(place, probe, 0, "alive\n", "--live")
    finally:
        server.resume() if trouble == "pause" else await server.start()
    await probe.expect("/readyz", 200)


async def test_before_the_broker_is_up_a_consumer_lives_and_is_not_ready(place: Place) -> None:
    probe = Probe()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"amqp://guest:hunter2@127.0.0.1:{taken.getsockname()[1]}/"
        process = await place.start("consumer", "--broker-url", url, env=probe.env)
        answer = await probe.expect("/readyz", 503, "starting; ")
        assert "was not reached" in answer.reasons
        assert "hunter2" not in answer.reasons
        assert (await probe.ask("/healthz")).body == {"status": "alive"}
        process.terminate()
        assert await expect_end(process) == 0


async def test_without_a_topology_a_consumer_says_what_is_missing(place: Place) -> None:
    probe = Probe()
    await place.start("consumer", env={**probe.env, "SDQUEUE_APPLY": "false"})
    await probe.expect("/readyz", 503, "run `sdqueue topology apply`")
    assert (await place.run("topology", "apply")).code == 0
    await probe.expect("/readyz", 200)


async def test_a_consumer_that_only_stands_by_is_ready(place: Place, redis_url: str, namespace: str) -> None:
    """Given one partition, which is the first one's, and two that have none."""
    env = {"SDQUEUE_PARTITIONS": "1", "SDQUEUE_NAMESPACE": namespace, "SDQUEUE_LOCK_URL": redis_url}
    for _ in range(3):
        probe = Probe()
        process = await place.start("consumer", env=env | probe.env)
        await expect_line(process, " ready: ")
        await probe.expect("/readyz", 200)


@pytest.mark.parametrize("kind", ["consumer", "producer"])
async def test_a_blocked_event_loop_is_told_from_without(place: Place, kind: str) -> None:
    """Given an agent, or a channel, that computes in the loop past the limit, until all of this was asked."""
    probe = Probe()
    env = probe.env | {"SDQUEUE_BLOCKED_LIMIT_S": "2"}
    if kind == "consumer":
        (place.folder / "busy.py").write_text(BLOCKING)
        process = await place.start("consumer", "--agent", "busy:blocking", env=env)
        await expect_line(process, " ready: ")
        assert (await place.run("send", "u", "hello")).code == 0
    else:
        install(place)
        channel = place.folder / "pub_channel.py"
        channel.write_text(f"{channel.read_text()}\n{BLOCKING}\nPub.receive = lambda self, request: blocking('', [])\n")
        process, url = await producer(place, env=env)
        asyncio.get_running_loop().run_in_executor(
            None, lambda: httpx.post(f"{url}/pub", content=b"{}", timeout=PATIENCE_S, trust_env=False)
        )
    await expect_began(place, process)

    answer = await probe.expect("/healthz", 503, "the event loop has not turned for")
    assert "the limit is 2 s" in answer.reasons
    assert answer.body["status"] == "blocked"
    assert (await health(place, probe, "--live"))[0] == 1
    assert "the event loop has not answered" in (await probe.expect("/readyz", 503)).reasons
    (place.folder / "go").write_text("")
    await probe.expect("/healthz", 200)
    await probe.expect("/readyz", 200)


async def test_while_it_drains_a_consumer_lives_and_is_not_ready(place: Place) -> None:
    probe = Probe()
    process = await place.start("consumer", "--agent", "agents:gated", "--grace-s", "600", env=probe.env)
    await expect_line(process, " ready: ")
    assert (await place.run("send", "u", "hello")).code == 0
    await expect_began(place, process)

    process.send_signal(signal.SIGTERM)
    await probe.expect("/readyz", 503, "stopping")
    await probe.expect_stays("/healthz", 200, 1)
    (place.folder / "go").write_text("")
    assert await expect_end(process) == 0
    assert (await health(place, probe))[0] == 1


@pytest.mark.chaos
async def test_a_producer_takes_turns_without_the_store_but_not_without_the_broker(
    place: Place, servers: Servers, namespace: str
) -> None:
    """Only who delivers replies needs what producers share."""
    install(place)
    probe, back = Probe(), Probe()
    _, url = await producer(place, env=settings(servers, namespace, probe))
    await producer(place, "--only", "egress", env=settings(servers, namespace, back))
    await probe.expect("/readyz", 200)
    await back.expect("/readyz", 200)

    servers["store"].pause()
    try:
        await back.expect("/readyz", 503, "state: ", within=NOTICED_S)
        await probe.expect_never("/readyz", "state: ", 2)
        await back.expect_stays("/healthz", 200, 1)
    finally:
        servers["store"].resume()
    await back.expect("/readyz", 200)

    servers["broker"].pause()
    try:
        await probe.expect("/readyz", 503, "broker: ", within=NOTICED_S)
        await probe.expect_stays("/healthz", 200, 3)
        async with httpx.AsyncClient(trust_env=False, base_url=url, timeout=PATIENCE_S) as http:
            answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["reasons"][0].startswith("broker: ")
    finally:
        servers["broker"].resume()
    await probe.expect("/readyz", 200)


async def test_while_it_drains_a_producer_lives_and_is_not_ready(place: Place) -> None:
    install(place)
    probe = Probe()
    env = probe.env | {"SLOW": "1", "SDQUEUE_GRACE_S": "600"}
    await place.start("consumer", env={})
    process, url = await producer(place, env=env)
    async with httpx.AsyncClient(trust_env=False, base_url=url, timeout=PATIENCE_S) as http:
        assert (await http.post("/pub", json={"session": "s", "id": "1", "text": "x"})).status_code == 200
    await expect_file(place.folder / "delivering")

    process.send_signal(signal.SIGTERM)
    await probe.expect("/readyz", 503, "stopping")
    await probe.expect_stays("/healthz", 200, 1)
    (place.folder / "go").write_text("")
    assert await expect_end(process) == 0


# The command


@pytest.mark.parametrize(
    ("arguments", "env", "code", "said"),
    [
        ([], {}, 2, "SDQUEUE_METRICS_PORT is not set"),
        ([], {"SDQUEUE_METRICS_PORT": "0"}, 2, "SDQUEUE_METRICS_PORT is not set"),
        ([], {"SDQUEUE_METRICS_PORT": "many"}, 2, "SDQUEUE_METRICS_PORT (environment)"),
        ([], {"SDQUEUE_METRICS_PORT": "70000"}, 2, "SDQUEUE_METRICS_PORT (environment)"),
        ([], {"SDQUEUE_METRICS_PORT": "1"}, 1, "nothing listens at http://127.0.0.1:1/readyz"),
        (["--live"], {"SDQUEUE_METRICS_PORT": "1"}, 1, "nothing listens at http://127.0.0.1:1/healthz"),
        (["--url", "http://[::1]:1"], {}, 1, "nothing listens at http://[::1]:1/readyz"),
        (["--url", "http://127.0.0.1:1/other"], {}, 1, "nothing listens at http://127.0.0.1:1/other"),
        (["--url", "https://x"], {}, 2, "--url https://x: must be like http://127.0.0.1:9464"),
        (["--url", "127.0.0.1:9464"], {}, 2, "must be like"),
        (["--url", "http://h:x"], {}, 2, "must be like"),
        (["--url", "http://[::1"], {}, 2, "must be like"),
        (["--url", f"http://{'h' * 64}:1"], {}, 1, "cannot ask http://hhh"),
        (["--url", "http://127.0.0.1:1/ä b"], {}, 1, "nothing listens at http://127.0.0.1:1/ä b"),
        (["--timeout", "0"], {}, 2, "--timeout"),
        (["--nonsense"], {}, 2, "--nonsense"),
    ],
)
async def test_what_cannot_be_asked_is_said(
    place: Place, arguments: list[str], env: dict[str, str], code: int, said: str
) -> None:
    result = await place.run("health", *arguments, env=env)
    assert (result.code, result.out) == (code, "")
    assert said in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_what_an_address_has_of_a_user_is_not_shown(place: Place, scheme: str) -> None:
    result = await place.run("health", "--url", f"{scheme}://me:hunter2@127.0.0.1:1/readyz")
    assert (result.code, "127.0.0.1:1" in result.err) == (1 if scheme == "http" else 2, True)
    assert "hunter2" not in result.err


async def test_the_port_may_stand_in_a_file(place: Place) -> None:
    (place.folder / "sdqueue.toml").write_text("metrics_port = 1\n")
    result = await place.run("health")
    assert (result.code, "nothing listens at http://127.0.0.1:1/readyz" in result.err) == (1, True)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n<html>", "answered 404 Not Found"),
        (b"HTTP/1.0 503 X\r\n\r\n[]", "answered 503 X"),
        (b"nonsense\r\n\r\n", "cannot ask"),
        (b"", "cannot ask"),
        (
            b'HTTP/1.0 503 X\r\n\r\n{"status": "not-ready", "reasons": ["one\\ntwo", "three"]}',
            "not-ready: one two; three",
        ),
    ],
)
async def test_whatever_answers_is_told_in_one_line(place: Place, raw: bytes, said: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        result = await place.run("health", "--timeout", "60", env={"SDQUEUE_METRICS_PORT": str(port)})
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert said in result.err


async def test_who_does_not_answer_is_not_waited_for(place: Place) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        result = await place.run("health", "--timeout", "0.5", env={"SDQUEUE_METRICS_PORT": str(port)})
    assert (result.code, "within 0.5 s" in result.err) == (1, True)


def test_it_brings_in_nothing_that_takes_time() -> None:
    """It runs in every container every few seconds; all the commands together take a second."""
    code = (
        "import sys, sdqueue.cli\n"
        "sys.argv = ['sdqueue', 'health', '--url', 'http://127.0.0.1:1']\n"
        "try: sdqueue.cli.main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({'pydantic_settings', 'aio_pika', 'redis', 'structlog', 'sdqueue.public'} & sys.modules.keys()))"
    )
    ran: subprocess.CompletedProcess[Any] = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (ran.stdout.strip(), "nothing listens" in ran.stderr) == ("", True)


async def test_the_help_lists_it_and_its_own_says_the_same(place: Place) -> None:
    assert " health " in (await place.run("--help")).out
    assert "--live" in (await place.run("health", "--help")).out
