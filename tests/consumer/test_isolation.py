"""A turn that kills its process is found out alone, and its neighbours never notice."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from sdqueue.brokers import Message
from sdqueue.brokers.sqlite import SQLiteBroker
from sdqueue.brokers.topology import Topology
from sdqueue.consumer.processes import supervise
from sdqueue.messages import DeadTurn, partition_of, routing_key
from tests.consumer.acting import AGENT, Acting, Prompted
from tests.consumer.stand import PATIENCE_S, Changes, Stand


async def _begin(stand: Stand, *turns: tuple[str, str], times: int = 2) -> None:
    """As if the process had died so often with these turns running."""
    for session, turn in turns:
        for _ in range(times):
            await stand.store.begin(session, turn)


async def test_the_poison_is_dead_and_an_innocent_suspect_is_answered_with_its_state_saved(
    stand: Stand, capfd: pytest.CaptureFixture[str]
) -> None:
    await _begin(stand, ("bad", "poison"), ("good", "innocent"))
    async with stand.running(Acting, agent=AGENT) as member:
        await stand.send("bad", "die 7", id="poison")
        await stand.send("good", "print hello", id="innocent")
        (letter,) = await stand.expect_dead()
        error = await stand.expect_reply("poison", kind="error")
        reply = await stand.expect_reply("innocent")
        suspected = member.watcher.of("turn_suspected")
        after = [await stand.send("good", "after"), await stand.send("bad", "after")]
        for turn in after:
            await stand.expect_reply(turn)
    assert (letter.reason, letter.turn_id, letter.attempts) == ("poison", "poison", 3)
    assert "killed its process 3 times, the last time alone: exit code 7" in letter.error
    assert (error.text, error.metadata["reason"]) == ("This message could not be processed.", "poison")
    assert reply.text.startswith("1. print hello")
    assert reply.text.split(" in ")[1] != str(os.getpid()), "it did not run alone"
    assert {e["turn_id"]: e["begun"] for e in suspected} == {"poison": 3, "innocent": 3}
    assert stand.answers("good")[1].startswith("2. after")
    assert stand.answers("bad")[0].startswith("1. after")
    assert (await stand.record("good")).agent_state == {"heard": 2}
    assert stand.begun("good") == stand.begun("bad") == {}
    assert "hello" in capfd.readouterr().out


async def test_a_new_session_begins_alone_as_it_would_here(stand: Stand) -> None:
    """With what its agent has in the conversation before the first turn."""
    async with stand.running(Prompted, agent="tests.consumer.acting:Prompted", isolate_after=0):
        await stand.send("s", "hello", id="t")
        await stand.expect_reply("t")
        await stand.send("s", "again", id="u")
        await stand.expect_reply("u")
    said = [(message.role, message.content.split(" in ")[0]) for message in (await stand.record("s")).chat_ctx.items]
    assert said == [
        *(("system", "You count."), ("user", "hello"), ("assistant", "1. hello")),
        *(("user", "again"), ("assistant", "2. again")),
    ]


async def test_a_turn_begun_once_before_runs_as_usual(stand: Stand) -> None:
    await _begin(stand, ("s", "t"), times=1)
    async with stand.running(Acting, agent=AGENT) as member:
        await stand.send("s", "x", id="t")
        reply = await stand.expect_reply("t")
        assert member.watcher.of("turn_suspected") == []
    assert reply.text.split(" in ")[1] == str(os.getpid())


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        ("signal 9", "poison", "signal SIGKILL"),
        ("signal 40", "poison", "signal 40"),
        ("segfault", "poison", "signal SIGSEGV"),
        ("raise ValueError", "agent-failed", "ValueError: on purpose"),
        ("exit", "agent-failed", "SystemExit"),
        ("told", "agent-failed", "told to end (signal SIGTERM)"),
        ("cancelled", "agent-failed", "CancelledError"),
        ("nonsense", "bad-result", "NoneType"),
        ("object", "agent-failed", "JSON"),
        ("sleep", "timeout", "alone in a process of its own"),
        ("block", "timeout", "alone in a process of its own"),
    ],
)
async def test_how_a_suspect_ends(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, text: str, reason: str, says: str
) -> None:
    """Only the end of the process is poison; what the agent merely does wrong is called by its name."""
    if text == "block":
        monkeypatch.setattr("sdqueue.consumer.isolation.STUCK_S", 0.5)
    await _begin(stand, ("s", "t"))
    async with stand.running(Acting, agent=AGENT):
        await stand.send("s", text, id="t", deadline_s=0.3 if reason == "timeout" else None)
        (letter,) = await stand.expect_dead()
        await stand.expect_reply("t", kind="error")
    assert letter.reason == reason
    assert says in letter.error
    if text.startswith("raise"):
        assert re.search(r"acting\.py:\d+ in _raise\nValueError$", letter.trace), "where it was raised is not told"


async def test_a_passing_failure_of_a_suspect_is_tried_again(stand: Stand, tmp_path: Path) -> None:
    await _begin(stand, ("s", "t"))
    async with stand.running(Acting, agent=AGENT):
        await stand.send("s", f"once {tmp_path / 'tried'}", id="t")
        reply = await stand.expect_reply("t")
    assert reply.text.startswith("1. once")


async def test_a_child_that_was_told_to_end_is_not_the_turn_s_fault(stand: Stand, tmp_path: Path) -> None:
    """As at a shutdown where the service manager tells every process of the service."""
    await _begin(stand, ("s", "t"))
    marker = tmp_path / "pid"
    async with stand.running(Acting, agent=AGENT):
        await stand.send("s", f"hold {marker}", id="t")
        async with asyncio.timeout(PATIENCE_S):
            while not marker.exists():
                await asyncio.sleep(0.02)
        assert os.getpgid(int(marker.read_text())) != os.getpgid(0), "Ctrl-C in a terminal would end it"
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(int(marker.read_text()), number)
        (tmp_path / "pid.go").touch()
        reply = await stand.expect_reply("t")
    assert reply.text == f"1. hold {marker} in {marker.read_text()}", "it ran again in another process"
    assert stand.dead == []


@pytest.mark.parametrize("how", ["cancel turn", "stop of the consumer"])
async def test_a_suspect_can_be_stopped_and_its_child_ends_with_it(stand: Stand, tmp_path: Path, how: str) -> None:
    await _begin(stand, ("s", "t"))
    marker = tmp_path / "pid"
    async with stand.running(Acting, agent=AGENT, grace_s=0.05) as member:
        await stand.send("s", f"hold {marker}", id="t")
        async with asyncio.timeout(PATIENCE_S):
            while not marker.exists():
                await asyncio.sleep(0.02)
        if how == "cancel turn":
            await stand.send("s", kind="cancel")
            await stand.expect_reply("t", kind="error")
        else:
            member.stop()
        (state, *_) = await member.watcher.expect_settled(1)
        with pytest.raises(ProcessLookupError):
            os.kill(int(marker.read_text()), 0)
    assert state == ("t", "superseded" if how == "cancel turn" else "released")


async def test_an_agent_without_a_name_cannot_be_tried_alone(stand: Stand) -> None:
    """Then the count decides, and the letter says what would help."""
    await _begin(stand, ("s", "t"))
    async with stand.running() as member:
        await stand.send("s", "x", id="t")
        (letter,) = await stand.expect_dead()
        await member.watcher.expect_settled(1)
    assert letter.reason == "poison"
    assert "died 2 times" in letter.error
    assert "ConsumerOptions(agent=" in letter.error


async def test_the_state_goes_to_the_child_and_back(stand: Stand) -> None:
    async with stand.running(Acting, agent=AGENT):
        await stand.send("s", "one")
        await stand.expect_replies(1)
        await _begin(stand, ("s", "two"))
        await stand.send("s", "two", id="two")
        await stand.send("s", "three", id="three")
        await stand.expect_reply("three")
    assert [a.split(" in ")[0] for a in stand.answers("s")] == ["1. one", "2. two", "3. three"]
    record = await stand.record("s")
    assert record.agent_state == {"heard": 3}
    assert [m.content for m in record.chat_ctx.items if m.role == "user"] == ["one", "two", "three"]


# Real processes


async def test_a_turn_that_kills_its_process_is_dead_lettered_and_its_neighbours_are_answered(tmp_path: Path) -> None:
    """Given a supervised consumer on SQLite, a turn that ends the process, and turns that run beside it.

    The first two beginnings kill the consumer with everything in it; the third one kills only a child process.
    """
    topology = Topology("poison", partitions=1)
    deaths: list[int] = []
    replies: dict[str, dict[str, Any]] = {}
    letters: list[DeadTurn] = []
    changes = Changes()

    def on_reply(delivery: Any) -> None:
        delivery.subscription.ack(delivery)
        reply = json.loads(delivery.message.body)
        replies[reply["turn_id"]] = reply
        changes.wake()

    def on_dead(delivery: Any) -> None:
        delivery.subscription.ack(delivery)
        letters.append(DeadTurn.from_headers(delivery.message.headers))
        changes.wake()

    async with SQLiteBroker(topology, tmp_path / "broker.db") as broker:
        await broker.apply()
        await broker.subscribe(await broker.declare_egress("default"), on_reply, prefetch=100)
        await broker.subscribe(topology.dead, on_dead, prefetch=100)
        turns = {"poison": "die 7"} | {f"n{n}": f"slowly {n}" for n in range(4)}
        for turn_id, text in turns.items():
            body = {"session_id": f"session of {turn_id}", "text": text, "id": turn_id}
            key = routing_key(partition_of(body["session_id"], 1))
            await broker.publish(topology.turns, key, Message(json.dumps(body).encode()))
        command = [sys.executable, "-m", "tests.consumer.acting", str(tmp_path)]
        supervisor = asyncio.create_task(
            supervise(command, processes=1, on_exit=lambda pid, code, wait: deaths.append(code))
        )
        try:
            await changes.until(lambda: len(replies) == 5 and letters, lambda: (replies, letters, deaths))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # to the supervisor, which passes it on
            code = await supervisor
    assert code == 0
    assert deaths == [7, 7]
    assert [(letter.turn_id, letter.reason) for letter in letters] == [("poison", "poison")]
    assert {turn: reply["kind"] for turn, reply in replies.items()} == {
        "poison": "error", "n0": "final", "n1": "final", "n2": "final", "n3": "final",
    }  # fmt: skip
