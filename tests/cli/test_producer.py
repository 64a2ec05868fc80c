"""`sdqueue producer`: a process between a platform and the queue, through starts, stops and kills."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.cli.manager import Manager
from tests.cli.place import PATIENCE_S, Place, expect_end, expect_line
from tests.cli.producing import (
    delivered,
    expect_file,
    expect_lines,
    install,
    lines,
    listening,
    producer,
    say,
)
from tests.servers.process import free_port

pytestmark = pytest.mark.timeout(300)  # many processes begin, one after the other


@pytest.fixture(params=["sqlite", "servers"])
def backends(request: pytest.FixtureRequest, namespace: str) -> dict[str, str]:
    """Settings: one machine, or RabbitMQ and Redis."""
    if request.param == "sqlite":
        return {}
    return {
        "SDQUEUE_BROKER_URL": request.getfixturevalue("amqp_url"),
        "SDQUEUE_STORE_URL": request.getfixturevalue("redis_url"),
        "SDQUEUE_NAMESPACE": namespace,
    }


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (["--channels", "nothing"], {}, "there is no channel 'nothing'; installed are"),
        (["--channels", "PUB"], {}, "a name is 1 to 64 of"),
        ([], {}, "no channel is named; give --channels, of"),
        (["--channels", "pub"], {"SDQUEUE_BROKER_URL": "memory://"}, "memory://, which no other process can reach"),
        (["--channels", "broken"], {}, "needs the package no_such_package, which is not installed"),
        (["--channels", "pub", "--producer-host", "192.0.2.1"], {}, "cannot listen on 192.0.2.1"),
    ],
)
async def test_what_cannot_work_is_said_at_once(
    place: Place, arguments: list[str], env: dict[str, str], said: str
) -> None:
    install(place)
    (place.folder / "broken_channel.py").write_text("import no_such_package")
    with (place.folder / "pub_channel-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("broken = broken_channel:make_channel\n")
    result = await place.run("producer", *arguments, env=env)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert "Traceback" not in result.err


async def test_a_mistyped_variable_of_a_channel_is_logged(place: Place) -> None:
    """No error: Kubernetes makes such variables for services of such names."""
    env = {"SDQUEUE_OPENAI_KEYS": '{"me": "a-long-random-secret"}', "SDQUEUE_OPENAI_MODEL": "x"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = await place.run("producer", "--channels", "openai", "--producer-port", port, env=env)
    assert "no settings have no effect" in result.err
    assert "['SDQUEUE_OPENAI_MODEL']" in result.err


async def test_the_settings_of_channels_are_shown_without_their_secrets(place: Place) -> None:
    env = {"SDQUEUE_CHANNELS": "openai", "SDQUEUE_OPENAI_KEYS": '{"me": "a-long-random-secret"}'}
    result = await place.run("settings", "--json", env=env)
    row = json.loads(result.out)["openai_keys"]
    assert (row["source"], row["value"]) == ("environment", {"me": ["**********"]})
    assert "a-long-random-secret" not in result.out


async def test_a_port_that_is_taken_is_said(place: Place) -> None:
    install(place)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = await place.run("producer", "--channels", "pub", "--producer-port", str(taken.getsockname()[1]))
    assert result.code == 2
    assert "choose another with --producer-host and --producer-port" in result.err


async def test_what_a_platform_sends_is_answered_on_the_platform(place: Place, backends: dict[str, str]) -> None:
    install(place)
    await place.start("consumer", "--agent", "noting:noting", env=backends)
    process, url = await producer(place, env=backends)
    for number in range(5):
        assert await say(url, "s", number) == 200
    await expect_lines(place.folder, "delivered", 5)
    assert [text for _, _, text in delivered(place.folder)] == [f"re s.{n}" for n in range(5)]
    async with httpx.AsyncClient(trust_env=False, base_url=url, timeout=PATIENCE_S) as http:
        assert [(await http.get(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        assert (await http.post("/pub", content=b"\xff")).status_code == 400

    process.terminate()
    assert await expect_end(process) == 0
    assert (await process.stdout.read()).decode().endswith("stopped\n")


async def test_each_half_alone(place: Place, backends: dict[str, str]) -> None:
    install(place)
    front, url = await producer(place, "--only", "ingress", env=backends)
    back, none = await producer(place, "--only", "egress", env=backends)
    assert (bool(url), none) == (True, "")
    await place.start("consumer", "--agent", "noting:noting", env=backends)
    assert await say(url, "s", 1) == 200
    await expect_lines(place.folder, "delivered", 1)
    for process in (front, back):
        process.terminate()
        assert await expect_end(process) == 0


async def test_sigterm_lets_a_held_request_and_a_delivery_end(place: Place) -> None:
    install(place)
    env = {"SLOW": "1", "AGENT_S": "0.5"}
    await place.start("consumer", "--agent", "noting:noting", env=env)
    process, url = await producer(place, "--grace-s", "600", env=env)
    assert await say(url, "s", 1) == 200
    await expect_file(place.folder / "delivering")
    holding = asyncio.create_task(say(url, "t", 1, path="/hold"))
    await expect_file(place.folder / "held")

    process.terminate()
    async with asyncio.timeout(PATIENCE_S):
        while await say(url, "u", 1):  # until nothing more is accepted
            await asyncio.sleep(0.02)
    assert await holding == 200
    assert process.returncode is None
    (place.folder / "go").write_text("")
    assert await expect_end(process) == 0
    assert [session for session, _, _ in delivered(place.folder)][:1] == ["s"]


async def test_a_second_sigterm_ends_it_at_once(place: Place, manager: Manager) -> None:
    """Given a request, and a grace, that would last for ten minutes."""
    install(place)
    await place.start("consumer", "--agent", "noting:noting", "--grace-s", "0", env={"AGENT_S": "600"})
    process, url = await producer(place, "--grace-s", "600", env=manager.environment(SLOW="1"))
    holding = asyncio.create_task(say(url, "t", 1, path="/hold"))
    await expect_file(place.folder / "held")
    process.terminate()
    await manager.until("STOPPING=1")
    with pytest.raises(TimeoutError):
        await expect_end(process, within=0.5)
    process.send_signal(signal.SIGTERM)
    assert await expect_end(process) == 0
    assert await holding != 200


async def test_after_the_grace_period_it_ends_by_itself(place: Place) -> None:
    """Given a request that would last for ten minutes."""
    install(place)
    await place.start("consumer", "--agent", "noting:noting", "--grace-s", "0", env={"AGENT_S": "600"})
    process, url = await producer(place, "--grace-s", "0.5")
    holding = asyncio.create_task(say(url, "t", 1, path="/hold"))
    await expect_file(place.folder / "held")
    process.terminate()
    assert await expect_end(process) == 0
    assert await holding != 200


async def test_a_broker_that_is_not_there_is_waited_for_with_503(place: Place) -> None:
    install(place)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        env = {"SDQUEUE_BROKER_URL": f"amqp://guest:hunter2@127.0.0.1:{taken.getsockname()[1]}/"}
        process = await place.start("producer", "--channels", "pub", "--producer-port", "0", env=env)
        url = await listening(process)
        assert await say(url, "s", 1) == 503
        async with httpx.AsyncClient(trust_env=False, base_url=url, timeout=PATIENCE_S) as http:
            assert (await http.get("/healthz")).status_code == 200
            answer = await http.get("/readyz")
            assert answer.status_code == 503
            assert "hunter2" not in answer.text
        process.terminate()
        assert await expect_end(process) == 0
    assert (await process.stdout.read()).decode().count(" ready: ") == 0


async def test_it_gets_ready_when_the_topology_is_there(place: Place) -> None:
    install(place)
    process = await place.start("producer", "--channels", "pub", "--producer-port", "0", "--no-apply")
    url = await listening(process)
    assert await say(url, "s", 1) == 503
    assert (await place.run("topology", "apply", "--channels", "pub")).code == 0
    await expect_line(process, " ready: ")
    assert await say(url, "s", 1) == 200


async def test_metrics_are_served(place: Place) -> None:
    install(place)
    port = free_port()
    _, url = await producer(place, "--metrics-port", str(port))
    assert await say(url, "s", 1) == 200
    assert await say(url, "s", 1) == 200
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    assert 'sdqueue_producer_requests_total{channel="pub",reason="",status="200"} 2.0' in text
    assert 'sdqueue_producer_turns_published_total{channel="pub"} 1.0' in text
    assert 'sdqueue_producer_turns_repeated_total{channel="pub"} 1.0' in text


def judge(folder: Path, sessions: dict[str, int]) -> None:
    """Nothing lost, nothing doubled, each session in order."""
    ran = lines(folder, "ran")
    shown = [text for _, _, text in delivered(folder)]
    for session, count in sessions.items():
        expected = [f"{session}.{n}" for n in range(count)]
        assert [text for text in ran if text.startswith(f"{session}.")] == expected
        assert [text for text in shown if text.startswith(f"re {session}.")] == [f"re {text}" for text in expected]


@pytest.mark.parametrize("point", ["before the confirm", "after the confirm"])
async def test_a_producer_killed_around_the_confirm_loses_and_doubles_nothing(
    place: Place, backends: dict[str, str], point: str
) -> None:
    install(place)
    await place.start("consumer", "--agent", "noting:noting", env=backends)
    killed, url = await producer(place, env=backends | {"KILL": point})
    assert await say(url, "s", 0) == 0  # the platform hears nothing
    assert await expect_end(killed) == -signal.SIGKILL

    # When another one runs and the platform repeats itself, more often than it has to
    _, url = await producer(place, env=backends)
    for _ in range(3):
        assert await say(url, "s", 0) == 200
    assert await say(url, "s", 1) == 200
    await expect_lines(place.folder, "delivered", 2)
    judge(place.folder, {"s": 2})


async def test_through_random_kills_nothing_is_lost_or_doubled_and_order_is_kept(
    place: Place, backends: dict[str, str]
) -> None:
    install(place)
    await place.start("consumer", "--agent", "noting:noting", env=backends)
    processes = [await producer(place, "--only", "ingress", env=backends)]
    await producer(place, "--only", "egress", env=backends)
    rng = random.Random(5)

    async def talk(session: str) -> None:
        for number in range(20):
            while await say(processes[-1][1], session, number) != 200:
                await asyncio.sleep(0.05)
            if number % 5 == 0:
                await say(processes[-1][1], session, number)
            await asyncio.sleep(0.05)

    async def kill() -> None:
        for _ in range(4):
            await asyncio.sleep(rng.uniform(0.1, 0.4))
            process, _ = processes[-1]
            process.kill()
            await process.wait()
            processes.append(await producer(place, "--only", "ingress", env=backends))

    sessions = {"a": 20, "b": 20, "c": 20}
    await asyncio.gather(kill(), *map(talk, sessions))
    await expect_lines(place.folder, "delivered", 60)
    judge(place.folder, sessions)
