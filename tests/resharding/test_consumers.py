"""Consumers of a pool while the number of partitions is changed: they let go, go on, and nobody is answered twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio

from sdqueue.brokers import MemoryBroker, Message
from sdqueue.brokers.topology import Topology
from sdqueue.channels import OnDead, PerChannel
from sdqueue.consumer.membership import Epoch, MemoryPool
from sdqueue.deadletters import DeadLetters, LetterFilter
from sdqueue.errors import BrokerUnavailable, ReshardingFailed
from sdqueue.messages import partition_of, routing_key
from sdqueue.resharding import Resharding, ReshardOptions, ReshardReport
from tests.consumer.stand import Member, Stand, Waiting

OPTIONS = ReshardOptions(patience_s=20.0)


class Site:
    """A stand with consumers in one pool, and the tool."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.pool = MemoryPool(Topology("test", 16).turn_queues)

    @asynccontextmanager
    async def consumers(self, count: int = 1, acts: object = None, **options: object) -> AsyncIterator[list[Member]]:
        async with AsyncExitStack() as stack:
            made = [self.member(acts, name=f"c{n}", **options) for n in range(count)]
            for member in made:
                await stack.enter_async_context(member.broker)
            async with asyncio.TaskGroup() as tasks:
                for member in made:
                    tasks.create_task(stack.enter_async_context(member.consumer))
            yield made
            for member in made:
                member.stop()

    def member(self, acts: object = None, **options: object) -> Member:
        return self.stand.member(acts, pool=self.pool, **options)  # type: ignore[arg-type]  # as the stand takes them

    async def reshard(self, partitions: int, options: ReshardOptions = OPTIONS) -> ReshardReport:
        async with MemoryBroker(self.stand.topology, self.stand.server) as broker:
            return await Resharding(broker, self.stand.store, partitions, pool=self.pool, options=options).run()

    def queues(self) -> set[str]:
        return set(self.stand.server._queues)


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    async with Stand(partitions=8) as stand:
        yield Site(stand)


async def send_forever(stand: Stand, sent: dict[str, list[str]]) -> None:
    """A producer that knows the first number for ever."""
    number = 0
    while True:
        session = f"s{number % 30}"
        number += 1
        sent.setdefault(session, []).append(f"m{number}")
        await stand.send(session, f"m{number}", id=f"m{number}")
        await asyncio.sleep(0.002)


async def test_under_load_every_turn_is_answered_once_and_in_order(site: Site) -> None:
    sent: dict[str, list[str]] = {}
    async with site.consumers(3) as members:
        producer = asyncio.create_task(send_forever(site.stand, sent))
        for partitions in (16, 5):
            await site.stand.expect_replies(len(site.stand.replies) + 200)
            report = await site.reshard(partitions)
            assert report.after == partitions
            for member in members:
                await member.watcher.changes.until(
                    lambda m=member, p=partitions: {"partitions": p} in m.watcher.of("repartitioned")
                )
        await site.stand.expect_replies(len(site.stand.replies) + 200)
        producer.cancel()
        count = sum(map(len, sent.values()))
        await site.stand.changes.until(lambda: len({reply.id for reply in site.stand.replies}) == count)

        said = {session: [f"{n}. {text}" for n, text in enumerate(texts, 1)] for session, texts in sent.items()}
        assert {session: site.stand.answers(session) for session in sent} == said
        assert sorted(member.consumer.share.owned for member in members) == [1, 2, 2]
        turns = {name for name in site.queues() if ".turns." in name}
        assert turns == set(Topology("test", 5).partition_queues)


async def test_a_turn_that_runs_goes_on_and_is_answered_once(site: Site) -> None:
    """Its next one waits for it, though another consumer has it by then."""
    wait = Waiting()
    async with site.consumers(2, {"wait": wait}):
        first = await site.stand.send("s", "wait")
        second = await site.stand.send("s", "hello")
        async with asyncio.timeout(20):
            await wait.began.acquire()
        report = await site.reshard(16)
        assert report.kept == 2
        await site.stand.send("t", "other")
        await site.stand.expect_replies(1)
        assert site.stand.answers("s") == []
        wait.go_on.set()
        await site.stand.expect_reply(first)
        await site.stand.expect_reply(second)
        assert site.stand.answers("s") == ["1. waited", "2. hello"]
        assert wait.began.locked(), "it ran a second time"


async def test_what_comes_after_a_resharding_stands_behind_what_came_before(site: Site) -> None:
    """Though the newer turn is in its right queue at once, and the older ones are not there at all."""
    site_topology = Topology("test", 3)
    async with site.consumers(1):
        pass  # whoever was there has gone
    for n in range(200):
        await site.stand.send("s", f"old {n}")
    await site.reshard(3)
    key = routing_key(partition_of("s", 3))
    body = json.dumps({"session_id": "s", "text": "new", "id": "new"}).encode()
    await site.stand.broker.publish(site_topology.turns, key, Message(body))
    site.stand.topology = site_topology
    async with site.consumers(2):
        await site.stand.expect_reply("new")
        assert site.stand.answers("s") == [f"{n + 1}. old {n}" for n in range(200)] + ["201. new"]


