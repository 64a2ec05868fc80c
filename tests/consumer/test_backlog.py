"""A session that sends more than its mailbox holds: the rest waits in the store, in order, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from sdqueue.channels import DoubleTexting, PerChannel
from sdqueue.client import Client
from sdqueue.errors import RecordCorrupt, RecordSealed, SessionError, StoreUnavailable
from sdqueue.sessions import Deferred
from tests.consumer.stand import PATIENCE_S, Member, Puppet, Stand, Waiting, failing

SMALL = {"mailbox_size": 4, "prefetch": 10}


async def said(stand: Stand, session: str) -> list[str]:
    record = await stand.record(session)
    return [message.content for message in record.chat_ctx.items if message.role == "user"]


def numbers(count: int, start: int = 0) -> list[str]:
    return [str(n) for n in range(start, start + count)]


async def flood(stand: Stand, session: str, count: int, start: int = 0) -> None:
    for n in numbers(count, start):
        await stand.send(session, n, id=f"{session}-{n}")


async def backlog_of(stand: Stand, session: str) -> list[str]:
    return [turn.turn_id for turn in await stand.store.deferred(session, count=10_000)]


async def expect_empty(stand: Stand, session: str) -> None:
    """Wait until the backlog is empty, and the session is on no list."""
    async with asyncio.timeout(PATIENCE_S):
        while await backlog_of(stand, session) or await stand.store.backlogged():
            await asyncio.sleep(0.01)


def once_each(stand: Stand, session: str) -> bool:
    """Whether no turn was answered in two ways."""
    bodies = {(r.turn_id, r.model_dump_json()) for r in stand.replies if r.session_id == session}
    return len(bodies) == len({turn for turn, _ in bodies})


async def test_a_flood_is_answered_in_order_and_leaves_nothing_behind(stand: Stand) -> None:
    async with stand.running(**SMALL) as member:
        await flood(stand, "s", 100)
        await stand.expect_reply("s-99")
        await expect_empty(stand, "s")
        deferred = [turn for turn, state in member.watcher.settled if state == "deferred"]
    assert await said(stand, "s") == numbers(100)
    assert len(deferred) > 50, "nothing was deferred, so this shows nothing"
    assert await stand.depth() == 0
    assert once_each(stand, "s")


async def test_neighbours_in_the_same_partition_do_not_wait(stand: Stand) -> None:
    """Given a session whose turn does not end, with many more behind it than the partition's window holds."""
    act = Waiting()
    neighbour = next(f"n{i}" for i in range(1000) if stand.partition(f"n{i}") == stand.partition("s"))
    async with stand.running({"wait": act}, **SMALL):
        await stand.send("s", "wait", id="s-first")
        await act.began.acquire()
        await flood(stand, "s", 60)
        await stand.send(neighbour, "hello", id="n")
        assert (await stand.expect_reply("n")).text == "1. hello"
        assert len(await backlog_of(stand, "s")) >= 50
        act.go_on.set()
        await stand.expect_reply("s-59")
    assert await said(stand, "s") == ["wait", *numbers(60)]


async def test_past_the_second_bound_turns_are_refused_with_a_reply_and_a_letter(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}, **SMALL, backlog_size=20) as member:
        await stand.send("s", "wait", id="s-first")
        await act.began.acquire()
        await flood(stand, "s", 40)
        await member.watcher.expect("turn_received", 41)
        refused = [await stand.expect_reply(f"s-{n}", kind="error") for n in numbers(21, 19)]
        letters = await stand.expect_dead(21)
        act.go_on.set()
        await stand.expect_reply("s-18")
        await expect_empty(stand, "s")
        await stand.send("s", "again", id="s-30")  # the repeat of a refused one
        await member.watcher.changes.until(lambda: ("s-30", "duplicate") in member.watcher.settled)
    assert {reply.metadata["reason"] for reply in refused} == {letter.reason for letter in letters} == {"backlog-full"}
    assert await said(stand, "s") == ["wait", *numbers(19)]
    assert once_each(stand, "s")


@pytest.mark.parametrize("point", ["defer", "defer done", "take out", "undefer", "save", "saved", "reply confirmed"])
@pytest.mark.parametrize("nth", [1, 3])
async def test_a_consumer_that_dies_leaves_the_order_to_the_next(stand: Stand, point: str, nth: int) -> None:
    member = stand.member(grace_s=0.0, **SMALL)
    async with stand.started(member):
        for _ in range(nth - 1):
            member.faults.arm(point, _nothing)
        fault = member.faults.freeze(point)
        await flood(stand, "s", 30)
        await fault.expect_reached()
        member.cut_off()
        member.stop_at_once()
    await flood(stand, "s", 10, 30)
    async with stand.running(**SMALL):
        await stand.expect_reply("s-39")
        await expect_empty(stand, "s")
    assert await said(stand, "s") == numbers(40)
    assert once_each(stand, "s")


