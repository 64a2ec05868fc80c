"""What a resharding refuses, what it leaves alone, and what it does with messages that are not plain turns."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from sdqueue.brokers import MemoryBroker
from sdqueue.brokers.topology import Queue, Topology
from sdqueue.consumer.membership import Epoch
from sdqueue.errors import ConfigurationError, ReshardingFailed, TopologyMissing
from sdqueue.messages import REPLAY_HEADER
from sdqueue.resharding import Resharding, ReshardOptions
from sdqueue.resharding.plan import PLAN_HEADER, Plan
from sdqueue.resharding.stretch import MARKER_HEADER
from sdqueue.sessions import Retention, TurnOutcome
from sdqueue.testing.inbox import Inbox
from tests.resharding.world import OPTIONS, Life, World


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World(4)
    async with world.broker:
        await world.broker.apply()
        yield world


async def test_the_same_number_changes_nothing(world: World) -> None:
    await world.send("s", 4)
    report = await world.reshard(4)
    assert (report.before, report.after, report.kept, report.resumed) == (4, 4, 0, False)
    assert await world.store.backlogged() == {}
    assert (await world.pool.look()).epoch is None


@pytest.mark.parametrize("partitions", [0, 10_000])
async def test_there_are_limits(world: World, partitions: int) -> None:
    with pytest.raises(ConfigurationError, match=f"^{partitions} partitions"):
        await world.reshard(partitions)


async def test_a_namespace_that_is_not_there_is_told(world: World) -> None:
    async with MemoryBroker(Topology("nowhere", 4), world.server) as broker:
        with pytest.raises(TopologyMissing, match="nowhere"):
            await Resharding(broker, world.store, 8).run()


async def test_the_report_says_what_was_done(world: World) -> None:
    for number in range(10):
        await world.send(f"s{number}", 4)
    await world.publish(b"no turn", "0001")
    report = await world.reshard(6)
    assert (report.before, report.after, report.kept, report.passed_on, report.resumed) == (4, 6, 10, 1, False)
    assert 0 < report.held_s < OPTIONS.patience_s


async def test_too_much_for_the_store_is_refused_before_anything_is_done(world: World) -> None:
    for number in range(5):
        await world.send(f"s{number}", 4 if number else None)
    with pytest.raises(ReshardingFailed, match=r"5 turns wait.*--at-most 5"):
        await world.reshard(8, options=ReshardOptions(at_most=4))
    assert world.is_as_applied(4)
    assert (await world.pool.look()).epoch is None
    assert (await world.reshard(8, options=ReshardOptions(at_most=5))).kept == 5


async def test_a_second_command_is_refused_while_one_is_at_work(world: World) -> None:
    await world.broker.declare([Queue(world.topology.resharding)])
    subscription = await world.broker.subscribe(world.topology.resharding, Inbox(), prefetch=1)
    with pytest.raises(ReshardingFailed, match="at work"):
        await world.reshard(8)
    await subscription.close()
    await world.reshard(8)
    assert world.is_as_applied(8)


async def test_another_number_is_refused_while_one_is_to_be_brought_to_its_end(world: World) -> None:
    steps = Life()
    await count_steps(steps)
    await world.reshard_and_die(8, Life(steps.done // 2))
    with pytest.raises(ReshardingFailed, match=r"to 8 partitions was interrupted.*--partitions 8"):
        await world.reshard(2)
    assert (await world.reshard(8)).resumed
    assert world.is_as_applied(8)


async def count_steps(steps: Life) -> None:
    """How many steps it takes."""
    other = World(4)
    async with other.broker:
        await other.broker.apply()
        await other.reshard(8, steps)


async def test_without_a_pool_consumers_have_to_be_stopped_first(world: World) -> None:
    subscription = await world.broker.subscribe(world.topology.partition_queue(2), Inbox(), prefetch=1)
    with pytest.raises(ReshardingFailed, match=r"test\.turns\.0002.*stop them"):
        await world.reshard(8, pooled=False)
    assert world.is_as_applied(4)
    await subscription.close()
    await world.reshard(8, pooled=False)
    assert world.is_as_applied(8)


async def test_whoever_takes_a_queue_in_the_middle_is_waited_for_and_named(world: World) -> None:
    """It has messages in hand that no count shows, and they come before all that was published later."""
    for _ in range(5):
        await world.send("s", 4)
    queue = next(q for q in world.topology.partition_queues if world.waiting(q))
    inbox = Inbox()

    async def intrude(_: int) -> None:
        # As soon as the keys are unbound: everybody has been seen to be gone by then.
        if not inbox.deliveries and not world.server.layout.bindings[world.topology.turns]:
            await world.broker.subscribe(queue, inbox, prefetch=3)
            await inbox.expect(3)
            await world.send("s", 4)

    with pytest.raises(ReshardingFailed, match=rf"{queue} has not handed out"):
        await world.reshard(8, Life(before=intrude), options=ReshardOptions(prefetch=3, patience_s=1.0))
    assert await world.store.backlogged() == {}
    await inbox.deliveries[0].subscription.close()
    await world.reshard(8)
    assert await world.consumed(8) == world.sent


async def test_it_is_called_off_while_consumers_have_not_let_go(world: World) -> None:
    """As by Ctrl-C: nothing was moved, and everything goes on as before."""
    world.pool.beat("slow.1", "0:0")
    await world.send("s", 4)
    running = asyncio.create_task(world.reshard(8))
    async with asyncio.timeout(20):
        while (await world.pool.look()).epoch is None:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert world.is_as_applied(4)
    assert (await world.pool.look()).epoch == Epoch(4)
    assert await world.consumed(4) == world.sent


async def test_a_redis_that_was_emptied_in_the_middle_does_not_keep_consumers_waiting(world: World) -> None:
    async def empty(_: int) -> None:
        if not world.server.layout.bindings[world.topology.turns]:
            world.pool.epoch = None

    await world.reshard(8, Life(before=empty))
    assert (await world.pool.look()).epoch == Epoch(8)


async def test_what_is_no_turn_is_left_to_the_consumers(world: World) -> None:
    for key in ("0000", "0001", "somewhere"):
        await world.publish(key.encode(), key)
    await world.reshard(3)
    waiting = [entry.message.body for entry in world.server._queue("test.turns.0000").waiting]
    assert sorted(waiting) == [b"0000", b"0001", b"somewhere"]


async def test_a_turn_that_was_refused_is_left_to_the_consumers(world: World) -> None:
    """Its repeat is to be answered as it was, and may not run after all."""
    turn_id = await world.send("s", 4)
    outcome = TurnOutcome(turn_id, time.time(), ("{}",), "dead")
    await world.store.refuse("s", outcome, retention=Retention())
    later = await world.send("s", 4)
    await world.reshard(3)
    assert [turn.turn_id for turn in await world.store.deferred("s", count=10)] == [later]
    assert [ids for q in Topology("test", 3).partition_queues if (ids := world.waiting(q))] == [[turn_id]]


@pytest.mark.parametrize("known", [4, 7, None])
async def test_headers_that_somebody_has_forged_lose_nothing(world: World, known: int | None) -> None:
    """Also not where they say of a turn that it is a marker, or a plan of a resharding."""
    for headers in ({MARKER_HEADER: "x"}, {PLAN_HEADER: 1}):
        session = f"s{len(world.sent)}"
        turn_id = await world.send(session, known)
        (entry,) = [
            e for queue in world.server._queues.values() for e in queue.waiting if turn_id in str(e.message.body)
        ]
        entry.message.headers.update(headers)  # type: ignore[attr-defined]  # it is a dict
    assert (await world.reshard(3)).kept == 2
    assert await world.consumed(3) == world.sent


async def test_a_replay_does_not_wait_behind_what_waits_for_it(world: World) -> None:
    turn_id = await world.send("s", 4)
    (entry,) = [e for queue in world.server._queues.values() for e in queue.waiting]
    entry.message.headers.update({REPLAY_HEADER: 1})  # type: ignore[attr-defined]  # it is a dict
    await world.reshard(3)
    assert await world.store.deferred("s", count=10) == []
    assert [ids for q in Topology("test", 3).partition_queues if (ids := world.waiting(q))] == [[turn_id]]


def test_a_plan_survives_the_broker() -> None:
    message = Plan(4, 8, binding=True).message()
    assert json.loads(message.body) == {"before": 4, "after": 8, "binding": True}
    assert PLAN_HEADER in message.headers
