"""Stalls are seen and told, with what holds them; a queue that has lost its consumer is subscribed anew."""

from __future__ import annotations

import itertools

import pytest

from sdqueue.brokers import Delivery
from sdqueue.consumer import stallwatch
from tests.consumer.stand import Stand, Waiting

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stallwatch, "EVERY_S", 0.02)
    monkeypatch.setattr(stallwatch, "SILENT_S", 0.3)


async def test_an_old_delivery_is_told_with_what_holds_it(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}, consumer_timeout_s=0.3) as member:
        await stand.send("s", "wait", id="1")
        await act.began.acquire()
        await stand.send("s", "behind", id="2")
        await member.watcher.changes.until(
            lambda: {e["turn_id"] for e in member.watcher.of("delivery_stalled")} == {"1", "2"}
        )
        held = {e["turn_id"]: e["held_by"] for e in member.watcher.of("delivery_stalled")}
        assert all(e["seconds"] >= 0.1 for e in member.watcher.of("delivery_stalled"))
        act.go_on.set()
        await stand.expect_reply("2")
    assert held["1"] == "is being answered by its agent"
    assert held["2"] == "waits behind turn '1' of its session, which is being answered by its agent"


async def test_what_waits_for_a_place_says_so(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}, consumer_timeout_s=0.3, concurrency=1) as member:
        await stand.send("s", "wait", id="1")
        await act.began.acquire()
        await stand.send("other", "hello", id="2")
        await member.watcher.changes.until(
            lambda: [e for e in member.watcher.of("delivery_stalled") if e["turn_id"] == "2"]
        )
        act.go_on.set()
        await stand.expect_reply("2")
    assert "SDQUEUE_CONCURRENCY" in next(
        e["held_by"] for e in member.watcher.of("delivery_stalled") if e["turn_id"] == "2"
    )


async def test_an_old_delivery_is_told_again_only_when_its_age_has_doubled(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}, consumer_timeout_s=0.15) as member:
        await stand.send("s", "wait", id="1")
        await act.began.acquire()
        await member.watcher.expect("delivery_stalled", 4)
        act.go_on.set()
        await stand.expect_reply("1")
    ages = [e["seconds"] for e in member.watcher.of("delivery_stalled")]
    assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(ages))
    assert any(e["seconds"] > 0 for e in member.watcher.of("oldest_delivery"))


async def test_a_queue_that_delivers_nothing_is_told_and_subscribed_anew(stand: Stand) -> None:
    """Given a consumer that the broker has forgotten without a word."""
    queue = stand.topology.partition_queue(stand.partition("s"))
    async with stand.running() as member:
        forgotten = next(s for s in member.broker.made if s.queue == queue)
        stand.server._queues[queue].subscriptions.remove(forgotten)
        await stand.send("s", "hello", id="1")
        assert (await stand.expect_reply("1")).text == "1. hello"
        (event,) = member.watcher.of("queue_stalled")
    assert (event["queue"], event["depth"], event["lost"]) == (queue, 1, True)


async def test_a_queue_that_hangs_with_another_consumer_is_told_and_left_alone(stand: Stand) -> None:
    """Given one that receives and acknowledges nothing, as a process that was stopped does."""
    queue = stand.topology.partition_queue(stand.partition("s"))
    hanging = await stand.broker.subscribe(queue, lambda delivery: None, prefetch=1)
    for n in "12":
        await stand.send("s", n, id=n)
    async with stand.running() as member:
        (event, *_) = await member.watcher.expect("queue_stalled")
        assert (event["queue"], event["depth"], event["lost"]) == (queue, 1, False)
        made = [s for s in member.broker.made if s.queue == queue]
        await hanging.close()
        await stand.expect_reply("2")
    assert len(made) == 1


async def test_a_queue_that_another_consumer_empties_is_not_stalled(stand: Stand) -> None:
    queue = stand.topology.partition_queue(stand.partition("s"))
    taken: list[Delivery] = []
    other = await stand.broker.subscribe(queue, taken.append, prefetch=1)
    for n in range(100):
        await stand.send("s", str(n))
    async with stand.running() as member:
        before = len(member.watcher.of("oldest_delivery"))
        while len(member.watcher.of("oldest_delivery")) < before + 60:
            other.ack(taken[-1])
            await member.watcher.expect("oldest_delivery", len(member.watcher.of("oldest_delivery")) + 2)
        assert member.watcher.of("queue_stalled") == []
    await other.close()


async def test_a_queue_with_a_turn_that_runs_is_not_stalled(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}, prefetch=1) as member:
        await stand.send("s", "wait", id="1")
        await act.began.acquire()
        await stand.send("s", "behind", id="2")
        await member.watcher.expect("oldest_delivery", 25)
        act.go_on.set()
        await stand.expect_reply("2")
        assert member.watcher.of("queue_stalled") == []