async def test_what_only_the_store_has_is_taken_up_by_the_next_consumer(stand: Stand) -> None:
    """Given a consumer that dies with everything acknowledged: no delivery comes that would tell of the backlog."""
    act = Waiting()
    member = stand.member({"wait": act}, grace_s=0.0, **SMALL)
    async with stand.started(member):
        await stand.send("s", "wait", id="s-first")
        await act.began.acquire()
        await flood(stand, "s", 30)
        await member.watcher.expect("turn_received", 31)
        await member.watcher.changes.until(lambda: len(member.watcher.settled) == 30)
        # The running turn is in the backlog too; its delivery is settled here as if its ack had come through.
        running = next(work for work, runs in member.consumer._mailboxes.works() if runs)
        running.delivery.subscription.ack(running.delivery)
        member.cut_off()
        member.stop_at_once()
    assert await stand.depth() == 0
    act.go_on.set()
    async with stand.running({"wait": act}, **SMALL):
        await stand.expect_reply("s-29")
        await expect_empty(stand, "s")
    assert await said(stand, "s") == ["wait", *numbers(30)]


@pytest.mark.parametrize("ahead", [0, 1, 7])
async def test_one_that_comes_back_from_the_dead_puts_away_what_was_answered(stand: Stand, ahead: int) -> None:
    """Given a consumer that stood still before it put turns away, and another that has answered some of them since."""
    sleeper = stand.member(**SMALL)
    async with stand.started(sleeper):
        fault = sleeper.faults.freeze("defer")
        await flood(stand, "s", 20)
        await fault.expect_reached()
        defer = stand.store.defer
        late = asyncio.create_task(_late_defer(sleeper, defer))
        sleeper.cut_off()
        async with stand.running(**SMALL):
            if ahead:
                await stand.expect_reply(f"s-{ahead}")
            fault.go_on.set()
            await late
            await stand.expect_reply("s-19")
            await flood(stand, "s", 5, 20)
            await stand.expect_reply("s-24")
            await expect_empty(stand, "s")
    assert await said(stand, "s") == numbers(25)
    assert once_each(stand, "s")


async def _late_defer(sleeper: Member, defer: Callable[..., object]) -> None:
    """What a call does that was on its way when its process was given up."""
    keeper = next(box.keeper for box in sleeper.consumer._mailboxes._boxes.values() if box.keeper is not None)
    task = keeper._task  # type: ignore[attr-defined]
    await asyncio.wait({task})


async def test_what_runs_when_a_backlog_begins_here_may_still_belong_behind_another(stand: Stand) -> None:
    """Given turns that a consumer before has put away, and a mailbox that overflows before its first turn knows."""
    async with stand.running(**SMALL) as first:
        frozen = first.faults.freeze("take out")
        await flood(stand, "s", 12)
        await frozen.expect_reached()
        await first.watcher.changes.until(lambda: ("s-4", "completed") not in first.watcher.settled)
        there = await backlog_of(stand, "s")
        first.cut_off()
        first.stop_at_once()
    assert there
    second = stand.member(**SMALL)
    loading = second.faults.freeze("load")
    async with stand.started(second):
        await loading.expect_reached()
        await flood(stand, "s", 8, 12)
        await second.watcher.changes.until(lambda: len(second.watcher.of("turn_received")) >= 8)
        loading.go_on.set()
        await stand.expect_reply("s-19")
        await expect_empty(stand, "s")
    assert await said(stand, "s") == numbers(20)


@pytest.mark.parametrize("error", [StoreUnavailable, RecordSealed])
async def test_a_store_that_is_away_is_waited_for(stand: Stand, error: type[SessionError]) -> None:
    """Away, or sealed with a key that is not here yet."""
    async with stand.running(**SMALL) as member:
        for point in ("defer", "take out", "undefer"):
            member.faults.arm(point, failing(error("away")))
        await flood(stand, "s", 40)
        await stand.expect_reply("s-39")
        assert member.watcher.of("backend_away")
    assert await said(stand, "s") == numbers(40)


async def test_turns_without_an_id_keep_their_order(stand: Stand) -> None:
    async with stand.running(**SMALL) as member:
        for n in numbers(40):
            await stand.send("s", n, id=None)
        await member.watcher.changes.until(lambda: len(stand.replies) >= 40)
    assert await said(stand, "s") == numbers(40)


