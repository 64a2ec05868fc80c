"""The stage: one scenario from its start to its evidence."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import aio_pika

from sdqueue.sessions import RedisSessionStore, SessionRecord
from tests.chaos import journal
from tests.chaos.evidence import Effect, Evidence
from tests.chaos.mutants import MUTANT, WOUND
from tests.chaos.plan import FLOOD, Load, Plan
from tests.chaos.pool import Member, Pool
from tests.chaos.producer import Producer
from tests.chaos.receiver import Receiver
from tests.chaos.servers import Servers
from tests.servers.namespaces import clear_rabbitmq, clear_redis

PATIENCE_S: Final = 60.0
"""What is not answered is lost, when nothing has come for so long after the load and the faults."""

QUIET_TRIES: Final = 4


@dataclass(frozen=True)
class Scenario:
    """A load and what is done meanwhile.

    Parameters:
        name: on the command line.
        row: of the failure table; empty for what is not in it.
        what: a sentence for people.
        attack: does it; it is cancelled when it takes much longer than the load.
        load: what is sent.
        consumers: how many there are at the start.
        settings: more of the consumers' settings, by the names of their environment variables.
        heartbeat_s: of the consumers' connections to the broker; 0: the default of ten seconds.
        needs: what the servers must be for it: ``cluster`` or ``sentinel``; empty: it will do with any.
        breaks: what of the servers it breaks: ``broker``, ``store``.
    """

    name: str
    row: str
    what: str
    attack: Callable[[Stage], Awaitable[None]]
    load: Load = field(default_factory=Load)
    consumers: int = 2
    settings: Mapping[str, str] = field(default_factory=dict)
    heartbeat_s: int = 0
    needs: str = ""
    breaks: tuple[str, ...] = ()

    def cannot_run(self, servers: Servers) -> str | None:
        """Why it cannot be played on these servers, ``None`` where it can."""
        if self.needs == "cluster" and servers.cluster is None:
            return "it kills a node of a cluster: make chaos BROKER=rabbitmq-cluster"
        if self.needs == "sentinel" and servers.sentinel is None:
            return "it kills the primary of a store with Sentinel: make chaos STORE=redis-sentinel"
        if "store" in self.breaks and servers.redis is None:
            return "it stops and starts a single store, which this is not"
        return None


class Stage:
    """Where a scenario is played.

    Parameters:
        scenario: what.
        servers: on what.
        folder: for logs and journals.
        seed: everything random comes from it.
        mutant: a defect that all consumers have.
        patience_s: when nothing has come for so long, what is not answered is lost.
    """

    def __init__(
        self,
        scenario: Scenario,
        servers: Servers,
        folder: Path,
        *,
        seed: int,
        mutant: str | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.scenario = scenario
        self.mutant = mutant
        self._patience_s = patience_s
        self.servers = servers
        self.chance = random.Random(f"{seed} {scenario.name}")
        self._victims = random.Random(f"{seed} {scenario.name} victims")
        self.emptied_at: float | None = None
        self.failed_over_at: float | None = None
        self.done: list[str] = []
        """The faults that were done, with the seconds from the start of the load."""
        self.namespace = f"chaos-{secrets.token_hex(4)}"
        self._partitions = int(scenario.settings.get("SDQUEUE_PARTITIONS", "8"))
        plan = Plan(scenario.load, partitions=self._partitions, seed=seed)
        heartbeat = f"?heartbeat={scenario.heartbeat_s}" if scenario.heartbeat_s else ""
        environment = {
            "SDQUEUE_BROKER_URL": servers.broker_url + heartbeat,
            "SDQUEUE_STORE_URL": servers.store_url,
            "SDQUEUE_NAMESPACE": self.namespace,
            "SDQUEUE_PARTITIONS": str(self._partitions),
            "SDQUEUE_LOG_LEVEL": "info",
            **scenario.settings,
        }
        if mutant is not None:
            environment[MUTANT] = mutant
        module = "sdqueue.cli" if mutant is None else "tests.chaos.wounded"
        self.pool = Pool(folder, environment, module)
        self.producer = Producer(servers.addresses, self.namespace, plan)
        self.receiver = Receiver(servers.addresses, self.namespace)

    async def play(self) -> Evidence:
        """Do it all. What was started is gone afterwards, whatever happens."""
        try:
            async with asyncio.timeout(self.scenario.load.seconds + 4 * PATIENCE_S):
                return await self._play()
        finally:
            self.pool.close()
            await self.receiver.close()

    async def start(self, count: int = 1, **environment: str) -> list[Member]:
        """Start more consumers of the scenario and wait until they consume."""
        return await self.pool.start(count, environment)

    async def start_wounded(self, wound: str, **environment: str) -> Member:
        """Start a consumer that will die, or stop, at this point, see ``wounded``."""
        return (await self.pool.start(1, {WOUND: wound, **environment}, module="tests.chaos.wounded"))[0]

    async def at(self, share: float) -> None:
        """Wait until this share of the load's time is over."""
        due = self.producer.started_at + share * self.scenario.load.seconds
        await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def do(self, fault: Callable[[Stage], Awaitable[None]]) -> None:
        """Do a fault and note it."""
        self.done.append(f"{time.monotonic() - self.producer.started_at:.1f} {fault.__name__}")
        await fault(self)

    @property
    def loading(self) -> bool:
        """Whether the load's time is not over, with some left for what a fault leads to."""
        return time.monotonic() < self.producer.started_at + 0.85 * self.scenario.load.seconds

    def busiest(self) -> Member:
        """The consumer that began a turn last; while none has, any that consumes."""
        alive = {member.pid: member for member in self.pool.alive}
        for event in reversed(journal.events(self.pool.journal)):
            if event["pid"] in alive:
                return alive[event["pid"]]
        # Not by the chance that chooses the faults: how fast the first turn begins must not change what comes next.
        return self._victims.choice([m for m in alive.values() if m.consumes] or list(alive.values()))

    async def _play(self) -> Evidence:
        await self.servers.heal()
        await self.start(max(1, self.scenario.consumers))
        await self.receiver.open()
        async with asyncio.TaskGroup() as tasks:
            load = tasks.create_task(self.producer.run())
            while not self.producer.started_at:
                await asyncio.sleep(0)
            attack = tasks.create_task(self._attack())
            await attack
            await self.servers.heal()
            await load
        for member in self.pool.members:
            member.resume()
        supervisor = asyncio.create_task(self.pool.keep(1))
        try:
            await self.answered()
        finally:
            supervisor.cancel()
        left_over = await self._end()
        return Evidence(
            sent=tuple(
                replace(sent, repeated_at=self.producer.repeated_at.get(sent.mark)) for sent in self.producer.sent
            ),
            replies=tuple(self.receiver.replies),
            letters=tuple(self.receiver.letters),
            runs=journal.runs(self.pool.journal),
            conversations=await self._conversations(),
            left_over=left_over,
            emptied_at=self.emptied_at,
        )

    async def _attack(self) -> None:
        async with asyncio.timeout(self.scenario.load.seconds + 2 * PATIENCE_S):
            await self.scenario.attack(self)

    async def answered(self) -> None:
        """Wait until every message sent so far has had its end, or for so long that it is lost."""
        wanted = {sent.mark for sent in self.producer.sent}
        with suppress(TimeoutError):
            while not wanted <= self.receiver.answered:
                self.receiver.changed.clear()
                async with asyncio.timeout(self._patience_s):
                    await self.receiver.changed.wait()

    async def _end(self) -> int:
        """Let the consumers end in order, and count what they leave. Repeats may be on their way: those get time."""
        for number in range(QUIET_TRIES):
            await self.pool.stop([member for member in self.pool.members if member.alive])
            left_over = await self._waiting()
            if not left_over:
                break
            await self.start()
            deadline = time.monotonic() + 10
            while await self._waiting() and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
            await asyncio.sleep(2**number)  # nothing tells from outside that a repeat was acknowledged
        return left_over

    async def _waiting(self) -> int:
        names = [f"{self.namespace}.turns.{partition:04d}" for partition in range(self._partitions)]
        connection = await aio_pika.connect(self.servers.addresses[0])
        async with connection:
            channel = await connection.channel()
            count = 0
            for name in (f"{self.namespace}.unrouted", *names):
                queue = await channel.declare_queue(name, passive=True)
                count += queue.declaration_result.message_count or 0
            return count

    async def _conversations(self) -> dict[str, tuple[Effect, ...]]:
        store = RedisSessionStore(self.servers.store_url, namespace=self.namespace)
        try:
            names = {sent.session for sent in self.producer.sent if sent.session} | {FLOOD}
            records = {name: await store.load(name) for name in sorted(names)}
        finally:
            await store.aclose()
        return {name: _effects(record) for name, record in records.items() if record is not None}

    async def clear(self) -> None:
        """Delete the queues and keys of the scenario, where the servers are shared."""
        egress = {f"{self.namespace}.replies.chaos"}
        await clear_rabbitmq(self.servers.addresses[0], self.namespace, egress, set())
        if self.servers.sentinel is None:  # that one ends with the run
            await clear_redis(self.servers.store_url, self.namespace)


def _effects(record: SessionRecord) -> tuple[Effect, ...]:
    said = [message.content for message in record.chat_ctx.items if message.role == "user"]
    answered = [message.content for message in record.chat_ctx.items if message.role == "assistant"]
    return tuple(Effect(text.split(" ")[0], run) for text, run in zip(said, answered, strict=True))
