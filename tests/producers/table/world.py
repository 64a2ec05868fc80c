"""World: users on some platforms and a producer that dies again and again; House: the consumers behind it."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from sdqueue.backends import open_broker
from sdqueue.sessions.stores.redis import RedisSessionStore
from sdqueue.settings import Settings
from tests.chaos.journal import events
from tests.chaos.pool import Pool
from tests.producers.table import agent
from tests.producers.table.conversations import Users
from tests.producers.table.lives import RANDOM, Ends, Lives, Target, base_environ
from tests.producers.table.mutants import MUTANT
from tests.producers.table.observations import Observations, Run
from tests.producers.table.platforms import Make, Platform
from tests.producers.table.platforms.platform import pause
from tests.producers.table.wounded import POINTS
from tests.servers.namespaces import clear_rabbitmq, clear_redis
from tests.servers.process import free_port

PARTITIONS: Final = 4
SETTLE_S: Final = 1.0
"""Seconds in which a reply would be seen that nobody waits for, after all queues are empty."""


class House:
    """Consumers and what they share with producers; worlds may come into it one after the other.

    Parameters:
        broker_url, store_url: servers.
        folder: for logs and journals.
        namespace: of its own.
    """

    def __init__(self, broker_url: str, store_url: str, folder: Path, namespace: str) -> None:
        self.folder = folder
        self.environ = {
            "SDQUEUE_BROKER_URL": broker_url,
            "SDQUEUE_STORE_URL": store_url,
            "SDQUEUE_NAMESPACE": namespace,
            "SDQUEUE_PARTITIONS": str(PARTITIONS),
        }
        self.settings = Settings(broker_url=broker_url, store_url=store_url, namespace=namespace, partitions=PARTITIONS)
        self.pool = Pool(folder, self.environ | {"SDQUEUE_AGENT": agent.NAME})
        self.numbers: Iterator[int] = itertools.count(1)
        """Of conversations: none is used twice."""

    async def __aenter__(self) -> Self:
        await self.pool.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self.pool.stop(self.pool.members)
        finally:
            self.pool.close()

    async def clear(self) -> None:
        """Delete what it has in the servers."""
        namespace = self.settings.namespace
        egress = {f"{namespace}.replies.{name}" for name in ("slack", "webhook", "openai", "telegram", "webchat")}
        await clear_rabbitmq(self.settings.broker_url, namespace, egress, set())
        await clear_redis(self.settings.store_url, namespace)


@dataclass(frozen=True)
class Plan:
    """What is done in a world.

    Parameters:
        seed: everything random comes from it.
        points: at which the producer dies.
        strikes: so often at each point, for each platform.
        users: of each platform.
        messages: at least so many from each user; they go on while not everything was struck.
    passes: the least and most often that a point is passed in a life before it is the end of it.
        at_most_s: seconds after which they do not.
    patience_s: seconds in which everything must be answered after the last kill.
    mutant: a mistake of the producer, by name.
    """

    seed: int = 1
    points: tuple[str, ...] = (*POINTS, RANDOM)
    strikes: int = 1
    users: int = 3
    messages: int = 4
    passes: tuple[int, int] = (1, 4)
    at_most_s: float = 300.0
    patience_s: float = 90.0
    mutant: str = ""


@dataclass(frozen=True)
class Outcome:
    """What is known of one platform; ``strikes`` by point."""

    observations: Observations
    strikes: Mapping[str, int]


class World:
    """One run.

    Parameters:
        house: where it is.
        make: its platforms.
        plan: what is done.
        folder: for the producer's log.
    """

    def __init__(self, house: House, make: Make, plan: Plan, folder: Path) -> None:
        self._house = house
        self._plan = plan
        self._folder = folder
        self._port = free_port()
        self._chance = random.Random(plan.seed)
        self.platforms = list(make(f"http://127.0.0.1:{self._port}", self._chance))

    async def play(self) -> dict[str, Outcome]:
        """From start to end; the outcome by platform."""
        plan = self._plan
        targets = [Target(p.name, point) for p in self.platforms for point in plan.points] * plan.strikes
        self._chance.shuffle(targets)
        async with AsyncExitStack() as stack:
            for platform in self.platforms:
                await platform.open(stack)
            channels = ",".join(dict.fromkeys(platform.channel for platform in self.platforms))
            lives = Lives(
                self._folder, self._environ(), channels, self.platforms, Ends(targets, plan.passes), self._chance
            )
            living = asyncio.create_task(lives.run())
            users = [
                Users(platform, list(itertools.islice(self._house.numbers, plan.users)), self._chance)
                for platform in self.platforms
            ]
            try:
                await self._talk(users, lives)
                await self._drain(users)
            finally:
                living.cancel()
                with suppress(asyncio.CancelledError):
                    await living
            stored = {user.platform.name: await self._stored(user) for user in users}
            return {user.platform.name: self._outcome(user, lives, stored[user.platform.name]) for user in users}

    async def _talk(self, users: Sequence[Users], lives: Lives) -> None:
        until = time.monotonic() + self._plan.at_most_s

        def goes_on(number: int) -> bool:
            return number < self._plan.messages or (not lives.over.is_set() and time.monotonic() < until)

        async with asyncio.TaskGroup() as tasks:
            for some in users:
                tasks.create_task(some.talk(goes_on))

    async def _drain(self, users: Sequence[Users]) -> None:
        """Wait until everything is answered and nothing is on its way, or for so long that it is lost."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._plan.patience_s), open_broker(self._house.settings) as broker:
                names = [f"{self._house.settings.namespace}.replies.{user.platform.channel}" for user in users]
                names += broker.topology.partition_queues
                while any(user.unanswered for user in users):
                    await pause(0.1)
                while [name for name in names if (await broker.queue_state(name)).depth]:
                    await pause(0.1)
        await pause(SETTLE_S)

    def _environ(self) -> dict[str, str]:
        environ = base_environ() | self._house.environ
        environ |= {
            "SDQUEUE_PRODUCER_HOST": "127.0.0.1",
            "SDQUEUE_PRODUCER_PORT": str(self._port),
            "SDQUEUE_LOG_FORMAT": "json",
            MUTANT: self._plan.mutant,
        }
        for platform in self.platforms:
            for name, value in platform.settings().items():
                both = name in environ and value.startswith("{")
                environ[name] = json.dumps(json.loads(environ[name]) | json.loads(value)) if both else value
        return environ

    async def _stored(self, users: Users) -> dict[str, tuple[str, ...]]:
        settings = self._house.settings
        store = RedisSessionStore(settings.store_url, namespace=settings.namespace)
        try:
            names = {str(number): users.platform.session(number) for number in users.conversations}
            records = {number: await store.load(name) for number, name in names.items()}
        finally:
            await store.aclose()
        return {
            number: tuple(message.content for message in record.chat_ctx.items if message.role == "user")
            for number, record in records.items()
            if record is not None
        }

    def _outcome(self, users: Users, lives: Lives, stored: dict[str, tuple[str, ...]]) -> Outcome:
        platform = users.platform
        marks = {sent.mark for sent in users.sent}
        runs = [
            Run(e["mark"], e["turn"], e["number"], e["mono"])
            for e in events(self._house.pool.journal)
            if e["event"] == "run" and e["mark"] in marks
        ]
        told = lives.told()
        turns = {run.turn for run in runs}
        ambiguous = Counter(
            str(line["outcome"]) for line in told if line.get("outcome") and _turn(str(line["reply"])) in turns
        )
        observations = Observations(
            sent=tuple(users.sent),
            runs=tuple(runs),
            stored=stored,
            shown=platform.visible(),
            ambiguous=ambiguous,
            may_double=platform.may_double,
            strange=(*platform.strange, *lives.strange, *_strange(told, platform, turns)),
        )
        return Outcome(observations, {t.point: n for t, n in lives.strikes.items() if t.platform == platform.name})


def _turn(reply: str) -> str:
    return reply.rpartition(":")[0]


def _strange(told: Sequence[Mapping[str, Any]], platform: Platform, turns: set[str]) -> list[str]:
    """What a producer says that nobody expected.

    A reply of a world before may have stayed in the queue: a client that has got its answer on its own request does not
    wait for the egress. Its endpoint may be gone by now.
    """
    found = []
    for line in told:
        bad = line.get("level") in ("error", "critical") or line.get("event") == "reply dead"
        known = "reply" not in line or _turn(str(line["reply"])) in turns
        if bad and known and line.get("channel") in (platform.channel, "", None):
            found.append(json.dumps(line))
        if str(line.get("text", "")).startswith(("Traceback", "Task exception", "Exception ignored", "Error:")):
            found.append(str(line["text"]))
    return found
