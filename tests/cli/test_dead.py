"""``dead``: a turn dies, is looked at, put back after the agent was repaired, or thrown away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import pytest

from sdqueue.sessions import SessionRecord, SQLiteSessionStore
from tests.cli.place import Place, Result, expect_end
from tests.cli.terminal import Terminal, terminal_pair

FRAGILE = """
import pathlib

async def answer(text, history):
    with open("journal", "a") as journal:
        print(text, file=journal)
    if text.startswith("break") and not pathlib.Path("repaired").exists():
        raise ValueError("cannot do " + text)
    return f"{sum(m.role == 'user' for m in history) + 1}. {text}"
"""

MORTAL = """
import os, signal
from sdqueue.brokers import RabbitMQBroker, SQLiteBroker
from sdqueue.cli import main

for kind in (RabbitMQBroker, SQLiteBroker):
    async def publish(self, *given, publish=kind.publish, **options):
        await publish(self, *given, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    kind.publish = publish

main()
"""
"""The command, killed between the broker's confirm of the first turn that is put back and the taking away of its letter."""


class Pool:
    """A place with a consumer whose agent breaks until it is repaired."""

    def __init__(self, place: Place, options: dict[str, str]) -> None:
        self.place = place
        self.environment = options
        (place.folder / "fragile.py").write_text(FRAGILE)

    async def run(self, *arguments: str) -> Result:
        return await self.place.run(*arguments, env=self.environment)

    async def letters(self, *arguments: str) -> list[dict[str, Any]]:
        listed = await self.run("dead", "list", "--json", *arguments)
        assert (listed.code, listed.err) == (0, "")
        letters: list[dict[str, Any]] = json.loads(listed.out)["letters"]
        return letters

    async def send(self, session: str, text: str, turn_id: str) -> Result:
        return await self.run("send", session, text, "--id", turn_id, "--wait")

    @property
    def journal(self) -> list[str]:
        return (self.place.folder / "journal").read_text().splitlines()

    def repair(self) -> None:
        (self.place.folder / "repaired").touch()


@pytest.fixture(params=["sqlite", "rabbitmq-redis"])
async def pool(request: pytest.FixtureRequest, place: Place, namespace: str) -> Pool:
    options = {"SDQUEUE_NAMESPACE": namespace, "SDQUEUE_AGENT": "fragile:answer"}
    if request.param != "sqlite":
        options["SDQUEUE_BROKER_URL"] = request.getfixturevalue("amqp_url")
        options["SDQUEUE_STORE_URL"] = request.getfixturevalue("redis_url")
    made = Pool(place, options)
    consumer = await place.start("consumer", "--name", "one", env=options)
    assert consumer.stdout is not None
    async with asyncio.timeout(40):
        assert b"ready" in await consumer.stdout.readline()
    return made


async def test_a_turn_dies_is_looked_at_and_answered_after_the_repair(pool: Pool) -> None:
    assert (await pool.send("u", "hello", "t1")).out == "1. hello\n"
    assert (await pool.send("u", "break it", "t2")).code == 1
    assert (await pool.send("u", "goodbye", "t3")).out == "2. goodbye\n"
    assert (await pool.send("v", "break that", "t4")).code == 1

    letters = await pool.letters()
    assert [(letter["name"], letter["session_id"], letter["reason"]) for letter in letters] == [
        ("t2", "u", "agent-failed"),
        ("t4", "v", "agent-failed"),
    ]
    assert letters[0]["error"] == "ValueError: cannot do break it"
    assert "fragile.py" in letters[0]["trace"]
    assert "cannot do" not in letters[0]["trace"], "a trace has no values"
    assert (letters[0]["consumer"], letters[0]["attempts"], letters[0]["replay"]) == ("one", 1, 0)
    assert [letter["name"] for letter in await pool.letters("--session", "v", "--since", "1h")] == ["t4"]
    assert await pool.letters("--until", "1h") == []
    table = (await pool.run("dead", "list")).out
    assert "t2" in table
    assert "2 dead letters" in table
    shown = (await pool.run("dead", "show", "t2")).out
    for words in (
        "session      u",
        "ValueError: cannot do break it",
        "fragile.py",
        '"text": "break it"',
        "consumer     one",
    ):
        assert words in shown
    (as_json,) = json.loads((await pool.run("dead", "show", "t2", "--json")).out)
    body = json.loads(as_json["message"]["body"])
    assert (body["text"], body["session_id"], as_json["message"]["message_id"]) == ("break it", "u", "t2")
    assert json.loads((await pool.run("dead", "show", "t2", "--body")).out) == body

    pool.repair()
    replayed = await pool.run("dead", "replay", "t2")
    assert (replayed.code, replayed.out) == (0, "t2 of session u: put back, replay 1\n1 dead letter put back\n")
    answer = json.loads((await pool.run("send", "u", "break it", "--id", "t2", "--wait", "--json")).out)
    if answer["kind"] == "error":  # asked before the replay had run
        answer = await expect_answer(pool, "u", "break it", "t2")
    assert (answer["id"], answer["text"], answer["seq"]) == ("t2:1", "3. break it", 3)
    assert [letter["name"] for letter in await pool.letters()] == ["t4"]
    assert (await pool.send("u", "and on", "t5")).out == "4. and on\n"


async def test_a_replay_that_is_killed_is_repeated_and_the_turn_runs_once(pool: Pool) -> None:
    """Given a kill between the two steps, the letter is still there; putting it back again does nothing more."""
    assert (await pool.send("u", "break it", "t1")).code == 1
    pool.repair()
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MORTAL, "dead", "replay", "--all"),
        env=pool.place.environment(pool.environment), cwd=pool.place.folder, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await expect_end(killed, within=40) == -signal.SIGKILL
    answer = await expect_answer(pool, "u", "break it", "t1")
    assert (answer["id"], answer["text"]) == ("t1:1", "1. break it")

    assert [letter["name"] for letter in await pool.letters()] == ["t1"]
    assert (await pool.run("dead", "replay", "--all")).out.endswith("1 dead letter put back\n")
    assert (await pool.send("u", "next", "t2")).out == "2. next\n"
    assert pool.journal == ["break it"] * 2 + ["next"]
    assert await pool.letters() == []