async def test_a_consumer_that_starts_in_the_middle_waits_for_the_end(site: Site) -> None:
    site.pool.epoch = Epoch(8, 16, "somebody").write()
    member = site.member()
    async with member.broker:
        running = asyncio.create_task(member.consumer.run())
        async with asyncio.timeout(20):
            while not any(s.says.holds == "somebody" for s in (await site.pool.look()).members.values()):
                await asyncio.sleep(0.02)
        assert member.watcher.of("queue_taken") == []
        site.pool.epoch = Epoch(8).write()
        turn = await site.stand.send("s")
        await site.stand.expect_reply(turn)
        member.stop()
        await running


async def test_a_consumer_that_comes_back_after_the_end_takes_the_new_number(site: Site) -> None:
    """It was cut off from the list all the time, and the broker had taken its queues away."""
    async with site.consumers(1) as (member,):
        site.pool.away = True
        await member.watcher.changes.until(lambda: member.watcher.of("backend_away"))
        member.faults.arm("subscribe", *[_broken] * 1000)
        member.cut_off()
        site.pool.away = False
        site.pool.empty()
        hidden, site.pool = site.pool, MemoryPool()
        await site.reshard(16)
        member.faults._armed.clear()
        hidden.epoch = site.pool.epoch
        await member.watcher.expect("repartitioned")
        turn = await site.stand.send("s")
        await site.stand.expect_reply(turn)
        assert member.consumer.share.partitions == 16


async def _broken() -> None:
    raise BrokerUnavailable("cut off")


async def test_nothing_is_forwarded_while_the_pool_cannot_be_seen(site: Site) -> None:
    """The number of partitions may be another one by now."""
    async with site.consumers(1) as (member,):
        site.pool.away = True
        async with asyncio.timeout(20):
            while member.consumer._ownership.certain:
                await asyncio.sleep(0.02)
        wrong = next(p for p in range(8) if p != site.stand.partition("s"))
        body = json.dumps({"session_id": "s", "text": "astray", "id": "astray"}).encode()
        await site.stand.broker.publish(site.stand.topology.turns, routing_key(wrong), Message(body))
        other = await site.stand.send("t")
        await site.stand.expect_reply(other)
        assert [work.stage for work, _ in member.consumer._mailboxes.works()] == [
            "waits to be forwarded until the other consumers can be seen"
        ]
        site.pool.away = False
        await site.stand.expect_reply("astray")
        assert ("astray", "forwarded") in member.watcher.settled


async def test_a_record_of_an_older_namespace_is_ignored(site: Site) -> None:
    """Somebody has deleted the queues and made them anew, and the record has outlived that."""
    site.pool.epoch = Epoch(64).write()
    async with site.consumers(1) as (member,):
        turn = await site.stand.send("s")
        await site.stand.expect_reply(turn)
        assert member.consumer.share.partitions == 8


async def test_a_consumer_that_does_not_let_go_is_named_and_everything_goes_on_as_before(site: Site) -> None:
    async with site.consumers(1):
        site.pool.beat("hangs.1", "0:0")
        with pytest.raises(ReshardingFailed, match=r"hangs\.1"):
            await site.reshard(16, ReshardOptions(patience_s=1.0))
        assert "test.resharding" not in site.queues()
        assert (await site.pool.look()).epoch == Epoch(8)
        turn = await site.stand.send("s")
        await site.stand.expect_reply(turn)


async def test_a_queue_that_somebody_reads_who_is_not_in_the_pool_is_named(site: Site) -> None:
    async with site.stand.running():
        with pytest.raises(ReshardingFailed, match=r"test\.turns\.0000.*still being read"):
            await site.reshard(16, ReshardOptions(patience_s=0.5))
        turn = await site.stand.send("s")
        await site.stand.expect_reply(turn)


async def test_a_parked_session_stays_parked_and_its_replay_finds_it(site: Site) -> None:
    """The replay is on its way when the partitions change; turns wait behind the dead one in the backlog."""
    fails = True

    async def fail(agent: object) -> str:
        if fails:
            raise ValueError("no")
        return "well"

    on_dead = PerChannel(OnDead.PARK)
    async with site.consumers(1, {"fail": fail}, on_dead=on_dead):
        await site.stand.send("s", "fail", id="bad")
        await site.stand.expect_reply("bad", kind="error")
        await site.stand.send("s", "later", id="later")
        await site.stand.changes.until(lambda: site.stand.dead)
        async with asyncio.timeout(20):
            while not await site.stand.store.deferred("s", count=1):
                await asyncio.sleep(0.02)
    (letter,) = site.stand.dead
    await letter.subscription.close()
    await site.stand.broker.publish(site.stand.topology.dead, "", letter.message)
    fails = False
    letters = DeadLetters(site.stand.broker)
    assert len((await letters.replay(LetterFilter())).letters) == 1
    report = await site.reshard(3)
    assert report.passed_on == 1
    site.stand.topology = Topology("test", 3)
    async with site.consumers(1, {"fail": fail}, on_dead=on_dead):
        await site.stand.expect_reply("later")
        assert site.stand.answers("s") == ["well", "2. later"]
