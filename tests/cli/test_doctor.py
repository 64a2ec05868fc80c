"""``doctor``: what is in order, and what to do about what is not."""

from __future__ import annotations

import json
import re
import socket

import pytest

from tests.cli.place import Place
from tests.servers.redis import version

pytestmark = pytest.mark.timeout(300)  # many processes begin, one after the other


async def test_doctor_finds_everything_in_order_and_leaves_nothing_behind(place: Place) -> None:
    await place.run("topology", "apply")
    healthy = await place.run("doctor", "--json")
    report = json.loads(healthy.out)
    assert (healthy.code, report["ok"]) == (0, True)
    assert [check["name"] for check in report["checks"]] == [
        "settings", "versions", "clock", "broker", "topology", "permissions", "store", "lock", "agent",
    ]  # fmt: skip
    assert list((place.folder / ".sdqueue" / "sessions.db.locks").glob("*")) == []


async def test_doctor_says_what_to_do_about_each_failure(place: Place) -> None:
    (place.folder / "sessions.db").mkdir()
    sick = await place.run("doctor", "--store-url", "sqlite:///sessions.db", "--agent", "agents:NoAgent")
    assert sick.code == 1
    assert "Traceback" not in sick.err
    failed = re.findall(r"^FAIL  (\w+)", sick.out, re.MULTILINE)
    assert failed == ["topology", "store", "agent"]
    assert "-> run `sdqueue topology apply`" in sick.out
    assert "SDQUEUE_STORE_URL; now sqlite:///sessions.db" in sick.out
    assert "the agent factory made a NoAgent, which has no turn()" in sick.out

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"amqp://u:secret@127.0.0.1:{taken.getsockname()[1]}"
        away = await place.run("doctor", "--broker-url", url, "--timeout", "0.5", "--agent", "no.such:thing")
    assert away.code == 1
    assert re.findall(r"^FAIL  (\w+)", away.out, re.MULTILINE) == ["broker", "agent"]
    assert "secret" not in away.out + away.err


async def test_doctor_looks_at_real_servers(place: Place, amqp_url: str, redis_url: str, namespace: str) -> None:
    servers = ("--broker-url", amqp_url, "--namespace", namespace)
    assert (await place.run("topology", "apply", *servers)).code == 0
    healthy = await place.run("doctor", *servers, "--store-url", redis_url)
    assert healthy.code == 0, healthy.out
    assert "RabbitMQ" in healthy.out
    assert re.search(rf"ok +redis +{re.escape(await version(redis_url))}, clock", healthy.out)
    other = await place.run("doctor", *servers, "--store-url", redis_url, "--partitions", "5")
    assert other.code == 1
    assert re.findall(r"^FAIL  (\w+)", other.out, re.MULTILINE) == ["topology"]