async def test_a_turn_keeps_all_that_it_came_with(stand: Stand) -> None:
    """Given one that waited in the backlog: reply_to, headers and address are as they were."""
    act = Waiting()
    copies: list[str] = []
    async with stand.running({"wait": act}, mailbox_size=1, prefetch=10) as member:
        private = await stand.broker.subscribe_replies(lambda d: copies.append(d.message.correlation_id or ""))
        await stand.send("s", "wait", id="1")
        await act.began.acquire()
        for n in "234":
            body = f'{{"session_id":"s","text":"{n}","address":{{"thread":[1,null,"é"]}}}}'.encode()
            await stand.send_raw(body, "s", message_id=n, reply_to=private.queue, headers={"traceparent": f"00-{n}"})
        await member.watcher.changes.until(lambda: ("4", "deferred") in member.watcher.settled)
        act.go_on.set()
        reply = await stand.expect_reply("4")
        await stand.changes.until(lambda: copies)
        await member.watcher.changes.until(lambda: ("4", "completed") in member.watcher.settled)
    assert reply.address == {"thread": [1, None, "é"]}
    assert copies == ["2", "3", "4"]


async def test_what_fails_in_the_backlog_dies_alone(stand: Stand) -> None:
    async def fail(agent: Puppet) -> str:
        raise ValueError("no")

    async with stand.running({"bad": fail}, **SMALL) as member:
        await flood(stand, "s", 20)
        await stand.send("s", "bad", id="bad")
        await flood(stand, "s", 20, 20)
        await stand.expect_reply("s-39")
        assert ("bad", "dead") in member.watcher.settled
    assert await said(stand, "s") == numbers(40)


async def test_deliveries_that_were_taken_along_and_sent_back_are_settled(stand: Stand) -> None:
    """Given a joint turn that fails when the mailbox has overflowed: what it had taken along is in the backlog, and is
    found to be behind the turn that failed, which is not out of it yet."""
    act = Waiting()

    async def fail(agent: Puppet) -> str:
        await act(agent)
        raise ValueError("no")

    collect = PerChannel(DoubleTexting.COLLECT)
    async with stand.running({"bad": fail}, double_texting=collect, concurrency=1, **SMALL) as member:
        loading = member.faults.freeze("load")
        await stand.send("s", "bad one", id="bad")
        await loading.expect_reached()
        await flood(stand, "s", 2)
        await member.watcher.expect("turn_received", 3)
        loading.go_on.set()
        await act.began.acquire()
        await flood(stand, "s", 5, 2)
        await member.watcher.changes.until(lambda: ("s-6", "deferred") in member.watcher.settled)
        undeferring = member.faults.freeze("undefer")
        act.go_on.set()
        await undeferring.expect_reached()
        async with asyncio.timeout(PATIENCE_S):
            while member.faults.passed[-1] != "rewind":  # so the next one was sent back
                await asyncio.sleep(0.01)
        undeferring.go_on.set()
        await stand.expect_reply("s-6")
        await expect_empty(stand, "s")
        held = [delivery for made in member.broker.made for delivery in made._unacked]
    assert held == []
    assert "\n".join(await said(stand, "s")).split("\n") == numbers(7)


async def test_a_turn_sent_behind_others_of_a_new_session_has_not_begun(stand: Stand) -> None:
    """Given a session that no turn has ended in yet. Beginnings without an end make a turn a suspect."""
    act = Waiting()
    member = stand.member({"wait": act}, grace_s=0.0, **SMALL)
    async with stand.started(member):
        await stand.send("s", "wait", id="s-first")
        await act.began.acquire()
        await flood(stand, "s", 8)
        await member.watcher.changes.until(lambda: len(member.watcher.settled) == 8)
        running = next(work for work, runs in member.consumer._mailboxes.works() if runs)
        running.delivery.subscription.ack(running.delivery)
        member.cut_off()
        member.stop_at_once()
    begun = stand.begun("s")
    await flood(stand, "s", 1, 8)
    member = stand.member({"wait": act}, **SMALL)
    deferring = member.faults.freeze("defer")
    async with stand.started(member):
        await deferring.expect_reached()
        assert (stand.begun("s"), await stand.store.load("s")) == (begun, None)
        deferring.go_on.set()
        act.go_on.set()
        await stand.expect_reply("s-8")
    assert await said(stand, "s") == ["wait", *numbers(9)]


