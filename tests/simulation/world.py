"""World: one seed, from its first event to the judgement."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

from sdqueue.brokers import Delivery, MemoryBroker
from sdqueue.brokers.memory import MemoryServer
from sdqueue.brokers.topology import Binding, Queue, Topology
from sdqueue.channels import DoubleTexting
from sdqueue.consumer import MemoryPool
from sdqueue.consumer.child import Child
from sdqueue.errors import BrokerUnavailable, StoreUnavailable
from sdqueue.messages import DeadTurn
from sdqueue.sessions import InMemorySessionStore
from tests.simulation.broker import SimulatedBroker
from tests.simulation.checker import History, violations
from tests.simulation.child import SimulatedChild
from tests.simulation.desk import Desk
from tests.simulation.locks import LockService
from tests.simulation.loop import Deadlock, VirtualLoop
from tests.simulation.member import Member
from tests.simulation.nature import made_up
from tests.simulation.process import Process, Surroundings
from tests.simulation.profile import Profile
from tests.simulation.trace import Trace
from tests.simulation.trouble import Trouble
from tests.simulation.wire import LATEST_S, Backend, at_once
from tests.simulation.workload import Workload

DRAIN_S = 900.0
"""Virtual seconds after the last trouble within which everything must be answered."""

END_S = 60.0
"""Virtual seconds that consumers may take to stop when nothing is left to do."""


@dataclass(frozen=True)
class Outcome:
    """What came of a seed.

    Parameters:
        seed: names it.
        violations: broken promises, in words; none is how it should be.
        trace: all that happened.
        digest: a short name of the trace.
        counts: how much happened.
    """

    seed: int
    violations: tuple[str, ...]
    trace: tuple[str, ...]
    digest: str
    counts: dict[str, int] = field(default_factory=dict)


def run(seed: int, profile: Profile | None = None) -> Outcome:
    """Play the world of a seed.

    Parameters:
        seed: decides all.
        profile: instead of the seed's own.
    """
    loop = VirtualLoop()
    with made_up(loop, seed), patch.object(Child, "start", SimulatedChild.start):
        world = World(loop, seed, profile or Profile.of(seed))
        try:
            loop.run_until_complete(world.run())
        except Deadlock as error:
            world.history.complaints.append(f"the world came to a stand: {error}")
        finally:
            loop.close()
        return world.outcome()


class World:
    """Processes, their backends, a producer, a receiver and some trouble.

    Parameters:
        loop: makes the time.
        seed: decides all.
        profile: how large, how troubled.
    """

    def __init__(self, loop: VirtualLoop, seed: int, profile: Profile) -> None:
        self.loop = loop
        self.seed = seed
        self.profile = profile
        self.trace = Trace(loop)
        self.broker_side = Backend("broker", BrokerUnavailable)
        self.store_side = Backend("store", StoreUnavailable)
        self.topology = Topology("world", profile.partitions)
        self.server = MemoryServer()
        self.store = InMemorySessionStore()
        self.locks = LockService(self.store_side)
        self.pool = MemoryPool()
        self.chance = random.Random(f"{seed} wire")
        self.members: list[Member] = []
        """Those that live now, standing still or not."""
        self.history = History(
            parks=profile.parks,
            may_refuse=_may_refuse(profile),
            rejects=profile.double_texting is DoubleTexting.REJECT,
        )
        self.around = Surroundings(loop, self.trace.note, self.process)
        self.context = contextvars.Context()
        """Nobody's: what is done in it goes on whoever dies."""
        self._everybody: list[Process] = []
        self._desk: asyncio.Task[None] | None = None
        self._desks = 0
        self._desk_chance = random.Random(f"{seed} desk")
        self._calm = False
        self._stopping = False

    async def run(self) -> None:
        """Let everything happen, then let it come to rest."""
        seed, profile = self.seed, self.profile
        async with MemoryBroker(self.topology, self.server) as broker:
            await broker.apply()
            await self._receive(broker)
            for number in range(profile.processes):
                self._start(f"p{number}")
            workload = Workload(profile, random.Random(f"{seed} workload"), broker, self.trace)
            trouble = Trouble(self, random.Random(f"{seed} trouble"))
            self.history.accepted = workload.accepted
            await asyncio.gather(workload.send(), trouble.happen())
            self._calm_down()
            await asyncio.sleep(LATEST_S)
            await self._drain()
            await self._stop()
            await self._bury()
        await self._record()

    def outcome(self) -> Outcome:
        """The judgement."""
        history = self.history
        history.complaints += [f"asyncio complains: {error}" for error in self.loop.errors]
        return Outcome(
            self.seed,
            tuple(violations(history)),
            tuple(self.trace.lines()),
            self.trace.digest(),
            {
                "turns": len(history.accepted),
                "processes": len(self._everybody),
                "steps": self.loop.steps,
                "virtual seconds": int(self.loop.time()) - 1000,
            },
        )

    # Processes

    def process(self, name: str, **on: Callable[..., None]) -> Process:
        """A new one, to be buried in the end."""
        process = Process(self.around, name, **on)
        self._everybody.append(process)
        return process

    def _start(self, name: str) -> None:
        if self._stopping:
            return
        process = self.process(name, on_death=lambda: self._ended(member), on_freeze=lambda s: self._frozen(member, s))
        member = Member(self, process)
        member.wire.calm = self._calm
        self.members.append(member)
        self.trace.note(name, "starts")
        member.task = process.start(member.main())
        member.task.add_done_callback(lambda _: self._ended(member), context=self.context)

    def _ended(self, member: Member) -> None:
        """A process has died or come to its end: the server notices, and another one is started in its place."""
        if member not in self.members:
            return
        self.members.remove(member)
        process, task, chance = member.process, member.task, self.chance
        if not process.dead:
            assert task is not None
            self.trace.note(process.name, "ends")
            if not task.cancelled() and task.exception() is not None:
                self.history.complaints.append(f"{process.name} crashed by itself: {task.exception()!r}")
        self._hang_up(member.broker)
        base, _, life = process.name.partition("/")
        self._later(chance.uniform(0.1, 5), self._start, f"{base}/{int(life or 1) + 1}")

    def open_desk(self) -> None:
        """Somebody looks through the dead letters."""
        self._desks += 1
        process = self.process(f"desk/{self._desks}", on_death=lambda: self._hang_up(desk.broker))
        desk = Desk(self, process, self._desk_chance)
        desk.wire.calm = self._calm
        self.trace.note(process.name, "opens")
        self._desk = process.start(desk.main())

    def is_parked(self, session_id: str) -> bool:
        """Whether turns of a session wait for a dead one."""
        record = at_once(self.store.load(session_id)) if session_id else None
        return record is not None and record.parked_by is not None

    def _hang_up(self, broker: SimulatedBroker) -> None:
        self._later(self.chance.uniform(0, 3), partial(broker.hang_up, "the process is gone", for_good=True))

    def _frozen(self, member: Member, seconds: float) -> None:
        """A process stands still: the broker may miss its heartbeats and give its turns to somebody else."""
        if self.chance.random() < 0.7:
            self._later(self.chance.uniform(0, seconds), member.broker.hang_up, "no heartbeat")

    def _later(self, delay: float, callback: Callable[..., None], *args: Any) -> None:
        # Whoever caused it may be dead by then.
        self.loop.call_later(delay, callback, *args, context=self.context)

    # The end

    def _calm_down(self) -> None:
        """From here on nothing goes wrong, but for what turns do to their process."""
        self.trace.note("world", "calms down")
        self.around.mended = True
        self._calm = True
        self.broker_side.away = self.store_side.away = False
        for member in self.members:
            member.wire.calm = True
            member.process.thaw()

    async def _drain(self) -> None:
        until = self.loop.time() + DRAIN_S
        while (left := self._left()) and self.loop.time() < until:
            if self._parked() and (self._desk is None or self._desk.done()):
                self.open_desk()
            await asyncio.sleep(0.5)
        self.history.complaints += [f"{DRAIN_S:g} s after the last trouble: {what}" for what in left]

    def _left(self) -> list[str]:
        """What is still to be done."""
        left = [f"session {session} is parked" for session in self._parked()]
        for queue in self.server._queues.values():
            if queue.declared.name == self.topology.dead:
                continue
            held = sum(len(subscription._unacked) for subscription in queue.subscriptions)
            if queue.waiting or held:
                left.append(
                    f"queue {queue.declared.name} has {len(queue.waiting)} turns waiting, {held} unacknowledged"
                )
        for session, turns in self.store._deferred.items():
            left.append(f"session {session} has {', '.join(turns)} in its backlog")
        return left

    def _parked(self) -> list[str]:
        return [session for session in self.sessions if self.is_parked(session)]

    async def _stop(self) -> None:
        self._stopping = True
        members = list(self.members)
        if self._desk is not None:
            await asyncio.wait({self._desk}, timeout=END_S)
        for member in members:
            member.stop()
        tasks = {member.task for member in members if member.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=END_S)
        for member in members:
            tasks_left = [task.get_name() for task in self.loop.tasks(member.process)]
            if tasks_left:
                self.history.complaints.append(f"{member.process.name} was stopped but still runs {tasks_left}")
        until = self.loop.time() + END_S + LATEST_S
        while self.locks.entries and self.loop.time() < until:
            await asyncio.sleep(self.locks.ttl_s)  # those of the dead live out their time
        if self.locks.entries:
            self.history.complaints.append(f"{self.locks.entries} locks are left")

    async def _bury(self) -> None:
        """End the tasks of the dead; what they leave behind says how the product takes a cancellation anywhere."""
        for process in self._everybody:
            process.dead = True
            process.bury()
        until = self.loop.time() + END_S
        while self._restless() and self.loop.time() < until:
            await asyncio.sleep(0.5)
        for process in self._restless():
            names = [task.get_name() for task in self.loop.tasks(process)]
            self.history.complaints.append(f"{process.name} is dead, cancelled and still runs {names}")

    def _restless(self) -> list[Process]:
        return [process for process in self._everybody if self.loop.tasks(process)]

    # What came of it

    async def _receive(self, broker: MemoryBroker) -> None:
        def on_reply(delivery: Delivery) -> None:
            self.history.replies.append(delivery.message.body)
            delivery.subscription.ack(delivery)

        def on_letter(delivery: Delivery) -> None:
            self.history.letters.append(DeadTurn.from_headers(delivery.message.headers))
            delivery.subscription.ack(delivery)

        await broker.subscribe(await broker.declare_egress("default"), on_reply, prefetch=1000)
        # A copy of each letter: those in the queue itself are for the desks.
        copies = Queue("copies")
        broker._declare((), (copies,), (Binding(self.topology.dead, copies.name),))
        await broker.subscribe(copies.name, on_letter, prefetch=1000)

    @property
    def sessions(self) -> list[str]:
        """Those that turns were sent to."""
        return list(dict.fromkeys(turn.session_id for turn in self.history.accepted))

    async def _record(self) -> None:
        for session_id in self.sessions:
            record = await self.store.load(session_id)
            if record is not None:
                self.history.sessions[session_id] = record


def _may_refuse(profile: Profile) -> frozenset[str]:
    """Why a turn that is well may be refused."""
    reasons = set()
    if profile.backlog_size < profile.turns:
        reasons |= {"backlog-full", "refused"}
    if profile.double_texting is DoubleTexting.REJECT:
        reasons |= {"busy", "refused", "backlog-full"}  # the last for one that is refused again
    return frozenset(reasons)
