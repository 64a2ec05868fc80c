"""Mailboxes: first in, first out for each session, side by side for all, and each generation by itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from sdqueue.brokers import Delivery, Message, Subscription
from sdqueue.consumer.mailbox import Mailboxes, Ran
from sdqueue.consumer.work import Work
from tests.consumer.stand import PATIENCE_S, Puppet, Stand


class FakeSubscription:
    """A generation, by identity only."""


class Desk:
    """Does the work of mailboxes, one step whenever the test says so."""

    def __init__(self, concurrency: int) -> None:
        self.mailboxes = Mailboxes(self._run, concurrency)
        self.started: list[str] = []
        self.ended: list[str] = []
        self.peak = 0
        self._may_end: dict[str, asyncio.Event] = {}

    async def _run(self, work: Work) -> Ran:
        self.started.append(work.turn_id)
        self.peak = max(self.peak, len(self.started) - len(self.ended))
        try:
            await self._may_end.setdefault(work.turn_id, asyncio.Event()).wait()
        finally:
            self.ended.append(work.turn_id)
        return Ran.ENDED

    async def end(self, *turn_ids: str) -> None:
        for turn_id in turn_ids:
            self._may_end.setdefault(turn_id, asyncio.Event()).set()
        await self.settle_down()

    async def settle_down(self) -> None:
        """Let everything run that can."""
        for _ in range(10):
            await asyncio.sleep(0)


def work(session: str, turn_id: str, generation: Any) -> Work:
    body = json.dumps({"session_id": session, "text": "x", "id": turn_id}).encode()
    delivery = Delivery(Message(body), "q", 1, False, "", cast("Subscription", generation))
    return Work.read(delivery, max_text_bytes=100)


async def test_a_session_is_served_in_order_one_at_a_time() -> None:
    desk, generation = Desk(10), FakeSubscription()
    for n in "123":
        desk.mailboxes.put(work("s", n, generation))
    await desk.settle_down()
    assert desk.started == ["1"]
    assert desk.mailboxes.waiting == 2
    await desk.end("2", "1")
    assert desk.started == ["1", "2", "3"]
    await desk.end("3")
    assert (desk.mailboxes.running, desk.mailboxes.waiting) == (0, 0)
    assert desk.mailboxes._boxes == {}, "mailboxes of sessions that are gone are kept"


async def test_the_concurrency_limit_is_exact() -> None:
    desk, generation = Desk(3), FakeSubscription()
    for n in range(10):
        desk.mailboxes.put(work(f"s{n}", str(n), generation))
    await desk.settle_down()
    assert desk.mailboxes.running == 3
    await desk.end(*map(str, range(10)))
    assert desk.peak == 3
    assert desk.started == list(map(str, range(10)))


async def test_a_flooding_session_delays_others_by_one_turn() -> None:
    """Sessions take turns: with room for one, the flood's second turn comes after everybody's first."""
    desk, generation = Desk(1), FakeSubscription()
    for n in range(100):
        desk.mailboxes.put(work("flood", f"f{n}", generation))
    for n in range(3):
        desk.mailboxes.put(work(f"s{n}", f"s{n}", generation))
    await desk.end("f0", "s0", "s1", "s2", "f1")
    assert desk.started == ["f0", "s0", "s1", "s2", "f1", "f2"]
    await desk.mailboxes.cancel(within_s=PATIENCE_S)


async def test_generations_have_mailboxes_of_their_own() -> None:
    """The interleaving: the old generation's turn still runs when the new one delivers it again. Dropping the old
    one must take nothing of the new, nor wait for it."""
    desk, old, new = Desk(10), FakeSubscription(), FakeSubscription()
    for n in ("1", "2"):
        desk.mailboxes.put(work("s", f"old {n}", old))
        desk.mailboxes.put(work("s", f"new {n}", new))
    await desk.settle_down()
    assert desk.started == ["old 1", "new 1"]
    desk.mailboxes.drop(cast("Subscription", old))
    idle = asyncio.create_task(desk.mailboxes.wait_idle(cast("Subscription", old)))
    await desk.settle_down()
    assert not idle.done()
    await desk.end("old 1")
    assert idle.done()
    await desk.end("new 1", "new 2")
    assert desk.started == ["old 1", "new 1", "new 2"]


async def test_what_runs_is_told_by_session_and_generation() -> None:
    desk, old, new = Desk(10), FakeSubscription(), FakeSubscription()
    running = work("s", "1", old)
    desk.mailboxes.put(running)
    box = desk.mailboxes.find(work("s", "2", old))
    assert box is not None
    assert box.running is running
    assert desk.mailboxes.find(work("s", "2", new)) is None
    assert desk.mailboxes.find(work("other", "2", old)) is None
    await desk.settle_down()
    await desk.mailboxes.cancel(within_s=PATIENCE_S)


async def test_nothing_is_idle_twice_or_waits_for_nothing() -> None:
    desk, generation = Desk(10), FakeSubscription()
    async with asyncio.timeout(PATIENCE_S):
        await desk.mailboxes.wait_idle(cast("Subscription", generation))
        desk.mailboxes.put(work("s", "1", generation))
        waiting = [asyncio.create_task(desk.mailboxes.wait_idle(cast("Subscription", generation))) for _ in range(2)]
        await desk.end("1")
        await asyncio.gather(*waiting)
    assert (desk.mailboxes._busy, desk.mailboxes._idle) == ({}, {})


async def test_once_closed_nothing_starts_and_what_runs_goes_on() -> None:
    desk, generation = Desk(10), FakeSubscription()
    for n in "12":
        desk.mailboxes.put(work("s", n, generation))
    await desk.settle_down()
    desk.mailboxes.close()
    desk.mailboxes.put(work("other", "3", generation))
    await desk.end("1")
    assert desk.started == desk.ended == ["1"]
    assert desk.mailboxes.waiting == 2


async def test_cancelling_waits_for_the_end_and_starts_nothing_more() -> None:
    desk, generation = Desk(1), FakeSubscription()
    for n in "12":
        desk.mailboxes.put(work("s", n, generation))
    desk.mailboxes.put(work("other", "3", generation))
    await desk.settle_down()
    desk.mailboxes.close()
    await desk.mailboxes.cancel(within_s=PATIENCE_S)
    assert desk.started == desk.ended == ["1"]
    assert desk.mailboxes.running == 0


# In a consumer


@pytest.mark.parametrize("limit", [1, 7])
async def test_a_consumer_runs_as_many_turns_as_it_may(stand: Stand, limit: int) -> None:
    running: list[int] = [0, 0]
    full = asyncio.Event()

    async def act(_: Puppet) -> str:
        running[0] += 1
        running[1] = max(running)
        if running[0] == limit:
            full.set()
        await full.wait()
        await asyncio.sleep(0)
        running[0] -= 1
        return "x"

    async with stand.running({"x": act}, concurrency=limit):
        for n in range(50):
            await stand.send(f"s{n % 20}", "x")
        await stand.expect_replies(50)
    assert running == [0, limit]


async def test_neighbours_of_a_flood_are_served_beside_it(stand: Stand) -> None:
    """Given 300 turns of one session in front of one turn of another, in the same partition, and room for one."""
    neighbour = next(f"n{n}" for n in range(100) if stand.partition(f"n{n}") == stand.partition("flood"))
    async with stand.running(concurrency=1, prefetch=400):
        for n in range(300):
            await stand.send("flood", str(n))
        await stand.send(neighbour, "hello")
        await stand.expect_replies(301)
    place = [r.session_id for r in stand.replies].index(neighbour)
    assert place < 290, "the neighbour waited for the whole flood"
    assert stand.answers("flood") == [f"{n + 1}. {n}" for n in range(300)]