async def test_what_comes_while_a_consumer_stops_does_not_overtake_what_it_has_dropped(stand: Stand) -> None:
    """Given turns that wait and are dropped, to be delivered again, and neighbours whose ends let more of them come."""
    act, others = Waiting(), Waiting()
    there = (name for name in (f"n{n}" for n in range(1000)) if stand.partition(name) == stand.partition("s"))
    neighbours = [next(there) for _ in range(6)]
    member = stand.member({"wait": act, "other": others}, **SMALL)
    async with stand.started(member):
        await stand.send("s", "wait", id="s-first")
        for name in neighbours:
            await stand.send(name, "other", id=name)
        await act.began.acquire()
        await flood(stand, "s", 20)
        await member.watcher.expect("turn_received", 10)
        member.stop()
        await member.watcher.changes.until(lambda: not member.consumer._mailboxes.waiting)
        others.go_on.set()
        await member.watcher.expect("turn_received", 16)
        act.go_on.set()
    async with stand.running(**SMALL):
        await stand.expect_reply("s-19")
        await expect_empty(stand, "s")
    assert await said(stand, "s") == ["wait", *numbers(20)]


async def test_a_backlog_that_cannot_be_read_costs_its_partition_one_redelivery(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays on the list, and is not tried again with every look."""
    monkeypatch.setattr("sdqueue.consumer.backlogs.LOOK_S", 0.01)
    monkeypatch.setattr("sdqueue.consumer.reader.AFTER_ERROR_S", 0.01)
    damaged = RecordCorrupt("session 's': a turn of its backlog has no message")
    await stand.store.defer("s", [Deferred("1", b"")], limit=10)
    async with stand.running() as member:
        member.faults.arm("take out", *[failing(damaged)] * 100)
        await member.watcher.expect("internal_error")
        await member.watcher.expect("queue_lost")
        looks = 0
        backlogged = stand.store.backlogged

        async def counted() -> dict[str, str]:
            nonlocal looks
            looks += 1
            member.watcher.changes.wake()
            return await backlogged()

        monkeypatch.setattr(stand.store, "backlogged", counted)
        await member.watcher.changes.until(lambda: looks > 20)
        assert len(member.watcher.of("internal_error")) == len(member.watcher.of("queue_lost")) == 1


async def test_a_list_that_cannot_be_read_is_told_and_ends_no_consumer(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def damaged() -> dict[str, str]:
        raise RecordCorrupt("backlogged/x is damaged: it names no session; remove it")

    monkeypatch.setattr(stand.store, "backlogged", damaged)
    async with stand.running(**SMALL) as member:
        (told, *_) = await member.watcher.expect("internal_error")
        await flood(stand, "s", 20)
        await stand.expect_reply("s-19")
    assert "remove it" in told["error"]
    assert await said(stand, "s") == numbers(20)


async def _nothing() -> None:
    return None


@pytest.mark.parametrize("dies", [False, True])
async def test_who_asks_again_for_a_turn_that_waits_gets_its_answer_too(stand: Stand, dies: bool) -> None:
    """Given a turn in the backlog, asked for by a process that died: others ask under its id, and a consumer dies."""
    act = Waiting()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(stand.broker)) for _ in range(3)]
        member = stand.member({"wait": act}, grace_s=0.0, **SMALL)
        async with stand.started(member):
            await stand.send("s", "wait", id="s-first")
            await act.began.acquire()
            await flood(stand, "s", 20)
            asked = [asyncio.create_task(client.ask("s", "19", id="s-19", timeout=20)) for client in clients]
            await member.watcher.changes.until(lambda: len([t for t, _ in member.watcher.settled if t == "s-19"]) == 4)
            if dies:
                member.cut_off()
                member.stop_at_once()
            act.go_on.set()
            if not dies:
                answers = await asyncio.gather(*asked)
                await expect_empty(stand, "s")
        if dies:
            async with stand.running({"wait": act}, **SMALL):
                answers = await asyncio.gather(*asked)
                await expect_empty(stand, "s")
    assert [answer.text for answer in answers] == ["21. 19"] * 3
    assert await said(stand, "s") == ["wait", *numbers(20)]
    assert once_each(stand, "s")


async def test_repeats_that_wait_have_a_bound(stand: Stand) -> None:
    """As many as turns may wait; those in excess are acknowledged all the same, and get no direct reply."""
    act = Waiting()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(stand.broker)) for _ in range(15)]
        async with stand.running({"wait": act}, **SMALL, backlog_size=10) as member:
            await stand.send("s", "wait", id="s-first")
            await act.began.acquire()
            await flood(stand, "s", 8)
            asked = [asyncio.create_task(client.ask("s", "7", id="s-7", timeout=20)) for client in clients]
            await member.watcher.changes.until(lambda: len([t for t, _ in member.watcher.settled if t == "s-7"]) == 16)
            assert len(await backlog_of(stand, "s")) == 20
            act.go_on.set()
            done, waits = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            await expect_empty(stand, "s")
            while len(done) < 11:
                more, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                done |= more
        assert len(waits) == 4
        for task in waits:
            task.cancel()
        await asyncio.wait(waits)
    assert await said(stand, "s") == ["wait", *numbers(8)]
