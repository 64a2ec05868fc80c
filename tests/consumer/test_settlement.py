"""Every delivery ends in exactly one state, wherever a process stops.

Each row of the two tables of the design (section 5) is forced. A process that stops is played by one that stands still
at a point and loses its subscriptions: the broker gives its deliveries to the next one. That is at once the harder
case, since the first one wakes up afterwards and must do no harm. Each has a lock of its own, as if the lock of the
one that stands still had expired.
"""

from __future__ import annotations

import pytest

from sdqueue.brokers import Delivery
from sdqueue.consumer.settlement import Settlement
from sdqueue.consumer.work import Work
from sdqueue.errors import BrokerUnavailable, PublishRejected
from sdqueue.sessions import AsyncioLockBackend
from tests.consumer.stand import Act, Puppet, Stand, failing

CRASHES = {
    "delivery": ("load", True, 1),
    "acquire": ("begun", True, 1),
    "agent": ("save", True, 1),
    "save": ("saved", False, 1),
    "before the reply": ("reply", False, 1),
    "reply confirmed": ("reply confirmed", False, 2),
}
"""After what it stops: the point, whether the turn runs again elsewhere, how often its reply is out before it wakes."""


@pytest.mark.parametrize(("point", "runs_again", "replies"), CRASHES.values(), ids=CRASHES.keys())
async def test_whatever_a_stopped_process_has_done_the_next_one_ends_its_turn_once(
    stand: Stand, point: str, runs_again: bool, replies: int
) -> None:
    ran: list[str] = []

    def acts(who: str) -> dict[str, Act]:
        async def count(agent: Puppet) -> str:
            ran.append(who)
            return agent.plain(who)

        return {"count": count}

    first = stand.member(acts("first"), lock_backend=AsyncioLockBackend())
    second = stand.member(acts("second"), lock_backend=AsyncioLockBackend())
    async with stand.started(first), stand.started(second):
        frozen = first.faults.freeze(point)
        turn = await stand.send("s", "count", id="turn")
        behind = await stand.send("s", "behind", id="behind")
        await frozen.expect_reached()
        first.cut_off()
        await stand.expect_reply(behind)
        assert await second.watcher.expect_settled(2) == [
            (turn, "completed" if runs_again else "duplicate"),
            (behind, "completed"),
        ]
        effect = "second" if runs_again else "first"
        assert [b for b in stand.bodies if b'"turn:0"' in b] == [stand.bodies[0]] * replies
        assert stand.answers("s") == [f"1. {effect}", "2. behind"]

        frozen.go_on.set()  # the first one wakes up, with its work half done
        await first.watcher.expect_settled(1)
        await stand.send("s", "last", id="last")
        await stand.expect_reply("last")

    assert len({b for b in stand.bodies if b'"turn:0"' in b}) == 1, "one reply id, two different replies"
    assert ran.count("second") == runs_again
    record = await stand.record("s")
    assert stand.answers("s") == [f"1. {effect}", "2. behind", "3. last"]
    assert record.seq == 3
    assert [m.content for m in record.chat_ctx.items if m.role == "user"] == ["count", "behind", "last"]
    assert await stand.depth() == 0


async def test_after_the_ack_nothing_happens(stand: Stand) -> None:
    async with stand.running() as first:
        await stand.send("s", "x")
        await first.watcher.expect_settled(1)
        first.cut_off()
    async with stand.running() as second:
        await stand.send("s", "y")
        await stand.expect_replies(2)
    assert len(second.watcher.of("turn_received")) == 1


# The table of states


async def test_a_completed_turn_is_acknowledged_only_after_its_reply_is_confirmed(stand: Stand) -> None:
    async with stand.running() as member:
        member.faults.arm(
            "reply",
            failing(BrokerUnavailable("away")),
            failing(PublishRejected("full")),
            failing(BrokerUnavailable("away")),
        )
        frozen = member.faults.freeze("reply")
        turn = await stand.send("s", "x")
        await frozen.expect_reached()
        assert member.watcher.settled == []
        assert [event["backend"] for event in member.watcher.of("backend_away")] == ["broker"] * 2
        frozen.go_on.set()
        await stand.expect_reply(turn)
        assert await member.watcher.expect_settled(1) == [(turn, "completed")]
    assert (await stand.record("s")).seq == 1


async def test_a_dead_turn_is_put_away_before_its_user_is_told(stand: Stand) -> None:
    """The letter first: between the two nothing may be lost. A repeat of the first step is allowed, of none is not."""

    async def fail(_: Puppet) -> str:
        raise ValueError("boom")

    async with stand.running({"fail": fail}) as first:
        frozen = first.faults.freeze("dead confirmed")
        await stand.send("s", "fail", id="dead")
        await frozen.expect_reached()
        assert stand.replies == []
        first.stop_at_once()
    assert first.watcher.settled == [("dead", "released")]
    async with stand.running({"fail": fail}) as second:
        await stand.expect_reply("dead", kind="error")
        assert await second.watcher.expect_settled(1) == [("dead", "dead")]
    assert [letter.turn_id for letter in await stand.expect_dead(2)] == ["dead", "dead"]


