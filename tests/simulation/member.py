"""Member: a consumer process of the world; the one place where consumers are made."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sdqueue.channels import OnDead, PerChannel
from sdqueue.consumer import Consumer, ConsumerOptions, Membership, RetryPolicy
from sdqueue.observe import Observer
from sdqueue.sessions import SessionWorker
from tests.simulation.agent import NAME, SimulatedAgent
from tests.simulation.broker import SimulatedBroker
from tests.simulation.locks import SimulatedLocks
from tests.simulation.membership import SimulatedMembership
from tests.simulation.process import Process
from tests.simulation.store import SimulatedStore
from tests.simulation.wire import Wire

if TYPE_CHECKING:
    from tests.simulation.world import World

RETRY = RetryPolicy(max_attempts=3, first_s=0.5, longest_s=5.0)
"""Agents fail passingly twice at most, so every turn that is worth it succeeds."""


class Member:
    """A process with its consumer and its ways to the backends.

    Parameters:
        world: where it lives.
        process: what it is.
    """

    def __init__(self, world: World, process: Process) -> None:
        self.process = process
        self.task: asyncio.Task[Any] | None = None
        self.wire = Wire(world.loop, process, world.profile, world.chance)
        self.broker = SimulatedBroker(self.wire, world.broker_side, world.topology, world.server)
        self._world = world
        self._consumer: Consumer | None = None

    async def main(self) -> None:
        """What the process runs."""
        world, profile = self._world, self._world.profile
        worker = SessionWorker(
            agent_factory=SimulatedAgent,
            store=SimulatedStore(self.wire, world.store_side, world.store),
            lock_backend=SimulatedLocks(self.wire, world.locks),
            max_sessions=profile.max_sessions,
        )
        options = ConsumerOptions(
            name=self.process.name,
            agent=NAME,
            prefetch=profile.prefetch,
            concurrency=profile.concurrency,
            grace_s=profile.grace_s,
            retry=RETRY,
            double_texting=PerChannel(profile.double_texting),
            on_dead=PerChannel(OnDead.PARK if profile.parks else OnDead.SKIP),
            mailbox_size=profile.mailbox_size,
            backlog_size=profile.backlog_size,
        )
        membership: Membership | None = None
        if profile.pooled:
            membership = SimulatedMembership(
                self.wire, world.store_side, world.pool, world.topology.turn_queues, name=self.process.name
            )
        noter = _Noter(world, self.process)
        self._consumer = Consumer(self.broker, worker, options, observer=noter, membership=membership)
        async with self.broker:
            await self._consumer.run()

    def stop(self) -> None:
        """SIGTERM."""
        self.process.soon(self._on_sigterm)

    def _on_sigterm(self) -> None:
        self.process.note("told to end")
        if self._consumer is not None:
            self._consumer.stop()


class _Noter(Observer):
    """Puts the consumer's events into the trace, and defects of ours into the history."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def turn_settled(self, *, state: str, turn_id: str, letter: Any, **_: Any) -> None:
        self._process.note(f"settles {turn_id}: {state}{' ' + letter.reason if letter else ''}")

    def turn_retried(self, *, turn_id: str, error: str, **_: Any) -> None:
        self._process.note(f"tries {turn_id} again: {error}")

    def turn_suspected(self, *, turn_id: str, begun: int, **_: Any) -> None:
        self._process.note(f"suspects {turn_id}, begun {begun} times")

    def agent_stuck(self, *, turn_id: str, **_: Any) -> None:
        self._process.note(f"agent of {turn_id} is stuck")

    def queue_taken(self, *, queue: str) -> None:
        self._process.note(f"has {queue}")

    def queue_lost(self, *, queue: str, reason: str) -> None:
        self._process.note(f"lost {queue}: {reason}")

    def queue_released(self, *, queue: str, reason: str) -> None:
        self._process.note(f"released {queue}: {reason}")

    def partitions_assigned(self, *, owned: int, standby: int, members: int) -> None:
        self._process.note(f"owns {owned} partitions, stands by for {standby}, among {members}")

    def queue_stalled(self, *, queue: str, depth: int, seconds: float, lost: bool) -> None:
        self._process.note(f"{queue} has stalled")

    def internal_error(self, *, turn_id: str, error: str, trace: str, **_: Any) -> None:
        self._process.note(f"internal error at {turn_id}: {error}")
        if "a defect" not in error and not self._process.dead:
            self._world.history.complaints.append(f"internal error at {turn_id}: {error}\n{trace}")
