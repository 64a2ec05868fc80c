"""Who has which partition: consumers of one pool on a memory broker, as they come, go, die and lose sight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from sdqueue.brokers.memory import MemorySubscription
from sdqueue.consumer.assignment import assign
from sdqueue.consumer.membership import MemoryPool
from tests.consumer.stand import PATIENCE_S, Member, Puppet, Stand

pytestmark = pytest.mark.usefixtures("clock")

PARTITIONS = 16


class Pool:
    """Consumers that know each other."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.register = MemoryPool()
        self.members: list[Member] = []

    @asynccontextmanager
    async def running(self, count: int, acts: Any = None, **options: Any) -> AsyncIterator[list[Member]]:
        """So many more, started together, with their first assignment subscribed."""
        async with AsyncExitStack() as stack:
            joined = [
                self.stand.member(acts, pool=self.register, name=f"c{len(self.members) + n}", **options)
                for n in range(count)
            ]
            self.members += joined
            for member in joined:
                await stack.enter_async_context(member.broker)
            async with asyncio.TaskGroup() as tasks:
                for member in joined:
                    tasks.create_task(stack.enter_async_context(member.consumer))
            yield joined
            for member in joined:
                member.stop()

    def waiting(self, queue: str) -> list[MemorySubscription]:
        """The subscriptions of a queue, the active one first."""
        return self.stand.server._queue(queue).subscriptions

    def holders(self, queue: str) -> list[str]:
        """Whose they are."""
        of = {id(s): m for m in self.members for s in m.broker.made}
        return [id_of(of[id(s)]) for s in self.waiting(queue)]

    def is_settled(self, members: Sequence[Member]) -> bool:
        """Whether each queue has its owner active, its standby behind it, and nobody else."""
        topology = self.stand.topology
        ids = [id_of(m) for m in members]
        roles = assign(topology.partition_queues, ids, shared=[topology.unrouted])
        return all(self.holders(queue) == [r.owner, *([r.standby] if r.standby else [])] for queue, r in roles.items())

    async def settled(self, members: Sequence[Member]) -> None:
        await until(
            lambda: self.is_settled(members), lambda: {q: self.holders(q) for q in self.stand.topology.turn_queues}
        )

    def owner_of(self, session: str, members: Sequence[Member]) -> Member:
        queue = self.stand.topology.partition_queue(self.stand.partition(session))
        return next(m for m in members if m.consumer._ownership.owns(queue))

    def session_of(self, member: Member) -> str:
        """A session whose partition a member owns."""
        return next(s for s in map(str, range(1000)) if self.owner_of(s, self.members) is member)


def id_of(member: Member) -> str:
    assert member.membership is not None
    return member.membership.member