async def test_a_dead_turn_whose_user_was_not_told_yet_is_told_after_the_crash(stand: Stand) -> None:
    """Its end is remembered with the session: the agent does not run again, and no second letter is written."""
    ran: list[str] = []

    async def fail(_: Puppet) -> str:
        ran.append("x")
        raise ValueError("boom")

    async with stand.running({"fail": fail}) as first:
        frozen = first.faults.freeze("reply")
        await stand.send("s", "fail", id="dead")
        await frozen.expect_reached()
        first.stop_at_once()
    async with stand.running({"fail": fail}) as second:
        await stand.expect_reply("dead", kind="error")
        assert await second.watcher.expect_settled(1) == [("dead", "duplicate")]
    assert ran == ["x"]
    assert len(stand.dead) == 1


async def test_a_letter_that_cannot_be_written_keeps_the_turn_unacknowledged(stand: Stand) -> None:
    async with stand.running() as first:
        first.faults.arm("dead", failing(BrokerUnavailable("away")))
        frozen = first.faults.freeze("dead")
        await stand.send_raw(b"{", "s")
        await frozen.expect_reached()
        first.cut_off()
        await first.watcher.expect("turn_received", 2)
        frozen.go_on.set()
        await stand.expect_dead(2)


async def test_a_copy_goes_straight_to_whoever_asked_and_one_that_is_gone_hinders_nobody(stand: Stand) -> None:
    copies: list[bytes] = []

    def hear(delivery: Delivery) -> None:
        copies.append(delivery.message.body)
        stand.changes.wake()

    private = await stand.broker.subscribe_replies(hear)
    body = b'{"session_id": "s", "text": "x", "id": "%s"}'
    async with stand.running() as member:
        await stand.send_raw(body % b"a", "s", reply_to=private.queue)
        await stand.send_raw(body % b"b", "s", reply_to="a.queue.that.is.gone")
        await member.watcher.expect_settled(2)
        await stand.changes.until(lambda: copies)
    assert copies == [stand.bodies[0]]
    assert [r.turn_id for r in stand.replies] == ["a", "b"]


# What nobody has foreseen


async def test_an_unexpected_error_costs_a_redelivery_and_no_order(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interleaving: a turn ends without being settled, and the next of its session is waiting in the mailbox, and
    another one arrives before the subscription is closed. If either started, it would overtake."""
    monkeypatch.setattr("sdqueue.consumer.reader.AFTER_ERROR_S", 0.01)
    async with stand.running() as member:
        defect = member.faults.freeze("reply")

        async def fail() -> None:
            await defect()
            raise ZeroDivisionError("a defect of ours")

        member.faults._armed["reply"] = [fail]
        await stand.send("s", "one", id="1")
        await stand.send("s", "two", id="2")
        await defect.expect_reached()
        await stand.send("s", "three", id="3")
        defect.go_on.set()
        await stand.expect_replies(3)
        (event,) = member.watcher.of("internal_error")
        assert (event["turn_id"], event["error"]) == ("1", "ZeroDivisionError: a defect of ours")
        assert await member.watcher.expect_settled(3) == [("1", "duplicate"), ("2", "completed"), ("3", "completed")]
    assert [r.text for r in stand.replies] == ["1. one", "2. two", "3. three"]


async def test_a_defect_before_the_save_lets_nothing_overtake_either(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the first effect, an overtaking turn would be the first one to count."""
    monkeypatch.setattr("sdqueue.consumer.reader.AFTER_ERROR_S", 0.01)
    failed: list[int] = []
    async with stand.running() as member:
        run = member.consumer._pipeline.run

        async def fails_once(work: Work) -> Settlement:
            if not failed:
                failed.append(1)
                raise ZeroDivisionError
            return await run(work)

        monkeypatch.setattr(member.consumer._pipeline, "run", fails_once)
        for n in range(10):
            await stand.send("s", str(n))
        await stand.expect_replies(10)
    assert stand.answers("s") == [f"{n + 1}. {n}" for n in range(10)]


async def test_an_error_in_an_old_generation_does_not_end_the_new_one(stand: Stand) -> None:
    """The interleaving: a turn runs, its subscription is lost and replaced, and only then the turn hits a defect."""
    async with stand.running() as member:
        frozen = member.faults.freeze("reply")

        async def fail() -> None:
            await frozen()
            raise ZeroDivisionError

        member.faults._armed["reply"] = [fail]
        await stand.send("s", "one", id="1")
        await frozen.expect_reached()
        member.cut_off()
        await member.watcher.expect("turn_received", 2)
        subscribed = len(member.broker.made)
        frozen.go_on.set()
        await member.watcher.expect("internal_error")
        await stand.expect_reply("1")
        await stand.send("s", "two", id="2")
        await stand.expect_reply("2")
        assert len(member.broker.made) == subscribed
