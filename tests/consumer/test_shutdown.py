"""Stopping: what runs may end, what has not started goes back in order, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sdqueue.brokers import Message
from sdqueue.errors import BrokerUnavailable, StoreUnavailable, TopologyMissing
from sdqueue.sessions import AsyncioLockBackend
from tests.consumer.stand import PATIENCE_S, Member, Puppet, Stand, failing


class Waiting:
    def __init__(self) -> None:
        self.began = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()

    async def __call__(self, agent: Puppet) -> str:
        self.began.release()
        await self.go_on.wait()
        return agent.plain("waited")


async def expect_ended(member: Member) -> None:
    task = member.consumer._task
    assert task is not None
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait({task})


async def expect_no_tasks_but(*known: asyncio.Task[Any] | None) -> None:
    for _ in range(5):
        await asyncio.sleep(0)  # those that were cancelled last end in the next round of the loop
    assert asyncio.all_tasks() - set(known) == set()


async def test_running_turns_end_and_the_next_consumer_gets_the_rest_in_order(stand: Stand) -> None:
    act = Waiting()
    first = stand.member({"wait": act})
    async with first.broker:
        async with first.consumer:
            await stand.send("s", "wait", id="0")
            await act.began.acquire()
            for n in range(1, 30):
                await stand.send("s", str(n), id=str(n))
            await first.watcher.expect("turn_received", 30)
            async with stand.running() as second:
                first.stop()
                await stand.send("s", "last", id="last")
                act.go_on.set()
                await stand.expect_reply("last")
                await expect_ended(first)
        assert first.watcher.settled == [("0", "completed")]
        assert [turn for turn, _ in second.watcher.settled] == [*map(str, range(1, 30)), "last"]
        assert {state for _, state in second.watcher.settled} == {"completed"}
    assert [r.seq for r in stand.replies] == list(range(1, 32))


async def test_other_partitions_are_handed_over_before_the_last_turn_has_ended(stand: Stand) -> None:
    """Each channel is closed as soon as nothing of it runs: one slow turn holds up one partition."""
    act = Waiting()
    other = next(f"n{n}" for n in range(100) if stand.partition(f"n{n}") != stand.partition("s"))
    async with stand.running({"wait": act}) as first, stand.running():
        await stand.send("s", "wait", id="slow")
        await act.began.acquire()
        first.stop()
        turn = await stand.send(other, "hello")
        await stand.expect_reply(turn)
        assert first.watcher.settled == []
        act.go_on.set()
        await stand.expect_reply("slow")


async def test_what_does_not_end_in_time_is_cancelled_and_comes_again(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}, grace_s=0.05) as first:
        await stand.send("s", "wait", id="slow")
        await act.began.acquire()
        first.stop()
        await expect_ended(first)
    assert first.watcher.settled == [("slow", "released")]
    assert stand.replies == []
    assert stand.begun("s") == {}, "an interruption by a live process counts as a beginning"
    act.go_on.set()
    async with stand.running({"wait": act}):
        assert (await stand.expect_reply("slow")).text == "1. waited"


async def test_a_second_stop_skips_the_grace_period(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}, grace_s=3600) as member:
        await stand.send("s", "wait", id="slow")
        await act.began.acquire()
        member.stop()
        member.stop()
        await expect_ended(member)
        member.stop()
    assert member.watcher.settled == [("slow", "released")]


async def test_a_stop_before_the_start_is_remembered(stand: Stand) -> None:
    member = stand.member()
    member.stop()
    async with member.broker, asyncio.timeout(PATIENCE_S):
        await member.consumer.run()
    await stand.send("s", "x")
    assert member.watcher.of("turn_received") == []


async def test_turns_that_arrive_during_a_stop_are_not_started(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}) as member:
        await stand.send("s", "wait", id="slow")
        await act.began.acquire()
        member.stop()
        await stand.send("s", "late", id="late")
        neighbour = next(f"n{n}" for n in range(100) if stand.partition(f"n{n}") == stand.partition("s"))
        await stand.send(neighbour, "late too")
        await member.watcher.expect("turn_received", 3)
        act.go_on.set()
        await expect_ended(member)
    assert member.watcher.settled == [("slow", "completed")]
    assert await stand.depth() == 2


async def test_a_turn_of_a_lost_channel_may_end_too(stand: Stand) -> None:
    """The interleaving: the connection breaks while a turn runs, and then the consumer is stopped. Cancelled at once,
    the turn would run again elsewhere; saved within the grace period, it answers its own redelivery."""
    act = Waiting()
    async with stand.running({"wait": act}) as member:
        await stand.send("s", "wait", id="slow")
        await act.began.acquire()
        member.cut_off()
        member.stop()
        act.go_on.set()
        await expect_ended(member)
    assert (await stand.record("s")).seq == 1
    async with stand.running({"wait": act}) as second:
        await second.watcher.expect_settled(1)
    assert second.watcher.settled == [("slow", "duplicate")]
    assert act.began.locked(), "it ran once"


async def test_a_turn_that_could_not_begin_does_not_hold_up_a_stop(stand: Stand) -> None:
    """The store is away: the turn has done nothing that a grace period could save, and is left to another consumer."""
    async with stand.running(grace_s=PATIENCE_S) as member:
        member.faults.arm("load", *[failing(StoreUnavailable("away"))] * 1000)
        await stand.send("s", "hello", id="t")
        await member.watcher.expect("backend_away", 2)
        member.stop()
        await expect_ended(member)
        assert member.watcher.settled == [("t", "released")]
    async with stand.running() as second:
        await second.watcher.expect_settled(1)
    assert second.watcher.settled == [("t", "completed")]


async def test_a_queue_that_is_lost_during_a_stop_is_not_taken_again(stand: Stand) -> None:
    """The interleaving: the consumer waits for its last turn, the connection breaks, and its readers would subscribe
    anew: whoever takes over would then wait for the end of the grace period."""
    act = Waiting()
    async with stand.running({"wait": act}) as member:
        await stand.send("s", "wait", id="slow")
        await act.began.acquire()
        member.stop()
        await asyncio.sleep(0)
        subscribed = len(member.broker.made)
        member.cut_off()
        async with stand.running({"wait": act}, lock_backend=AsyncioLockBackend()) as second:
            await second.watcher.expect("turn_received")
            act.go_on.set()
            await stand.expect_reply("slow")
        await expect_ended(member)
        assert len(member.broker.made) == subscribed


async def test_it_stops_while_the_broker_takes_no_replies(stand: Stand) -> None:
    """The turn is saved and its reply cannot go out: it is not acknowledged, and the next consumer sends it."""
    async with stand.running(grace_s=0.1) as member:
        member.faults.arm("reply", *[failing(BrokerUnavailable("away"))] * 1000)
        await stand.send("s", "x", id="t")
        await member.watcher.expect("backend_away")
        member.stop()
        await expect_ended(member)
    assert member.watcher.settled == [("t", "released")]
    assert stand.replies == []
    async with stand.running() as second:
        assert (await stand.expect_reply("t")).text == "1. x"
        assert await second.watcher.expect_settled(1) == [("t", "duplicate")]


async def test_it_stops_while_its_queues_cannot_be_had(stand: Stand) -> None:
    member = stand.member()
    member.faults.arm("subscribe", *[failing(BrokerUnavailable("away"))] * 1000)
    async with member.broker:
        run = asyncio.create_task(member.consumer.run())
        await member.watcher.expect("queue_lost")
        member.stop()
        async with asyncio.timeout(PATIENCE_S):
            await run
    assert member.watcher.of("queue_taken") == []


async def test_queues_that_cannot_be_had_are_asked_for_until_they_can(stand: Stand) -> None:
    member = stand.member()
    member.faults.arm("subscribe", failing(TopologyMissing("not yet")), failing(BrokerUnavailable("away")))
    async with stand.started(member):
        turn = await stand.send("s", "x")
        await stand.expect_reply(turn)
    assert len(member.watcher.of("queue_lost")) == 2


async def test_a_lost_queue_is_taken_again_and_its_turns_come_in_order(stand: Stand) -> None:
    async with stand.running() as member:
        for n in range(50):
            await stand.send("s", str(n))
            if n % 10 == 5:
                await member.watcher.expect("turn_received", 1)
                member.cut_off()
        await stand.expect_reply("t50")
    assert stand.answers("s") == [f"{n + 1}. {n}" for n in range(50)]
    assert len(member.watcher.of("queue_lost")) >= 5


async def test_a_side_task_that_dies_ends_the_consumer_with_its_error(stand: Stand) -> None:
    act = Waiting()
    member = stand.member({"wait": act})
    async with member.broker:
        run = asyncio.create_task(member.consumer.run())
        await member.consumer.ready()
        await stand.send("s", "wait", id="slow")
        await act.began.acquire()
        member.faults.arm("subscribe", failing(ZeroDivisionError("a defect")))
        member.cut_off()
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.timeout(PATIENCE_S):
                await run
    assert raised.group_contains(ZeroDivisionError)
    assert member.watcher.settled == [("slow", "released")]
    assert await stand.depth() == 1


async def test_a_consumer_whose_start_is_given_up_leaves_nothing_running(stand: Stand) -> None:
    """The interleaving: entering the block is cancelled while queues cannot be had; there is nobody to leave it."""
    member = stand.member()
    member.faults.arm("subscribe", *[failing(BrokerUnavailable("away"))] * 1000)
    async with member.broker:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), member.consumer:
                pytest.fail("it cannot have started")
        assert member.consumer._task is not None
        assert member.consumer._task.done()
    await expect_no_tasks_but(asyncio.current_task())


async def test_a_start_that_fails_says_so(stand: Stand) -> None:
    member = stand.member()
    member.faults.arm("subscribe", failing(ZeroDivisionError("a defect")))
    async with member.broker:
        with pytest.raises(ExceptionGroup) as raised:
            async with member.consumer:
                pytest.fail("it cannot have started")
    assert raised.group_contains(ZeroDivisionError)


async def test_a_stopped_consumer_leaves_no_task_behind(stand: Stand) -> None:
    before = asyncio.all_tasks()
    async with stand.running():
        for n in range(20):
            await stand.send(f"s{n}", "x", stream=bool(n % 2))
        await stand.send_raw(b"junk", "s")
        await stand.broker.publish(stand.topology.turns, "stray", Message(b'{"session_id": "s", "text": "x"}'))
        await stand.expect_replies(31)
    await expect_no_tasks_but(*before)
