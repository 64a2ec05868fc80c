"""All commands: help, the version, settings, and mistakes, which are one message and an exit code."""

from __future__ import annotations

import json
import re
import socket

import pytest

from tests.cli.place import Place


async def test_help_shows_commands_examples_and_exit_codes(place: Place) -> None:
    shown = await place.run("--help")
    assert shown.code == 0
    for words in ("consumer", "dev", "chat", "send", "topology", "dead", "doctor", "settings", "Exit codes: 0 done"):
        assert words in shown.out
    shown = await place.run("consumer", "--help")
    for words in ("Examples", "--broker-url", "--lock-ttl-s", "--double-texting", "SIGTERM"):
        assert words in shown.out


async def test_version(place: Place) -> None:
    assert re.fullmatch(r"sdqueue \d+\.\d+\.\d+\S*\n", (await place.run("--version")).out)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], 2, "No such command"),
        (["send", "a"], 2, "Missing argument"),
        (["send", "a", "x", "--partitions", "many"], 2, "--partitions"),
        (["send", "a", "x", "--partitions", "0"], 2, "SDQUEUE_PARTITIONS (argument)"),
        (["send", "", "x"], 2, "session_id"),
        (["send", "a", "x", "--kind", "shout"], 2, "kind"),
        (["send", "a", "x", "--metadata", "[1]"], 2, "metadata: must be a JSON object"),
        (["send", "a", "x"], 1, "topology apply"),
        (["send", "a", "x", "--broker-url", "memory://"], 2, "no other process can reach"),
        (["chat", "--broker-url", "memory://"], 2, "no other process can reach"),
        (["consumer", "--broker-url", "memory://"], 2, "no other process can reach"),
        (["consumer", "--agent", "agents:nobody"], 2, "has no 'nobody'"),
        (["consumer", "--agent", "agents:nobody", "--processes", "2"], 2, "has no 'nobody'"),
        (["consumer", "--processes", "2", "--name", "x"], 2, "cannot name 2 processes"),
        (["consumer", "--processes", "2", "--metrics-port", "9"], 2, "cannot share"),
        (["topology", "show"], 1, "topology apply"),
        (["topology", "schema", "nonsense"], 2, "no schema 'nonsense'"),
        (["dev", "--data", "agents.py/x"], 2, "cannot be made"),
    ],
)
async def test_mistakes_are_one_message_and_an_exit_code(
    place: Place, arguments: list[str], code: int, message: str
) -> None:
    result = await place.run(*arguments)
    assert message in result.err
    assert "Traceback" not in result.err
    assert result.code == code


async def test_a_broker_that_is_away_is_an_error_after_the_time_given(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"amqp://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        result = await place.run("send", "a", "x", "--timeout", "0.5", env={"SDQUEUE_BROKER_URL": url})
    assert result.code == 1
    assert "secret" not in result.err
    assert "Traceback" not in result.err


async def test_options_win_over_the_environment(place: Place) -> None:
    settings = await place.run(
        "settings", "--json", "--namespace", "mine", "--broker-url", "amqp://u:secret@h",
        env={"SDQUEUE_NAMESPACE": "theirs", "SDQUEUE_PREFETCH": "7"},
    )  # fmt: skip
    shown = json.loads(settings.out)
    assert (shown["namespace"]["value"], shown["namespace"]["source"]) == ("mine", "argument")
    assert (shown["prefetch"]["value"], shown["prefetch"]["source"]) == (7, "environment")
    assert shown["broker_url"]["value"] == "amqp://u:***@h"
    table = await place.run("settings", "--broker-url", "amqp://u:secret@h")
    assert "SDQUEUE_DOUBLE_TEXTING" in table.out
    assert "secret" not in table.out