async def test_letters_are_discarded_after_asking(pool: Pool) -> None:
    for n in range(3):
        assert (await pool.send("u", f"break {n}", f"t{n}")).code == 1
    refused = await pool.run("dead", "discard", "t0")
    assert refused.code == 2
    assert "give --yes" in refused.err
    assert len(await pool.letters()) == 3

    discarded = await pool.run("dead", "discard", "t0", "--yes")
    assert (discarded.code, discarded.out) == (0, "t0 of session u: discarded\n1 dead letter discarded\n")
    assert await at_a_terminal(pool, "n\n", "dead", "discard", "--all") == 1
    assert [letter["name"] for letter in await pool.letters()] == ["t1", "t2"]
    assert await at_a_terminal(pool, "y\n", "dead", "discard", "--all") == 0
    assert await pool.letters() == []
    missing = await pool.run("dead", "discard", "t0", "t1", "--yes")
    assert (missing.code, missing.out) == (1, "0 dead letters discarded\n")
    assert "no dead letter is named 't0', 't1'" in missing.err
    assert (await pool.run("dead", "replay", "--all")).code == 0


async def at_a_terminal(pool: Pool, typed: str, *arguments: str) -> int:
    terminal, side = terminal_pair()
    try:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), side)
        process = await pool.place.start(*arguments, env=pool.environment, start_new_session=True, **streams)
        shown = Terminal(terminal)
        await shown.expect("discard 2 dead letters for good (2 agent-failed)? [y/N]")
        shown.type(typed)
        return await expect_end(process)
    finally:
        os.close(terminal)
        os.close(side)


async def expect_answer(pool: Pool, session: str, text: str, turn_id: str) -> dict[str, Any]:
    """Ask again under the same id until the replay has run: before, the answer is the error of then."""
    for _ in range(50):
        answer = await pool.run("send", session, text, "--id", turn_id, "--wait", "--json")
        reply: dict[str, Any] = json.loads(answer.out)
        if reply["kind"] == "final":
            return reply
    raise AssertionError(f"{turn_id} was never answered: {reply}")


# Without a consumer


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["replay"], 2, "which letters?"),
        (["discard", "--yes"], 2, "which letters?"),
        (["replay", "t1", "--all"], 2, "--all excludes"),
        (["replay", "--reason", "x", "--all"], 2, "--all excludes"),
        (["list", "--since", "noon"], 2, "--since: 'noon' is no time"),
        (["list", "--until", "99999999999999d"], 2, "is no time"),
        (["list", "--limit", "0"], 2, "--limit"),
        (["show", "t1", "--json", "--body"], 2, "exclude each other"),
        (["show", "t1"], 1, "no dead letter is named 't1'"),
        (["replay", "t1"], 1, "no dead letter is named 't1'"),
        (["list", "--broker-url", "memory://"], 2, "no other process can reach"),
        (["list", "--namespace", "elsewhere"], 1, "topology apply"),
    ],
)
async def test_mistakes_are_one_message_and_an_exit_code(
    place: Place, arguments: list[str], code: int, message: str
) -> None:
    await place.run("topology", "apply")
    result = await place.run("dead", *arguments)
    assert message in result.err
    assert "Traceback" not in result.err
    assert result.code == code


async def test_a_session_whose_letter_is_gone_is_released_by_name(place: Place) -> None:
    """As after a purge of the queue; only from the turn that it is parked behind."""
    await place.run("topology", "apply")
    store = SQLiteSessionStore(place.folder / ".sdqueue" / "sessions.db")
    await store.save("u", SessionRecord(parked_by="t1"))
    wrong = await place.run("dead", "discard", "t0", "--session", "u", "--yes")
    assert (wrong.code, wrong.out) == (1, "0 dead letters discarded\n")
    right = await place.run("dead", "discard", "t1", "--session", "u", "--yes")
    assert right.code == 0
    assert "session u was parked behind it and goes on" in right.out
    record = await store.load("u")
    await store.aclose()
    assert record is not None
    assert record.parked_by is None
