"""Several agents of one pool, and history limits, as options and variables of the commands."""

from __future__ import annotations

import json

import pytest

from tests.cli.place import Place

pytestmark = pytest.mark.timeout(300)  # many processes begin, one after the other

ROUTED = ("--agent", "slack=routed:a", "--agent", "metadata.plan:gold=routed:gold", "--agent", "default=routed:b")

AGENTS = """
async def a(text, history):
    return f"a {len(history)}"

async def b(text, history):
    return f"b {len(history)}"

async def gold(text, history):
    return f"gold {len(history)}"
"""


async def test_a_pool_with_routes_and_a_limit_on_real_servers(
    place: Place, amqp_url: str, redis_url: str, namespace: str
) -> None:
    """Given two processes, then each session is answered by its agent, by whichever process, within the limit."""
    (place.folder / "routed.py").write_text(AGENTS)
    servers = ("--broker-url", amqp_url, "--namespace", namespace)
    consumer = await place.start(
        "consumer", *servers, "--store-url", redis_url, *ROUTED, "--processes", "2", "--history-messages", "4"
    )
    assert (await place.run("topology", "apply", *servers)).code == 0

    async def says(session: str, *more: str) -> str:
        said = await place.run("send", session, "x", "--wait", *more, *servers)
        assert said.code == 0, said.err
        return said.out.strip()

    assert await says("s", "--channel", "slack") == "a 0"
    assert await says("g", "--metadata", '{"plan": "gold"}') == "gold 0"
    assert await says("d") == "b 0"
    assert await says("s", "--metadata", '{"plan": "gold"}') == "a 2"
    assert [await says("s") for _ in range(4)] == ["a 4", "a 2", "a 4", "a 2"]
    assert consumer.returncode is None


async def test_dev_with_routes_answers_its_own_channel(place: Place) -> None:
    (place.folder / "routed.py").write_text(AGENTS)
    said = await place.run("dev", "--agent", "dev=routed:a", "--agent", "routed:b", stdin="x\n/state\n")
    assert said.code == 0, said.err
    assert said.out.startswith("a 0\n")
    assert json.loads(said.out[said.out.index("{") :])["route"] == "dev"
    limited = await place.run(
        "dev", "--data", "other", stdin="x\n" * 4,
        env={"SDQUEUE_AGENT": "slack=routed:a,default=routed:b", "SDQUEUE_HISTORY_TOKENS": "12"},
    )  # fmt: skip
    assert limited.out.splitlines() == ["b 0", "b 2", "b 2", "b 2"]


async def test_settings_and_doctor_know_routes(place: Place) -> None:
    (place.folder / "routed.py").write_text(AGENTS)
    shown = json.loads((await place.run("settings", "--json", *ROUTED)).out)
    assert shown["agent"]["value"] == "slack=routed:a,metadata.plan:gold=routed:gold,default=routed:b"
    assert shown["agent"]["source"] == "argument"
    await place.run("topology", "apply")
    healthy = await place.run("doctor", *ROUTED)
    assert healthy.code == 0, healthy.out
    for route in ("slack=routed:a", "metadata.plan:gold=routed:gold", "default=routed:b"):
        assert f"{route}: builds a FunctionAgent" in healthy.out
    sick = await place.run("doctor", "--agent", "slack=agents:NoAgent", "--agent", "default=routed:b")
    assert sick.code == 1
    assert "slack=agents:NoAgent: the agent factory made a NoAgent, which has no turn()" in sick.out


async def test_wrong_routes_are_one_message(place: Place) -> None:
    for arguments, message in (
        (["--agent", "slack=agents:broken"], "add default=package.module:factory"),
        (["--agent", "slack=agents:nobody", "--agent", "default=agents:broken"], "has no 'nobody'"),
        (["--agent", "Slack=agents:broken", "--agent", "agents:broken"], "'Slack' is no condition"),
        (["--history-messages", "-1"], "SDQUEUE_HISTORY_MESSAGES"),
    ):
        result = await place.run("consumer", *arguments)
        assert message in result.err
        assert (result.code, "Traceback" in result.err) == (2, False)
