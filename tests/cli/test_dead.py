"""``dead``: a turn dies, is looked at, put back after the agent was repaired, or thrown away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from sdqueue.backends import open_broker
from sdqueue.brokers import Broker, Delivery
from sdqueue.client import Client
from sdqueue.messages import OutboundReply
from sdqueue.sessions import SessionRecord, SQLiteSessionStore
from sdqueue.settings import Settings
from tests.cli.place import Place, Result, expect_end, expect_line
from tests.cli.terminal import Terminal, terminal_pair
from tests.consumer.stand import Changes

pytestmark = pytest.mark.timeout(300)  # many processes begin, one after the other

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
"""The command, killed between the broker's confirm of the first turn that it puts back and the taking away of the
letter."""


class Pool:
    """A consumer process whose agent breaks until it is repaired; turns are sent from here, commands are processes."""

    def __init__(self, place: Place, environment: dict[str, str], broker: Broker) -> None:
        self.place = place
        self.environment = environment
        self._client = Client(broker)
        self._replies: dict[str, OutboundReply] = {}
        self._changes = Changes()

    async def run(self, *arguments: str) -> Result:
        return await self.place.run("dead", *arguments, env=self.environment)

    async def names(self, *arguments: str) -> list[str]:
        listed = await self.run("list", "--json", *arguments)
        assert (listed.code, listed.err) == (0, "")
        return [letter["name"] for letter in json.loads(listed.out)["letters"]]

    async def send(self, session: str, text: str, turn_id: str) -> OutboundReply:
        await self.put(session, text, turn_id)
        return await self.reply(f"{turn_id}:0")

    async def put(self, session: str, text: str, turn_id: str, *, channel: str = "default") -> None:
        await self._client.send(session, text, id=turn_id, channel=channel)

    async def reply(self, reply_id: str) -> OutboundReply:
        await self._changes.until(lambda: reply_id in self._replies, lambda: (reply_id, self._replies))
        return self._replies[reply_id]

    def hear(self, delivery: Delivery) -> None:
        delivery.subscription.ack(delivery)
        reply = OutboundReply.decode(delivery.message.body)
        self._replies[reply.id] = reply
        self._changes.wake()

    @property
    def answered(self) -> list[str]:
        """The ids of all replies, in order."""
        return list(self._replies)

    @property
    def journal(self) -> list[str]:
        return (self.place.folder / "journal").read_text().splitlines()

    def repair(self) -> None:
        (self.place.folder / "repaired").touch()


@pytest.fixture(params=["sqlite", "rabbitmq-redis"])
async def pool(request: pytest.FixtureRequest, place: Place, namespace: str) -> AsyncIterator[Pool]:
    (place.folder / "fragile.py").write_text(FRAGILE)
    urls = {"broker_url": f"sqlite:///{place.folder}/broker.db", "store_url": f"sqlite:///{place.folder}/store.db"}
    if request.param != "sqlite":
        urls = {"broker_url": request.getfixturevalue("amqp_url"), "store_url": request.getfixturevalue("redis_url")}
    settings = Settings.load(**urls, namespace=namespace, partitions=4)
    names = {"NAMESPACE": namespace, "AGENT": "fragile:answer", "ON_DEAD": "skip,parking=park"} | {
        name.upper(): url for name, url in urls.items()
    }
    environment = {f"SDQUEUE_{name}": value for name, value in names.items()}
    async with open_broker(settings) as broker:
        await broker.apply()
        consumer = await place.start("consumer", "--name", "one", env=environment)
        pool = Pool(place, environment, broker)
        for channel in ("default", "parking"):
            await broker.subscribe(await broker.declare_egress(channel), pool.hear, prefetch=100)
        await expect_line(consumer, "consumer one ready")
        yield pool


async def test_a_turn_dies_is_looked_at_and_answered_after_the_repair(pool: Pool) -> None:
    assert (await pool.send("u", "hello", "t1")).text == "1. hello"
    assert (await pool.send("u", "break it", "t2")).kind == "error"
    assert (await pool.send("u", "goodbye", "t3")).text == "2. goodbye"
    assert (await pool.send("v", "break that", "t4")).kind == "error"

    listed = json.loads((await pool.run("list", "--json")).out)
    assert (listed["matching"], listed["waiting"], listed["complete"]) == (2, 2, True)
    assert [(letter["name"], letter["session_id"], letter["reason"]) for letter in listed["letters"]] == [
        ("t2", "u", "agent-failed"),
        ("t4", "v", "agent-failed"),
    ]
    letter = listed["letters"][0]
    assert letter["error"] == "ValueError: cannot do break it"
    assert "fragile.py" in letter["trace"]
    assert "cannot do" not in letter["trace"], "a trace has no values"
    assert (letter["consumer"], letter["attempts"], letter["replay"]) == ("one", 1, 0)
    table = (await pool.run("list", "--since", "1h", "--limit", "1")).out
    assert "t2" in table
    assert "the oldest 1 of 2 letters" in table
    (as_json,) = json.loads((await pool.run("show", "t2", "--json")).out)
    body = json.loads(as_json["message"]["body"])
    assert (body["text"], body["session_id"], as_json["message"]["message_id"]) == ("break it", "u", "t2")

    pool.repair()
    replayed = await pool.run("replay", "t2")
    assert (replayed.code, replayed.out) == (0, "t2 of session u: put back, replay 1\n1 dead letter put back\n")
    answer = await pool.reply("t2:1")
    assert (answer.text, answer.kind, answer.seq) == ("3. break it", "final", 3)
    assert (await pool.send("u", "and on", "t5")).text == "4. and on"
    assert await pool.names() == ["t4"]


async def test_a_replay_that_is_killed_is_repeated_and_the_turn_runs_once(pool: Pool) -> None:
    """Given a kill between the two steps, the letter is still there; putting it back again does nothing more."""
    assert (await pool.send("u", "break it", "t1")).kind == "error"
    pool.repair()
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MORTAL, "dead", "replay", "--all"),
        env=pool.place.environment(pool.environment), cwd=pool.place.folder, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await expect_end(killed) == -signal.SIGKILL
    assert (await pool.reply("t1:1")).text == "1. break it"

    assert await pool.names() == ["t1"]
    assert (await pool.run("replay", "--all")).out.endswith("1 dead letter put back\n")
    assert (await pool.send("u", "next", "t2")).text == "2. next"
    assert pool.journal == ["break it"] * 2 + ["next"]
    assert await pool.names() == []


async def test_letters_are_discarded_after_asking(pool: Pool) -> None:
    for n in range(3):
        await pool.send("u", f"break {n}", f"t{n}")
    refused = await pool.run("discard", "t0")
    assert refused.code == 2
    assert "give --yes" in refused.err

    assert await at_a_terminal(pool, "discard 3 dead letters for good (3 agent-failed)?", "n\n", "--all") == 1
    discarded = await pool.run("discard", "t0", "t7", "--yes")
    assert (discarded.code, discarded.out) == (1, "t0 of session u: discarded\n1 dead letter discarded\n")
    assert "no dead letter is named 't7'" in discarded.err
    assert await pool.names() == ["t1", "t2"]
    assert await at_a_terminal(pool, "discard 1 dead letter for good", "y\n", "t2") == 0
    assert await pool.names() == ["t1"]


async def test_turns_parked_behind_a_dead_one_go_on_when_it_is_replayed_or_discarded(pool: Pool) -> None:
    """In order, behind the answer of the replay; and other sessions were never held up."""
    for session in ("u", "v"):
        await pool.put(session, f"break {session}", f"{session}1", channel="parking")
        await pool.put(session, "second", f"{session}2", channel="parking")
        await pool.put(session, "third", f"{session}3", channel="parking")
        assert (await pool.reply(f"{session}1:0")).kind == "error"
    assert (await pool.send("w", "hello", "w1")).text == "1. hello"
    assert sorted(await pool.names()) == ["u1", "v1"]

    assert (await pool.run("discard", "v1", "--yes")).code == 0
    assert [(await pool.reply(f"v{n}:0")).text for n in (2, 3)] == ["1. second", "2. third"]
    assert not {"u2:0", "u3:0"} & {*pool.answered}
    pool.repair()
    assert (await pool.run("replay", "u1")).code == 0
    assert (await pool.reply("u3:0")).text == "3. third"
    of_u = [name for name in pool.answered if name.startswith("u")]
    assert of_u == ["u1:0", "u1:1", "u2:0", "u3:0"]
    assert (await pool.reply("u1:1")).text == "1. break u"
    assert await pool.names() == []


async def at_a_terminal(pool: Pool, question: str, typed: str, *arguments: str) -> int:
    terminal, side = terminal_pair()
    try:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), side)
        process = await pool.place.start(
            "dead", "discard", *arguments, env=pool.environment, start_new_session=True, **streams
        )
        shown = Terminal(terminal)
        await shown.expect(question)
        await shown.expect("[y/N]")
        shown.type(typed)
        return await expect_end(process)
    finally:
        os.close(terminal)
        os.close(side)


# Without a consumer


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["replay"], 2, "which letters?"),
        (["replay", "t1", "--all"], 2, "--all excludes"),
        (["list", "--since", "noon"], 2, "--since: 'noon' is no time"),
        (["show", "t1", "--json", "--body"], 2, "exclude each other"),
        (["show", "t1"], 1, "no dead letter is named 't1'"),
        (["list", "--broker-url", "memory://"], 2, "no other process can reach"),
        (["list", "--namespace", "elsewhere"], 1, "topology apply"),
    ],
)
async def test_mistakes_are_one_message_and_an_exit_code(
    place: Place, arguments: list[str], code: int, message: str
) -> None:
    await declare(place)
    result = await place.run("dead", *arguments)
    assert message in result.err
    assert "Traceback" not in result.err
    assert result.code == code


async def test_a_session_whose_letter_is_gone_is_released_by_name(place: Place) -> None:
    """As after a purge of the queue; only from the turn that it is parked behind."""
    await declare(place)
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


async def declare(place: Place) -> None:
    async with open_broker(Settings.load(broker_url=f"sqlite:///{place.folder}/.sdqueue/broker.db", partitions=4)) as b:
        await b.apply()
