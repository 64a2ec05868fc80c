"""A cancel turn stops the turn that runs when it arrives, and no other one, ever."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from sdqueue.errors import StoreUnavailable
from sdqueue.sessions import AsyncioLockBackend
from tests.consumer.stand import Puppet, Stand, Waiting, failing


async def test_it_stops_the_running_turn_and_nothing_of_that_is_saved(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}) as member:
        await stand.send("s", "before")
        await stand.send("s", "wait", id="running")
        await act.began.acquire()
        await stand.send("s", kind="cancel", id="stop")
        await stand.send("s", "next", id="next")
        stopped = await stand.expect_reply("running", kind="error")
        await stand.expect_reply("next")
        settled = await member.watcher.expect_settled(4)
        (event,) = [e for e in member.watcher.of("turn_settled") if e["turn_id"] == "running"]
    assert act.cancelled == 1
    assert settled[1:] == [("running", "superseded"), ("stop", "completed"), ("next", "completed")]
    assert event["by"] == "stop"
    assert stopped.text == "Stopped."
    assert (stopped.metadata["superseded_by"], stopped.metadata["reason"]) == ("stop", "cancelled")
    assert stand.answers("s") == ["1. before", "", "2. next"]
    assert stand.dead == []


async def test_with_nothing_running_it_is_answered(stand: Stand) -> None:
    async with stand.running():
        await stand.send("s", kind="cancel", id="stop")
        reply = await stand.expect_reply("stop")
    assert (reply.kind, reply.text, reply.metadata["turn_kind"]) == ("final", "", "cancel")


async def test_another_session_is_not_stopped(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}):
        await stand.send("a", "wait", id="a")
        await act.began.acquire()
        await stand.send("b", kind="cancel", id="stop")
        await stand.expect_reply("stop")
        act.go_on.set()
        assert (await stand.expect_reply("a")).text == "1. waited"
    assert act.cancelled == 0


@pytest.mark.parametrize("first", ["stopped a turn", "found nothing to stop"])
async def test_its_repeat_does_not_stop_a_later_turn(stand: Stand, first: str) -> None:
    """Given one that has had its effect, or its answer. A second effect would be one too many."""
    act = Waiting()
    async with stand.running({"wait": act}) as member:
        if first == "stopped a turn":
            await stand.send("s", "wait", id="early")
            await act.began.acquire()
        await stand.send("s", kind="cancel", id="stop")
        await stand.expect_reply("stop")
        await stand.send("s", "wait", id="later")
        await act.began.acquire()
        await stand.send("s", kind="cancel", id="stop")
        await member.watcher.expect("turn_received", 3 + (first == "stopped a turn"))
        for _ in range(20):
            await asyncio.sleep(0)  # a stop would take its effect now
        act.go_on.set()
        assert (await stand.expect_reply("later")).text == "1. waited"
        assert (await member.watcher.expect_settled(3 + (first == "stopped a turn")))[-1] == ("stop", "duplicate")


async def test_its_repeat_does_not_stop_a_turn_that_has_not_taken_up_its_session_yet(stand: Stand) -> None:
    """The interleaving: the store is away, so the later turn does not know yet what the cancel turn has done before,
    and waits for its next attempt when the repeat comes."""
    act = Waiting()
    async with stand.running({"wait": act}) as member:
        await stand.send("s", "wait", id="early")
        await act.began.acquire()
        await stand.send("s", kind="cancel", id="stop")
        await stand.expect_reply("stop")
        member.faults.arm("load", failing(StoreUnavailable("away")), failing(StoreUnavailable("away")))
        await stand.send("s", "later", id="later")
        await member.watcher.expect("backend_away")
        await stand.send("s", kind="cancel", id="stop")
        assert (await stand.expect_reply("later")).text == "1. later"


async def test_a_redelivered_cancel_stops_what_it_stopped_and_not_what_comes_behind(stand: Stand) -> None:
    """Given a crash after the turn was stopped and before the cancel turn itself was acknowledged: both come again."""
    act = Waiting()
    async with stand.running({"wait": act}, lock_backend=AsyncioLockBackend()) as first:
        await stand.send("s", "wait", id="running")
        await act.began.acquire()
        frozen = first.faults.freeze("reply")
        await stand.send("s", kind="cancel", id="stop")
        await stand.send("s", "behind", id="behind")
        await frozen.expect_reached()  # the stop is saved, its error reply is not out
        first.stop_at_once()
    async with stand.running({"wait": act}) as second:
        await stand.expect_reply("running", kind="error")
        assert (await stand.expect_reply("behind")).text == "1. behind"
        assert await second.watcher.expect_settled(3) == [
            ("running", "duplicate"),
            ("stop", "completed"),
            ("behind", "completed"),
        ]


async def test_it_stops_a_turn_that_waits_for_its_next_attempt(stand: Stand) -> None:
    class TooManyRequests(Exception):
        status_code = 429
        headers: ClassVar = {"retry-after": "60"}

    async def fail(_: Puppet) -> str:
        raise TooManyRequests

    async with stand.running({"fail": fail}) as member:
        await stand.send("s", "fail", id="waits")
        await member.watcher.expect("turn_retried")
        await stand.send("s", kind="cancel", id="stop")
        await stand.expect_reply("waits", kind="error")
        assert (await member.watcher.expect_settled(1))[0] == ("waits", "superseded")


async def test_it_comes_too_late_for_a_turn_that_is_being_saved(stand: Stand) -> None:
    async with stand.running() as member:
        frozen = member.faults.freeze("save")
        await stand.send("s", "x", id="saving")
        await frozen.expect_reached()
        await stand.send("s", kind="cancel", id="stop")
        await member.watcher.expect("turn_received", 2)
        frozen.go_on.set()
        await stand.expect_reply("stop")
    assert [(r.turn_id, r.kind) for r in stand.replies] == [("saving", "final"), ("stop", "final")]


@pytest.mark.parametrize("end", ["an answer", "an error", "a passing error"])
async def test_an_agent_cannot_answer_after_it_was_stopped(stand: Stand, end: str) -> None:
    """Its user has been promised that nothing of the turn is kept."""
    began = asyncio.Event()

    async def stubborn(_: Puppet) -> Any:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if end == "an answer":
                return "I answer nevertheless"
            raise (ValueError() if end == "an error" else ConnectionError()) from None

    async with stand.running({"wait": stubborn}) as member:
        await stand.send("s", "wait", id="running")
        await began.wait()
        await stand.send("s", kind="cancel", id="stop")
        await stand.send("s", "next", id="next")
        await stand.expect_reply("next")
        assert (await member.watcher.expect_settled(3))[0] == ("running", "superseded")
    assert stand.answers("s") == ["", "1. next"]
    assert stand.dead == []


async def test_a_turn_behind_the_cancel_is_not_stopped(stand: Stand) -> None:
    """Given a turn that waits in front of it: that one starts after the one that was stopped, and is answered."""
    act = Waiting()
    async with stand.running({"wait": act}):
        await stand.send("s", "wait", id="running")
        await act.began.acquire()
        await stand.send("s", "waiting", id="waiting")
        await stand.send("s", kind="cancel", id="stop")
        await stand.expect_reply("running", kind="error")
        assert (await stand.expect_reply("waiting")).text == "1. waiting"
