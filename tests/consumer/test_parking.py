"""A dead turn parks its session where its channel wants that: later turns wait until it is dealt with."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sdqueue.channels import DoubleTexting, OnDead, PerChannel
from sdqueue.errors import StoreUnavailable
from sdqueue.messages import DeadTurn, partition_of, routing_key
from sdqueue.sessions import unpark
from tests.consumer.stand import PATIENCE_S, Act, Puppet, Stand, Waiting, failing

PARK = PerChannel(OnDead.PARK)


class Broken:
    """Fails until it is mended."""

    def __init__(self) -> None:
        self.mended = False

    async def __call__(self, agent: Puppet) -> str:
        if not self.mended:
            raise ValueError("broken")
        return agent.plain("mended")


async def said(stand: Stand, session: str) -> list[str]:
    record = await stand.record(session)
    return [message.content for message in record.chat_ctx.items if message.role == "user"]


async def replay(stand: Stand, nth: int = -1) -> DeadTurn:
    """Put a letter back as the command does."""
    message = stand.dead[nth].message
    letter = DeadTurn.from_headers(message.headers)
    key = routing_key(partition_of(letter.session_id, stand.topology.partitions))
    back = replace(message, message_id=letter.turn_id, headers=letter.replay_headers())
    await stand.broker.publish(stand.topology.turns, key, back)
    return letter


async def park(stand: Stand, *, behind: int = 3) -> None:
    """Let a turn die, and some more come."""
    await stand.send("s", "bad", id="bad")
    await stand.expect_reply("bad", kind="error")
    for n in range(behind):
        await stand.send("s", f"later {n}", id=f"later-{n}")


async def expect_parked(stand: Stand, waiting: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(await stand.store.deferred("s", count=1000)) < waiting or await stand.depth():
            await asyncio.sleep(0.01)


async def test_later_turns_wait_and_other_sessions_do_not(stand: Stand) -> None:
    async with stand.running({"bad": Broken()}, on_dead=PARK):
        await park(stand)
        await stand.send("other", "hello", id="other")
        assert (await stand.expect_reply("other")).text == "1. hello"
        await expect_parked(stand, 3)
        assert await stand.depth() == 0, "they are in the store, not in the broker"
    assert (await stand.record("s")).parked_by == "bad"
    assert {r.turn_id for r in stand.replies if r.session_id == "s"} == {"bad"}


async def test_it_is_replayed_before_those_that_waited(stand: Stand) -> None:
    broken = Broken()
    async with stand.running({"bad": broken}, on_dead=PARK):
        await park(stand)
        await expect_parked(stand, 3)
        broken.mended = True
        await replay(stand)
        answer = await stand.expect_reply("bad")
        await stand.expect_reply("later-2")
        await stand.send("s", "after", id="after")
        await stand.expect_reply("after")
    assert answer.id == "bad:1"
    assert await said(stand, "s") == ["bad", "later 0", "later 1", "later 2", "after"]
    assert (await stand.record("s")).parked_by is None


async def test_a_replay_that_dies_too_leaves_it_parked_for_the_next(stand: Stand) -> None:
    broken = Broken()
    async with stand.running({"bad": broken}, on_dead=PARK):
        await park(stand)
        await replay(stand)
        await stand.expect_dead(2)
        await stand.changes.until(lambda: any(r.id == "bad:1" for r in stand.replies))
        await expect_parked(stand, 3)
        assert (await stand.record("s")).parked_by == "bad"
        broken.mended = True
        letter = await replay(stand)
        assert letter.replay == 1
        assert (await stand.expect_reply("bad")).id == "bad:2"
        await stand.expect_reply("later-2")
    assert await said(stand, "s") == ["bad", "later 0", "later 1", "later 2"]


async def test_a_replay_that_is_cancelled_lets_the_others_run(stand: Stand) -> None:
    """It is dead no more, so there is nothing left to replay."""
    broken, act = Broken(), Waiting()

    async def once_more(agent: Puppet) -> str:
        return await (act if broken.mended else broken)(agent)

    async with stand.running({"bad": once_more}, on_dead=PARK):
        await park(stand)
        await expect_parked(stand, 3)
        broken.mended = True
        await replay(stand)
        await act.began.acquire()
        await stand.send("s", "stop", id="stop", kind="cancel")
        await stand.expect_reply("stop")
    assert {r.metadata["superseded_by"] for r in stand.replies if r.id == "bad:1"} == {"stop"}
    assert (await stand.record("s")).parked_by is None
    assert await said(stand, "s") == ["later 0", "later 1", "later 2"]


@pytest.mark.parametrize("point", ["save", "saved", "enlist", "enlisted", "reply", "reply confirmed"])
async def test_a_crash_while_its_replay_is_cancelled_lets_none_wait_for_ever(stand: Stand, point: str) -> None:
    broken, act = Broken(), Waiting()

    async def once_more(agent: Puppet) -> str:
        return await (act if broken.mended else broken)(agent)

    member = stand.member({"bad": once_more}, on_dead=PARK, grace_s=0.0)
    async with stand.started(member):
        await park(stand)
        await expect_parked(stand, 3)
        broken.mended = True
        await replay(stand)
        await act.began.acquire()
        fault = member.faults.freeze(point)
        await stand.send("s", kind="cancel", id="stop")
        await fault.expect_reached()
        member.cut_off()
        member.stop_at_once()
    act.go_on.set()
    async with stand.running({"bad": once_more}, on_dead=PARK):
        await stand.expect_reply("stop")
    assert [text for text in await said(stand, "s") if text != "bad"] == ["later 0", "later 1", "later 2"]
    assert len({r.model_dump_json() for r in stand.replies if r.id == "bad:1"}) == 1


async def test_a_discarded_one_lets_the_others_run(stand: Stand) -> None:
    async with stand.running({"bad": Broken()}, on_dead=PARK):
        await park(stand)
        await expect_parked(stand, 3)
        assert await unpark(stand.store, stand.locks, "s", "bad")
        await stand.expect_reply("later-2")
    assert await said(stand, "s") == ["later 0", "later 1", "later 2"]


async def test_another_dead_turns_replay_waits_like_all_others(stand: Stand) -> None:
    """Given a turn that died before, when its channel did not park."""
    broken, worse = Broken(), Broken()
    acts: dict[str, Act] = {"bad": broken, "worse": worse}
    async with stand.running(acts):
        await stand.send("s", "worse", id="worse")
        await stand.expect_dead(1)
    async with stand.running(acts, on_dead=PARK):
        await park(stand, behind=1)
        await expect_parked(stand, 1)
        worse.mended = broken.mended = True
        await replay(stand, 0)
        await expect_parked(stand, 2)
        await replay(stand, 1)
        await stand.expect_reply("worse")
    assert await said(stand, "s") == ["bad", "later 0", "worse"]


@pytest.mark.parametrize("point", ["dead", "dead confirmed", "save", "saved", "reply", "reply confirmed"])
async def test_a_crash_while_it_dies_does_not_let_later_turns_pass(stand: Stand, point: str) -> None:
    broken = Broken()
    member = stand.member({"bad": broken}, on_dead=PARK, grace_s=0.0)
    async with stand.started(member):
        fault = member.faults.freeze(point)
        await stand.send("s", "bad", id="bad")
        await fault.expect_reached()
        for n in range(3):
            await stand.send("s", f"later {n}", id=f"later-{n}")
        member.cut_off()
        member.stop_at_once()
    async with stand.running({"bad": broken}, on_dead=PARK):
        await stand.expect_reply("bad", kind="error")
        await expect_parked(stand, 3)
        assert not [r for r in stand.replies if r.turn_id.startswith("later")]
        broken.mended = True
        await replay(stand)
        await stand.expect_reply("later-2")
    assert await said(stand, "s") == ["bad", "later 0", "later 1", "later 2"]


@pytest.mark.parametrize("point", ["save", "saved", "enlist", "enlisted", "reply", "reply confirmed"])
async def test_a_crash_while_it_is_replayed_lets_none_wait_for_ever(stand: Stand, point: str) -> None:
    broken = Broken()
    member = stand.member({"bad": broken}, on_dead=PARK, grace_s=0.0)
    async with stand.started(member):
        await park(stand)
        await expect_parked(stand, 3)
        broken.mended = True
        fault = member.faults.freeze(point)
        await replay(stand)
        await fault.expect_reached()
        member.cut_off()
        member.stop_at_once()
    async with stand.running({"bad": broken}, on_dead=PARK):
        await stand.expect_reply("later-2")
    assert await said(stand, "s") == ["bad", "later 0", "later 1", "later 2"]
    assert len({r.model_dump_json() for r in stand.replies if r.id == "bad:1"}) == 1


async def test_a_store_that_is_away_does_not_leave_it_waiting(stand: Stand) -> None:
    broken = Broken()
    async with stand.running({"bad": broken}, on_dead=PARK) as member:
        await park(stand)
        await expect_parked(stand, 3)
        broken.mended = True
        member.faults.arm("enlist", failing(StoreUnavailable("away")))
        await replay(stand)
        await stand.expect_reply("later-2")
    assert await said(stand, "s") == ["bad", "later 0", "later 1", "later 2"]


async def test_a_refused_turn_parks_nothing(stand: Stand) -> None:
    act = Waiting()
    reject = PerChannel(DoubleTexting.REJECT)
    async with stand.running({"wait": act}, on_dead=PARK, double_texting=reject):
        await stand.send("s", "wait", id="1")
        await act.began.acquire()
        await stand.send("s", "no", id="2")
        await stand.expect_dead()
        act.go_on.set()
        await stand.expect_reply("1")
        await stand.send("s", "yes", id="3")
        await stand.expect_reply("3")
    assert (await stand.record("s")).parked_by is None


async def test_a_refused_turn_can_be_replayed(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}, double_texting=PerChannel(DoubleTexting.REJECT)):
        await stand.send("s", "wait", id="1")
        await act.began.acquire()
        await stand.send("s", "again", id="2")
        await stand.expect_dead()
        act.go_on.set()
        await stand.expect_reply("1")
        await replay(stand)
        assert (await stand.expect_reply("2")).id == "2:1"
    assert await said(stand, "s") == ["wait", "again"]


async def test_a_refused_turn_that_is_replayed_waits_however_many_there_are(stand: Stand) -> None:
    """Given a backlog that is full still: refused again, the turn would be left without a letter."""
    async with stand.running({"bad": Broken()}, on_dead=PARK, backlog_size=3):
        await park(stand, behind=4)
        await stand.expect_dead(2)
        await replay(stand)
        await expect_parked(stand, 4)
        assert await unpark(stand.store, stand.locks, "s", "bad")
        answer = await stand.expect_reply("later-3")
    assert answer.id == "later-3:1"
    assert await said(stand, "s") == ["later 0", "later 1", "later 2", "later 3"]


async def test_what_is_not_to_be_refused_waits_once_for_all_in_a_full_backlog(stand: Stand) -> None:
    """Given the replay of a turn that died before, and a turn that a consumer had begun when it died. To run them in
    order to find out that it is not their turn would go on for ever, and no other turn would get to run."""
    worse = Broken()
    async with stand.running({"worse": worse}):
        await stand.send("s", "worse", id="worse")
        await stand.expect_dead(1)
    worse.mended = True
    await stand.store.begin("s", "begun")
    async with stand.running({"bad": Broken(), "worse": worse}, on_dead=PARK, backlog_size=3) as member:
        await park(stand, behind=3)
        await expect_parked(stand, 3)
        await replay(stand, 0)
        await stand.send("s", "begun", id="begun")
        await expect_parked(stand, 5)
        assert await unpark(stand.store, stand.locks, "s", "bad")
        await stand.expect_reply("begun")
        assert member.faults.passed.count("begin") < 20
    assert await said(stand, "s") == ["later 0", "later 1", "later 2", "worse", "begun"]


async def test_skip_is_the_default(stand: Stand) -> None:
    async with stand.running({"bad": Broken()}):
        await park(stand)
        await stand.expect_reply("later-2")
    assert await said(stand, "s") == ["later 0", "later 1", "later 2"]