async def until(condition: Callable[[], object], what: Callable[[], object]) -> None:
    """Wait for what nobody tells of; events are awaited wherever there are some."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what()
        await asyncio.sleep(0.02)


def taken(member: Member) -> list[str]:
    return [event["queue"] for event in member.watcher.of("queue_taken")]


def released(member: Member) -> list[str]:
    return [event["queue"] for event in member.watcher.of("queue_released")]


class Gate:
    """An act that waits until it may go on."""

    def __init__(self) -> None:
        self.began = asyncio.Semaphore(0)
        self.open = asyncio.Event()

    async def __call__(self, agent: Puppet) -> str:
        self.began.release()
        await self.open.wait()
        return agent.plain("waited")


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Stand(partitions=PARTITIONS) as stand:
        yield Pool(stand)


async def test_the_first_consumer_has_everything_at_once(pool: Pool) -> None:
    began = asyncio.get_running_loop().time()
    async with pool.running(1) as members:
        assert asyncio.get_running_loop().time() - began < 0.9, "it waited for others"
        assert sorted(taken(members[0])) == sorted(pool.stand.topology.turn_queues)
        share = members[0].consumer.share
        assert (share.owned, share.standby, share.partitions, share.members) == (PARTITIONS, 0, PARTITIONS, 1)


async def test_eight_that_start_together_move_partitions_once(pool: Pool) -> None:
    """Given the first of them with everything, each gives up or takes a queue once; only standbys may come later."""
    async with pool.running(8) as members:
        await pool.settled(members)
        queues = PARTITIONS + 1
        first = max(members, key=lambda m: len(taken(m)))
        moved = sum(len(released(m)) for m in members)
        assert len(released(first)) == moved <= queues
        for member in members:
            assert len(member.watcher.of("partitions_assigned")) == (2 if member is first else 1)
            again = len(taken(member)) - len(set(taken(member)))
            assert again <= (queues if member is first else 0)
        assert [m.consumer.share.owned for m in members] == [2] * 8


async def test_a_partition_moves_with_a_running_turn(pool: Pool) -> None:
    """The turn ends where it runs, and is answered once; those behind it are answered by the new owner, in order."""
    gate = Gate()
    async with pool.running(1, {"wait": gate}) as (old,):
        sessions = [f"s{n}" for n in range(2 * PARTITIONS)]
        for session in sessions:
            await pool.stand.send(session, "wait", id=f"{session}:0")
            for n in range(1, 6):
                await pool.stand.send(session, str(n), id=f"{session}:{n}")
        for _ in sessions:
            await gate.began.acquire()
        async with pool.running(1, {"wait": gate}) as (new,):
            await pool.settled([old, new])
            mine = [s for s in sessions if pool.owner_of(s, [old, new]) is new]
            assert mine
            await new.watcher.expect("turn_received", 6 * len(mine))
            gate.open.set()
            await pool.stand.changes.until(lambda: all(len(pool.stand.answers(s)) == 6 for s in sessions))
            await new.watcher.expect_settled(6 * len(mine))
            for session in sessions:
                assert pool.stand.answers(session) == ["1. waited", *(f"{n + 1}. {n}" for n in range(1, 6))]
                assert [t.split(":")[1] for t, state in by_session(new, session) if state == "completed"] == (
                    list("12345") if session in mine else []
                )
            assert {state for s in mine for t, state in by_session(new, s) if t.endswith(":0")} == {"duplicate"}
            assert gate.began.locked(), "no turn ran twice"


def by_session(member: Member, session: str) -> list[tuple[str, str]]:
    return [(turn, state) for turn, state in member.watcher.settled if turn.startswith(f"{session}:")]


async def test_a_dead_owner_is_replaced_by_its_standby_at_once(pool: Pool) -> None:
    """Its standby has the next turn before anybody could have noticed that it signs the list no more."""
    async with pool.running(3) as members:
        await pool.settled(members)
        dead, left = members[0], members[1:]
        session = pool.session_of(dead)
        signed = silence(dead)
        dead.cut_off()
        turn = await pool.stand.send(session, "hello")
        await pool.stand.expect_reply(turn)
        assert id_of(dead) in pool.register._entries, "it was answered because the pool found out"
        before = [len(taken(m)) + len(released(m)) for m in left]
        for turn in [await pool.stand.send(session, f"{n}") for n in range(3)]:
            await pool.stand.expect_reply(turn)
        assert [len(taken(m)) + len(released(m)) for m in left] == before, "the standby keeps its subscription"
        await pool.settled(left)
        owners = [m for m in left if m.consumer._ownership.owns(queue_of(pool, session))]
        assert released(owners[0]).count(queue_of(pool, session)) == 0
        signed.set()


def silence(member: Member) -> asyncio.Event:
    """Have a member sign no more and take nothing any more, as if its process were dead."""
    go_on = asyncio.Event()
    assert member.membership is not None
    beat = member.membership.beat

    async def silent(mask: str) -> Any:
        await go_on.wait()
        return await beat(mask)

    member.membership.beat = silent  # type: ignore[method-assign]  # a fault
    for reader in member.consumer._readers.values():
        reader._draining = True
    return go_on


def queue_of(pool: Pool, session: str) -> str:
    return pool.stand.topology.partition_queue(pool.stand.partition(session))


async def test_a_cut_connection_heals(pool: Pool) -> None:
    """Its standbys have its queues meanwhile, and make way when it is back."""
    async with pool.running(3) as members:
        await pool.settled(members)
        for member in members:
            member.cut_off()
            turn = await pool.stand.send(pool.session_of(member), "hello")
            await pool.stand.expect_reply(turn)
            await pool.settled(members)
        assert all(len(m.watcher.of("partitions_assigned")) <= 2 for m in members), "the pool has not changed"


async def test_misorder_that_nobody_saw_heals_when_it_shows(pool: Pool) -> None:
    """The interleaving: the owner loses its subscription and has it again between two looks of its standby, which is
    active now and believes to be behind. Deliveries show it."""
    async with pool.running(2) as members:
        await pool.settled(members)
        owner = members[0]
        session = pool.session_of(owner)
        queue = queue_of(pool, session)
        subscriptions = pool.waiting(queue)
        subscriptions.reverse()
        assert not pool.is_settled(members)
        turn = await pool.stand.send(session, "hello")
        await pool.stand.expect_reply(turn)
        await pool.settled(members)
        assert [t for t, _ in owner.watcher.settled] == []
        assert released(members[1]).count(queue) == 1
        turn = await pool.stand.send(session, "hello again")
        await pool.stand.expect_reply(turn)
        assert [t for t, _ in owner.watcher.settled] == [turn]


async def test_one_that_stops_is_replaced_at_once_and_its_share_spread(pool: Pool) -> None:
    async with pool.running(2) as staying:
        async with pool.running(1) as (leaving,):
            await pool.settled([*staying, leaving])
            session = pool.session_of(leaving)
        assert id_of(leaving) not in pool.register._entries
        turn = await pool.stand.send(session, "hello")
        await pool.stand.expect_reply(turn)
        await pool.settled(staying)


async def test_partitions_are_kept_while_the_list_is_away(pool: Pool) -> None:
    """It is said once. Afterwards the first that signs again sees nobody else, and takes nothing from them."""
    async with pool.running(3) as members:
        await pool.settled(members)
        before = [(len(taken(m)), len(released(m))) for m in members]
        pool.register.away = True
        for member in members:
            await member.watcher.expect("backend_away")
        turn = await pool.stand.send("s", "hello")
        await pool.stand.expect_reply(turn)
        await asyncio.sleep(3.5)  # longer than the life of a member
        pool.register.away = False
        pool.register.empty()
        for member in members:
            assert len(member.watcher.of("backend_away")) == 1
        await until(lambda: len(pool.register._entries) == 3, lambda: pool.register._entries)
        await asyncio.sleep(4.5)  # a list that is believed would be acted upon by now
        assert [(len(taken(m)), len(released(m))) for m in members] == before
        assert pool.is_settled(members)


async def test_unrouted_turns_have_an_owner_too(pool: Pool) -> None:
    async with pool.running(3) as members:
        await pool.settled(members)
        owners = [m for m in members if m.consumer._ownership.owns(pool.stand.topology.unrouted)]
        assert len(owners) == 1
        queue = pool.stand.topology.unrouted
        assert dict(owners[0].consumer.owned())[queue] is pool.waiting(queue)[0]


async def test_what_a_consumer_owns_is_what_it_is_subscribed_to(pool: Pool) -> None:
    """Standbys are not owned, and neither is what has just been lost."""
    async with pool.running(2) as members:
        await pool.settled(members)
        owned = [dict(m.consumer.owned()) for m in members]
        assert sorted([*owned[0], *owned[1]]) == sorted(pool.stand.topology.turn_queues)
        for queue, subscription in (owned[0] | owned[1]).items():
            assert subscription is pool.waiting(queue)[0]
        members[0].faults.arm("subscribe", *[asyncio.Event().wait] * 100)
        members[0].cut_off()
        await members[0].watcher.expect("queue_lost", len(owned[0]))
        assert dict(members[0].consumer.owned()) == {}


async def test_more_consumers_than_partitions(pool: Pool) -> None:
    """Those that own nothing stand by or idle, and are ready all the same."""
    async with pool.running(PARTITIONS + 4) as members:
        await pool.settled(members)
        assert sorted(m.consumer.share.owned for m in members) == [0] * 4 + [1] * PARTITIONS


async def test_those_that_stop_together_serve_until_others_do(pool: Pool) -> None:
    """Given queues whose owner and standby stop at the same time, a turn that comes then does not wait until the
    others have noticed: one of the two still answers it."""
    async with pool.running(2) as staying, pool.running(4) as leaving:
        await pool.settled([*staying, *leaving])
        topology = pool.stand.topology
        ids = {id_of(m) for m in leaving}
        roles = assign(topology.partition_queues, [id_of(m) for m in pool.members])
        orphaned = [p for p, q in enumerate(topology.partition_queues) if {roles[q].owner, roles[q].standby} <= ids]
        sessions = [next(s for s in map(str, range(1000)) if pool.stand.partition(s) == p) for p in orphaned]
        assert sessions
        for member in leaving:
            member.stop()
        for _ in range(10):
            asked = asyncio.get_running_loop().time()
            for turn in [await pool.stand.send(session, "hello") for session in sessions]:
                await pool.stand.expect_reply(turn)
            assert asyncio.get_running_loop().time() - asked < 0.5
            await asyncio.sleep(0.2)
        await pool.settled(staying)
        for session in sessions:
            assert pool.stand.answers(session) == [f"{n + 1}. hello" for n in range(10)]
        assert any(m.watcher.settled for m in leaving)


async def test_one_that_stops_alone_or_with_everybody_does_not_wait(pool: Pool) -> None:
    async with pool.running(3) as members:
        await pool.settled(members)
        stopped = asyncio.get_running_loop().time()
        for member in members:
            member.stop()
        await asyncio.gather(*(expect_ended(m) for m in members))
        assert asyncio.get_running_loop().time() - stopped < 2.5
    async with pool.running(1) as (member,):
        stopped = asyncio.get_running_loop().time()
        member.stop()
        await expect_ended(member)
        assert asyncio.get_running_loop().time() - stopped < 0.3


async def expect_ended(member: Member) -> None:
    assert member.consumer._task is not None
    await asyncio.wait_for(asyncio.shield(member.consumer._task), PATIENCE_S)


async def test_a_slow_turn_does_not_hold_up_a_partition_that_is_left(pool: Pool) -> None:
    """Its consumer stops, and its neighbours are answered elsewhere before it has ended."""
    gate = Gate()
    async with pool.running(1) as (staying,), pool.running(1, {"wait": gate}) as (leaving,):
        await pool.settled([staying, leaving])
        session = pool.session_of(leaving)
        slow = await pool.stand.send(session, "wait")
        await gate.began.acquire()
        leaving.stop()
        partition = pool.stand.partition(session)
        neighbour = next(s for s in map(str, range(1000, 9999)) if pool.stand.partition(s) == partition)
        await staying.watcher.expect("turn_received")
        turn = await pool.stand.send(neighbour, "hello")
        await pool.stand.expect_reply(turn)
        assert leaving.watcher.settled == []
        gate.open.set()
        await pool.stand.expect_reply(slow)
        await staying.watcher.expect_settled(2)
        assert dict(staying.watcher.settled)[slow] == "duplicate"
