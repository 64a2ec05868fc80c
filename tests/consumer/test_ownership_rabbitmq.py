"""Who has which partition, on a real RabbitMQ and Redis: under load, and when connections, processes and Redis go."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from sdqueue.agents import FunctionAgent
from sdqueue.brokers import RabbitMQBroker, Topology
from sdqueue.client import Client
from sdqueue.consumer import Consumer, ConsumerOptions, RedisMembership
from sdqueue.consumer.assignment import Roles, assign
from sdqueue.consumer.debounce import AFTER_GAP_S
from sdqueue.consumer.membership import RedisPool
from sdqueue.consumer.membership.beating import Answer
from sdqueue.messages import partition_of
from sdqueue.sessions import RedisLockBackend, RedisSessionStore, SessionWorker
from tests.consumer.stand import Watcher
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.redis import PrivateRedis

PARTITIONS = 16
SETTLE_S = 60.0


async def agent(text: str, history: object) -> str:
    await asyncio.sleep(0.02)
    return text


@dataclass
class Running:
    """A consumer, and the end of its stack."""

    name: str
    consumer: Consumer
    membership: RedisMembership
    broker: RabbitMQBroker
    watcher: Watcher
    task: asyncio.Task[None]


@dataclass
class Load:
    """Sends turns to many sessions at a steady pace, and keeps how long each waited for its answer."""

    client: Client
    sessions: int
    rate: float
    sent: dict[str, int] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)
    _asked: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        for number in itertools.count():
            session = f"s{number % self.sessions}"
            n = self.sent[session] = self.sent.get(session, 0) + 1
            task = asyncio.create_task(self._ask(session, n))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
            await asyncio.sleep(1 / self.rate)

    async def _ask(self, session: str, n: int) -> None:
        asked = time.monotonic()
        reply = await self.client.ask(session, str(n), id=f"{session}:{n}", timeout=60)
        assert reply.seq == n
        self.waited.append(time.monotonic() - asked)

    async def answered(self) -> None:
        await asyncio.gather(*self._asked)


class Pool:
    """Consumers on the servers, each with connections of its own."""

    def __init__(self, amqp_url: str, redis_url: str, namespace: str, stack: AsyncExitStack) -> None:
        self.topology = Topology(namespace, PARTITIONS)
        self.amqp_url = amqp_url
        self.redis_url = redis_url
        self.namespace = namespace
        self._stack = stack
        self._names = itertools.count()
        self._look = RedisPool(self.topology, redis_url)
        stack.push_async_exit(self._look.__aexit__)

    async def start(self, count: int) -> list[Running]:
        """So many more, at the same time."""
        started = []
        for _ in range(count):
            name = f"c{next(self._names)}"
            broker = await self._stack.enter_async_context(RabbitMQBroker(self.amqp_url, self.topology, name=name))
            store = RedisSessionStore(url=self.redis_url, namespace=self.namespace)
            locks = RedisLockBackend(url=self.redis_url, namespace=self.namespace)
            self._stack.push_async_callback(store.aclose)
            self._stack.push_async_callback(locks.aclose)
            worker = SessionWorker(agent_factory=lambda: FunctionAgent(agent), store=store, lock_backend=locks)
            membership, watcher = RedisMembership(self.topology, self.redis_url, name=name), Watcher()
            options = ConsumerOptions(name=name, grace_s=20)
            consumer = Consumer(broker, worker, options, observer=watcher, membership=membership)
            task = asyncio.create_task(consumer.run())
            running = Running(name, consumer, membership, broker, watcher, task)
            self._stack.push_async_callback(self.stop, running)
            started.append(running)
        await asyncio.gather(*(r.consumer.ready() for r in started))
        return started

    async def stop(self, *running: Running) -> None:
        for r in running:
            r.consumer.stop()
        await asyncio.gather(*(r.task for r in running))

    async def roles(self) -> tuple[dict[str, Roles], bool]:
        """The assignment, and whether exactly owner and standby are subscribed to each queue."""
        members = (await self._look.look()).members
        staying = [member for member, seen in members.items() if not seen.says.leaving]
        roles = assign(self.topology.partition_queues, staying, shared=[self.topology.unrouted]) if staying else {}
        there = {q: {m for m, seen in members.items() if q in seen.says.subscribed} for q in roles}
        return roles, len(staying) == len(members) > 0 and all(
            there[q] == {r.owner, r.standby} - {None} for q, r in roles.items()
        )

    async def settled(self, members: int) -> dict[str, Roles]:
        """Wait until so many share the partitions, and return who has what."""
        async with asyncio.timeout(SETTLE_S):
            while True:
                roles, settled = await self.roles()
                if settled and len({r.owner for r in roles.values()} | {r.standby for r in roles.values()}) >= members:
                    return roles
                await asyncio.sleep(0.1)


@asynccontextmanager
async def pool_on(amqp_url: str, redis_url: str, namespace: str) -> AsyncIterator[tuple[Pool, Client]]:
    async with AsyncExitStack() as stack:
        pool = Pool(amqp_url, redis_url, namespace, stack)
        broker = await stack.enter_async_context(RabbitMQBroker(amqp_url, pool.topology))
        await broker.apply()
        yield pool, await stack.enter_async_context(Client(broker))


def loads(pool: Pool, roles: dict[str, Roles]) -> list[int]:
    owners = [roles[queue].owner for queue in pool.topology.partition_queues]
    return sorted(owners.count(member) for member in set(owners))


def released(members: Sequence[Running]) -> int:
    return sum(len(r.watcher.of("queue_released")) for r in members)


@pytest.mark.timeout(240)
async def test_one_to_eight_to_two_under_load(amqp_url: str, redis_url: str, namespace: str) -> None:
    """Nothing is lost, doubled or out of order, and the shares are even each time."""
    async with pool_on(amqp_url, redis_url, namespace) as (pool, client):
        (first,) = await pool.start(1)
        load = Load(client, sessions=60, rate=40)
        sending = asyncio.create_task(load.run())
        more = await pool.start(7)
        roles = await pool.settled(8)
        assert loads(pool, roles) == [2] * 8
        moved = len(first.watcher.of("queue_released"))
        assert moved <= PARTITIONS + 1, "each partition moves once"

        await pool.stop(*more[1:])
        roles = await pool.settled(2)
        assert loads(pool, roles) == [8, 8]

        sending.cancel()
        await load.answered()
        print(f"{len(load.waited)} turns, the longest waited {max(load.waited):.2f} s")
        store = RedisSessionStore(url=redis_url, namespace=namespace)
        for session, count in load.sent.items():
            record = await store.load(session)
            assert record is not None
            heard = [message.content for message in record.chat_ctx.items if message.role == "user"]
            assert heard == [str(n) for n in range(1, count + 1)]
        await store.aclose()


@pytest.mark.timeout(120)
async def test_a_consumer_killed_is_replaced_before_the_pool_has_noticed(
    amqp_url: str, redis_url: str, namespace: str
) -> None:
    """Given others that are told nothing of the pool until its sessions are answered."""
    async with pool_on(amqp_url, redis_url, namespace) as (pool, client):
        standing_by = await pool.start(2)
        environment = os.environ | {
            "SDQUEUE_BROKER_URL": amqp_url, "SDQUEUE_STORE_URL": redis_url, "SDQUEUE_NAMESPACE": namespace,
            "SDQUEUE_PARTITIONS": str(PARTITIONS),
        }  # fmt: skip
        command = [sys.executable, "-m", "sdqueue.cli", "consumer", "--name", "victim"]
        victim = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        try:
            assert victim.stdout is not None
            line = (await victim.stdout.readline()).decode()
            assert "owner of 5 of 16 partitions" in line or "owner of 6 of 16 partitions" in line
            roles = await pool.settled(3)
            theirs = [q for q, r in roles.items() if r.owner.startswith("victim.")]
            sessions = [session_of(pool, queue) for queue in theirs if queue != pool.topology.unrouted]
            async with asyncio.timeout(SETTLE_S):
                while not await is_right(pool, client, roles):
                    await asyncio.sleep(0.2)
            told = [unaware(running) for running in standing_by]
            victim.send_signal(signal.SIGKILL)
            await asyncio.gather(*(client.ask(session, "still there?", timeout=20) for session in sessions))
            for event in told:
                event.set()
            await pool.settled(2)
        finally:
            if victim.returncode is None:
                victim.kill()
            await victim.wait()


def unaware(running: Running) -> asyncio.Event:
    """Have a consumer hear nothing of the pool until this is set."""
    go_on, beat = asyncio.Event(), running.membership.beat

    async def later(said: str) -> Answer:
        await go_on.wait()
        return await beat(said)

    running.membership.beat = later  # type: ignore[method-assign]  # a fault
    return go_on


def session_of(pool: Pool, queue: str) -> str:
    partition = pool.topology.partition_queues.index(queue)
    return next(s for s in map(str, range(9999)) if partition_of(s, PARTITIONS) == partition)


@pytest.mark.timeout(120)
async def test_a_closed_connection_heals(
    private_rabbitmq: Callable[..., Awaitable[PrivateRabbitMQ]], redis_url: str, namespace: str
) -> None:
    """The standbys have the partitions meanwhile; afterwards each owner is the active one again."""
    server = await private_rabbitmq()
    async with pool_on(server.url, redis_url, namespace) as (pool, client):
        members = await pool.start(3)
        roles = await pool.settled(3)
        listed = await server.ctl("list_connections", "pid", "client_properties")
        (pid,) = [line.split()[0] for line in listed.splitlines() if f'"{members[0].name} consume"' in line]
        await server.ctl("close_connection", pid, "a test")
        await members[0].watcher.expect("queue_lost")
        asked = [asyncio.create_task(client.ask(session_of(pool, q), "1", timeout=60)) for q in partitions(pool)]
        await asyncio.gather(*asked)
        async with asyncio.timeout(SETTLE_S):
            while not await is_right(pool, client, roles):
                await asyncio.sleep(0.2)
        assert (await pool.settled(3)) == roles, "the pool has not changed"
        assert not any(m.watcher.of("queue_lost") for m in members[1:])


def partitions(pool: Pool) -> Sequence[str]:
    return pool.topology.partition_queues


async def is_right(pool: Pool, client: Client, roles: dict[str, Roles]) -> bool:
    """Whether the owner of each partition answers."""
    replies = await asyncio.gather(*(client.ask(session_of(pool, q), "who?", timeout=60) for q in partitions(pool)))
    answered = [reply.metadata["consumer"] for reply in replies]
    return answered == [roles[queue].owner.partition(".")[0] for queue in partitions(pool)]


@pytest.mark.timeout(120)
async def test_partitions_stay_while_redis_sleeps(
    amqp_url: str,
    namespace: str,
    private_redis: Callable[..., Awaitable[PrivateRedis]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Turns wait, nobody takes anything from anybody, then or when it is back, and the turns are answered."""
    monkeypatch.setattr("sdqueue.consumer.membership.redis.ANSWER_S", 5.0)  # more than the machine stands still
    redis = await private_redis()
    async with pool_on(amqp_url, redis.url, namespace) as (pool, client):
        members = await pool.start(3)
        before = await pool.settled(3)
        moved = released(members)
        redis.pause()
        asked = [asyncio.create_task(client.ask(session_of(pool, q), "1", timeout=60)) for q in partitions(pool)]
        for member in members:
            await member.watcher.changes.until(
                lambda m=member: any(e["backend"] == "membership" for e in m.watcher.of("backend_away"))
            )
        await asyncio.sleep(1)  # it has been away for twice the life of a member
        assert not any(task.done() for task in asked)
        redis.resume()
        await asyncio.gather(*asked)
        await asyncio.sleep(AFTER_GAP_S + 2)  # a list that is believed would be acted upon by now
        assert await pool.settled(3) == before
        assert released(members) == moved
        for member in members:
            away = [e for e in member.watcher.of("backend_away") if e["backend"] == "membership"]
            assert len(away) == 1
            assert not member.watcher.of("queue_lost")
