"""Membership: every member sees the others and what they are subscribed to, in memory and in Redis alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sdqueue.brokers import Topology
from sdqueue.consumer.membership import (
    Alone,
    Announcement,
    Epoch,
    Membership,
    MemoryMembership,
    MemoryPool,
    Pool,
    RedisMembership,
    RedisPool,
    Sighting,
    beating,
    memory,
)
from sdqueue.consumer.membership import redis as in_redis
from sdqueue.consumer.membership.beating import BEAT_S, LIFE_S, Announcements, BeatingMembership
from sdqueue.errors import StoreUnavailable
from tests.consumer.stand import PATIENCE_S
from tests.servers.redis import PrivateRedis

Join = Callable[[str], BeatingMembership]


class Eyes:
    """Iterates over the sightings of a member, as its consumer does."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self.seen: list[Sighting] = []
        self._changed = asyncio.Condition()

    async def look(self) -> None:
        async for sighting in self.membership.sightings():
            async with self._changed:
                self.seen.append(sighting)
                self._changed.notify_all()

    async def until(self, condition: Callable[[Sighting], object]) -> Sighting:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.seen and condition(self.seen[-1]))
            return self.seen[-1]


@asynccontextmanager
async def looking(membership: Membership) -> AsyncIterator[Eyes]:
    async with membership:
        eyes = Eyes(membership)
        task = asyncio.create_task(eyes.look())
        try:
            yield eyes
        finally:
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.result()


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for some seconds ends no life, and no wait for an answer."""
    for module in (beating, memory, in_redis):
        monkeypatch.setattr(module, "LIFE_S", PATIENCE_S)
    monkeypatch.setattr(beating, "LEAVE_S", PATIENCE_S)
    monkeypatch.setattr(in_redis, "ANSWER_S", PATIENCE_S)


@pytest.fixture(params=["memory", "redis"])
def join(request: pytest.FixtureRequest, namespace: str, steady: None) -> Join:
    """Makes members of one pool."""
    topology = Topology(namespace, 4)
    if request.param == "memory":
        pool = MemoryPool()
        return lambda name: MemoryMembership(pool, topology.turn_queues, name=name)
    url = request.getfixturevalue("redis_url")
    return lambda name: RedisMembership(topology, url, name=name)


async def test_members_see_each_other_come_and_go(join: Join) -> None:
    async with looking(join("a")) as a:
        assert set((await a.until(lambda s: s.members)).members) == {a.membership.member}
        async with looking(join("b")) as b:
            assert len((await b.until(lambda s: s.members)).members) == 2
            assert set((await a.until(lambda s: len(s.members) == 2)).members) == {
                a.membership.member,
                b.membership.member,
            }
            await b.membership.leave()
            before = len(a.seen)
            await a.until(lambda s: len(a.seen) >= before + 2)  # one may have been under way
            assert set(a.seen[before + 1].members) == {a.membership.member}, "it was gone at once, and did not expire"
            await b.membership.leave()
        assert not any(s.after_gap or s.problem for s in a.seen)


async def test_consumers_of_one_name_are_different_members(join: Join) -> None:
    first, second = join("worker"), join("worker")
    assert first.member != second.member
    assert first.member.startswith("worker.")


async def test_announcements_reach_the_others_at_once(join: Join) -> None:
    async with looking(join("a")) as a, looking(join("b")) as b:
        await b.until(lambda s: len(s.members) == 2)
        said = Announcement(frozenset(list(a.membership._written._bits)[1:3]), 7)  # type: ignore[attr-defined]
        a.membership.announce(said)
        await a.until(lambda s: s.members and s.members[a.membership.member].says == said)
        seen = await b.until(lambda s: s.members[a.membership.member].says == said)
        assert seen.members[b.membership.member].says == Announcement()


@pytest.mark.usefixtures("clock")
async def test_one_that_signs_no_more_is_heard_no_more_and_then_gone() -> None:
    """Until it is dropped, its announcement stands; that nothing is heard of it tells it from one that lives."""
    pool = MemoryPool()
    async with looking(MemoryMembership(pool, ["q0"], name="a")) as a:
        async with looking(MemoryMembership(pool, ["q0"], name="dead")) as dead:
            dead.membership.leave = _nothing  # type: ignore[method-assign]  # it dies
            await a.until(lambda s: len(s.members) == 2)
        died = asyncio.get_running_loop().time()
        still = await a.until(lambda s: s.at > died + 1.2)
        assert still.members[dead.membership.member].heard < died + 0.7
        assert still.members[a.membership.member].heard == still.at
        gone = await a.until(lambda s: len(s.members) == 1)
        assert LIFE_S - 1 < gone.at - died < LIFE_S + 2
        assert not gone.after_gap


@pytest.mark.usefixtures("steady")
async def test_redis_drops_one_that_was_not_heard_for_its_life(redis_url: str, namespace: str) -> None:
    """Given one that dies, and was last heard half a life ago, and then a whole one."""
    topology = Topology(namespace, 4)
    async with Redis.from_url(redis_url) as admin, looking(RedisMembership(topology, redis_url, name="a")) as a:
        async with looking(RedisMembership(topology, redis_url, name="dead")) as dead:
            dead.membership.leave = _nothing  # type: ignore[method-assign]  # it dies
            await a.until(lambda s: len(s.members) == 2)
        for age_s, there in ((PATIENCE_S / 2, True), (PATIENCE_S, False)):
            await admin.zincrby(f"{namespace}:{{members}}", -1000 * age_s, dead.membership.member)
            before = len(a.seen)
            seen = await a.until(lambda s, n=before: len(a.seen) >= n + 3)
            assert (dead.membership.member in seen.members) == there
            if there:
                assert seen.members[dead.membership.member].heard < seen.at == seen.members[a.membership.member].heard
            assert not seen.after_gap


async def _nothing() -> None:
    """Not even leaving."""


async def test_alone_sees_itself_and_nobody_else() -> None:
    async with looking(Alone("me")) as me:
        assert set((await me.until(lambda s: s.members)).members) == {me.membership.member}
        await me.membership.leave()
        await me.membership.leave()
        assert len(me.seen) == 1


def test_an_announcement_is_read_as_far_as_its_queues_are_known() -> None:
    many, few = Announcements([f"q{n}" for n in range(300)]), Announcements(["q0", "q1"])
    assert few.read(many.write(Announcement(frozenset({"q1", "q299"}), 3))) == Announcement(frozenset({"q1"}), 3)
    everything = Announcement(frozenset(f"q{n}" for n in range(300)), leaving=True)
    assert many.read(many.write(everything)) == everything
    assert few.read("0:0") == Announcement()
    for held in (Announcement(losses=1, holds="1c9b"), Announcement(frozenset({"q1"}), 0, leaving=True, holds="1c9b")):
        assert few.read(few.write(held)) == held


@pytest.mark.usefixtures("clock")
async def test_a_member_looks_more_often_while_all_wait_for_the_word_to_go_on() -> None:
    pool = MemoryPool()
    async with looking(MemoryMembership(pool, ["q0"], name="a")) as a:
        await a.until(lambda s: s.members)
        pool.epoch = Epoch(1, 2, "x").write()
        held = await a.until(lambda s: s.epoch)
        next_one = await a.until(lambda s: s.at > held.at)
        assert next_one.at - held.at < BEAT_S


# Redis


async def test_what_it_keeps_in_redis_is_one_slot_and_passes(redis_url: str, namespace: str) -> None:
    """All keys have the hash tag in common, and those of a pool that is gone go too."""
    topology = Topology(namespace, 4)
    async with Redis.from_url(redis_url) as admin:
        membership = RedisMembership(topology, redis_url, name="a")
        membership.leave = _nothing  # type: ignore[method-assign]  # it dies
        async with looking(membership) as eyes:
            await eyes.until(lambda s: s.members)
        keys = await admin.keys(f"*{namespace}*")
        assert sorted(keys) == [f"{namespace}:{{members}}{end}".encode() for end in ("", ":announced")]
        assert all([0 < await admin.pttl(key) <= 20_000 * LIFE_S for key in keys])


@pytest.mark.usefixtures("steady")
async def test_somebody_may_look_without_being_a_member(redis_url: str, namespace: str) -> None:
    topology = Topology(namespace, 4)
    async with RedisPool(topology, redis_url) as guest:
        assert (await guest.look()).members == {}
        async with looking(RedisMembership(topology, redis_url, name="a")) as a:
            a.membership.announce(Announcement(frozenset({topology.unrouted})))
            await a.until(lambda s: s.members and s.members[a.membership.member].says.subscribed)
            seen = (await guest.look()).members
            assert {m: set(s.says.subscribed) for m, s in seen.items()} == {a.membership.member: {topology.unrouted}}
        assert (await guest.look()).members == {}


@pytest.mark.usefixtures("steady")
async def test_the_epoch_comes_with_every_sighting(redis_url: str, namespace: str) -> None:
    topology = Topology(namespace, 4)
    async with RedisPool(topology, redis_url) as guest, looking(RedisMembership(topology, redis_url)) as a:
        assert (await a.until(lambda s: s.members)).epoch is None
        epoch = Epoch(4, 128, "one")
        assert await guest.advance(None, epoch)
        await a.until(lambda s: s.epoch == epoch)
        assert (await guest.look()).epoch == epoch


@pytest.mark.usefixtures("steady")
async def test_an_epoch_that_cannot_be_read_is_a_problem_and_changes_nothing(redis_url: str, namespace: str) -> None:
    async with Redis.from_url(redis_url) as admin, looking(RedisMembership(Topology(namespace, 4), redis_url)) as a:
        before = await a.until(lambda s: s.members)
        await admin.set(f"{namespace}:{{members}}:epoch", "nonsense")
        after = await a.until(lambda s: s.problem)
        assert "nonsense" in after.problem
        assert after.members == before.members


@pytest.mark.parametrize("where", ["memory", "redis"])
async def test_the_epoch_is_replaced_only_by_who_has_seen_it(
    where: str, namespace: str, request: pytest.FixtureRequest
) -> None:
    """And twice the same is no conflict: the answer to the first call may have been lost."""
    async with AsyncExitStack() as stack:
        pool: Pool = MemoryPool()
        if where == "redis":
            redis = RedisPool(Topology(namespace, 4), request.getfixturevalue("redis_url"))
            pool = await stack.enter_async_context(redis)
        first, second = Epoch(4, 8, "a"), Epoch(4, 8, "b")
        assert await pool.advance(None, first)
        assert await pool.advance(None, first)
        assert not await pool.advance(None, second)
        assert not await pool.advance(second, Epoch(8))
        assert (await pool.look()).epoch == first
        assert await pool.advance(first, second)
        assert (await pool.look()).epoch == second


@pytest_asyncio.fixture
async def server(private_redis: Callable[..., Awaitable[PrivateRedis]]) -> PrivateRedis:
    return await private_redis()


async def test_a_redis_that_is_away_is_a_problem_and_then_a_gap(server: PrivateRedis, namespace: str) -> None:
    async with looking(RedisMembership(Topology(namespace, 4), server.url)) as a:
        before = await a.until(lambda s: s.members)
        server.pause()
        problem = await a.until(lambda s: s.problem)
        assert problem.members == before.members
        server.resume()
        await a.until(lambda s: not s.problem and s.after_gap)
        await a.until(lambda s: not s.problem and not s.after_gap)


async def test_a_redis_that_was_emptied_is_a_gap(server: PrivateRedis, namespace: str) -> None:
    async with looking(RedisMembership(Topology(namespace, 4), server.url)) as a:
        first = await a.until(lambda s: s.members)
        assert not first.after_gap, "it is new, and has missed nothing"
        await server.flush()
        await a.until(lambda s: s.after_gap)


async def test_leaving_a_redis_that_is_away_does_not_take_long(
    server: PrivateRedis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an answer that would be waited for as long as anybody has patience."""
    monkeypatch.setattr(in_redis, "ANSWER_S", 2 * PATIENCE_S)
    async with looking(RedisMembership(Topology(namespace, 4), f"{server.url}?socket_timeout=600")) as a:
        await a.until(lambda s: s.members)
        server.pause()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await a.membership.leave()
        finally:
            server.resume()


async def test_what_is_not_redis_trouble_ends_the_sightings(join: Join) -> None:
    """A defect must end the consumer, and not look like an outage."""
    membership = join("a")
    membership.beat = _defect  # type: ignore[method-assign]  # a fault
    async with membership:
        with pytest.raises(ZeroDivisionError):
            await anext(aiter(membership.sightings()))


async def _defect(said: str) -> Any:
    raise ZeroDivisionError("a defect")


async def test_trouble_to_sign_off_is_swallowed(join: Join) -> None:
    membership = join("a")
    asked: list[str] = []

    async def away() -> None:
        asked.append("sign off")
        await _away()

    membership.sign_off = away  # type: ignore[method-assign]  # a fault
    async with membership:
        await membership.leave()
    assert asked, "it was not even tried, so this shows nothing"


async def _away() -> None:
    raise StoreUnavailable("away")
