"""Resharding: the steps from one number of partitions to another (decision 0018 has the reasons)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from sdqueue.brokers import Broker, Delivery, Topology, queue_exists
from sdqueue.brokers.topology import MAX_PARTITIONS, Queue
from sdqueue.consumer.membership import Pool
from sdqueue.errors import ConfigurationError, ReshardingFailed, TopologyMissing
from sdqueue.resharding.hold import LOOK_S, Hold, few
from sdqueue.resharding.mover import Mover, side_by_side
from sdqueue.resharding.options import ReshardOptions, ReshardReport
from sdqueue.resharding.plan import Plan, is_plan
from sdqueue.resharding.stretch import Stretch
from sdqueue.sessions import TurnBacklog

PLAN_PREFETCH: Final = 200
"""Only reshardings read that queue."""

PARALLEL: Final = 8
"""Partitions read at a time."""

ROUNDS: Final = 50
"""So often what has come meanwhile is moved before the keys are bound. Then less than one window of it is left, or
producers are faster than this; it is in order either way, and only takes longer."""

Say = Callable[[str], None]


class Resharding:
    """Changes the number of partitions while producers go on to publish, under whatever keys they know.

    It may be stopped or killed at any point: what it has begun is brought to its end by running it again with the same
    number. Until then no consumer takes anything, and what producers publish is kept in order.

    Parameters:
        broker: entered by the caller. Its topology is the new one afterwards.
        backlog: of the store that the consumers use.
        partitions: the new number.
        pool: the consumers; ``None`` where they know nothing of each other. They have to be stopped then.
        options: how to work.
        say: told of each step, for people.

    Raises:
        ConfigurationError: there cannot be so many partitions.
    """

    def __init__(
        self,
        broker: Broker,
        backlog: TurnBacklog,
        partitions: int,
        *,
        pool: Pool | None = None,
        options: ReshardOptions | None = None,
        say: Say = lambda text: None,
    ) -> None:
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"{partitions} partitions: there can be 1 to {MAX_PARTITIONS}")
        self._broker = broker
        self._backlog = backlog
        self._pool = pool
        self._options = ReshardOptions() if options is None else options
        self._consumers = Hold(broker, pool, patience_s=self._options.patience_s)
        self._say = say
        self._namespace = broker.topology.namespace
        self._after = self._topology(partitions)

    async def run(self) -> ReshardReport:
        """Do it.

        Raises:
            ReshardingFailed: consumers do not let go, another resharding is at work, or too much waits.
            TopologyMissing: there is no such namespace.
            BrokerUnavailable, StoreUnavailable: a backend went in the middle. Run it again.
        """
        present = await self._count()
        begun = await self._has_begun()
        if not begun:
            if present == self._after.partitions:
                return ReshardReport(present, present, resumed=await self._consumers.end_forgotten(present))
            await self._check_beginning(present)
        await self._broker.declare([Queue(self._after.resharding)])
        async with self._stretch(self._after.resharding, prefetch=PLAN_PREFETCH) as aside:
            plan, kept = await self._planned(aside, Plan(present, self._after.partitions))
            mover = Mover(
                self._broker, self._backlog, self._options, self._topology(plan.before), self._topology(plan.after)
            )
            await self._hold(aside, plan, kept, resumed=begun)
            if plan.before != plan.after:
                await self._move(mover, aside, plan, kept)
            # The last that is known of the plan: from here on there is nothing left to be done but to say so.
            for delivery in kept:
                aside.ack(delivery)
            await aside.to_end(mover.take)
        await self._remove(self._after.resharding)
        self._broker.topology = self._after
        await self._broker.apply()
        await self._consumers.end(self._after.partitions)
        held_s = time.monotonic() - self._consumers.began_at
        moved = mover.moved
        return ReshardReport(plan.before, plan.after, moved.kept, moved.passed_on, held_s, resumed=begun)

    # Beginning

    async def _count(self) -> int:
        """How many partitions the broker has: they are numbered without gaps."""
        low, high = 0, 1
        while high <= MAX_PARTITIONS and await queue_exists(self._broker, self._after.partition_queue(high - 1)):
            low, high = high, 2 * high
        high = min(high, MAX_PARTITIONS + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (middle, high)
                if await queue_exists(self._broker, self._after.partition_queue(middle - 1))
                else (low, middle)
            )
        if not low:
            raise TopologyMissing(f"the namespace {self._namespace!r} has no partitions; run `sdqueue topology apply`")
        return low

    async def _has_begun(self) -> bool:
        """Whether an interrupted resharding is to be brought to its end.

        Raises:
            ReshardingFailed: it was not interrupted, but is at work.
        """
        try:
            state = await self._broker.queue_state(self._after.resharding)
        except TopologyMissing:
            return False
        if state.receivers:
            raise ReshardingFailed(
                f"another `sdqueue topology reshard` is at work on namespace {self._namespace!r}; wait for it. If it "
                "was killed just now, the broker needs some seconds to notice"
            )
        return True

    async def _check_beginning(self, present: int) -> None:
        topology = self._topology(present)
        self._broker.topology = topology
        await self._broker.check()
        waiting = 0
        for queue in topology.turn_queues:
            waiting += (await self._broker.queue_state(queue)).depth
        if waiting > self._options.at_most:
            raise ReshardingFailed(
                f"{waiting} turns wait in the queues, and all of them would go to the store; let the consumers work "
                f"off some of them, or say --at-most {waiting} if the store has room"
            )
        if self._pool is None and (busy := await self._consumers.busy(topology.turn_queues)):
            raise ReshardingFailed(
                f"consumers are at work: {few(busy)} are being read. Without Redis they cannot be told of another "
                "number of partitions; stop them and run the same command again"
            )

    async def _planned(self, aside: Stretch, wanted: Plan) -> tuple[Plan, list[Delivery]]:
        """The plan that is to be carried out, and the messages that say so, which are kept until it has been."""
        kept = await aside.first(is_plan)
        if not kept:
            await self._broker.publish("", self._after.resharding, wanted.message())
            kept = await aside.first(is_plan)
        plan = Plan.read(kept[-1])
        if plan.after != wanted.after:
            raise ReshardingFailed(
                f"a resharding to {plan.after} partitions was interrupted; bring it to its end first: "
                f"sdqueue topology reshard --partitions {plan.after}"
            )
        return plan, kept

    # Consumers

    async def _hold(self, aside: Stretch, plan: Plan, kept: list[Delivery], *, resumed: bool) -> None:
        """Have all consumers let go of all queues."""
        self._say("waiting for the consumers to let go of all queues")
        try:
            await self._consumers.begin(plan.before, plan.after)
            await self._consumers.wait(self._topology(max(plan.before, plan.after)).turn_queues)
        except BaseException:
            if not resumed:
                await asyncio.shield(self._call_off(aside, plan, kept))
            raise

    async def _call_off(self, aside: Stretch, plan: Plan, kept: list[Delivery]) -> None:
        """Nothing was moved yet: let everything go on as before."""
        for delivery in kept:
            aside.ack(delivery)
        await aside.reopen()
        await aside.close()
        await self._remove(self._after.resharding)
        await self._consumers.end(plan.before)

    # Moving

    async def _move(self, mover: Mover, aside: Stretch, plan: Plan, kept: list[Delivery]) -> None:
        before, after = self._topology(plan.before), self._topology(plan.after)
        larger = max(before, after, key=lambda topology: topology.partitions)
        async with self._stretch(after.unrouted) as unrouted:
            if not plan.binding:
                present = {queue.name for queue in before.queues}
                await self._broker.declare([queue for queue in after.queues if queue.name not in present])
                self._say(f"unbinding all keys: what is published now waits in {after.unrouted}")
                await self._broker.unbind(larger.keys)
                await self._empty_partitions(mover, larger)
                await aside.to_end(mover.take)
                for _ in range(ROUNDS):
                    if await unrouted.to_end(mover.take) <= self._options.prefetch:
                        break
                self._say(f"{mover.moved.kept} turns are in the backlogs of their sessions")
                await self._note(aside, replace(plan, binding=True), kept)
            self._say(f"binding {after.partitions} keys")
            await self._broker.bind(after.keys)
            # Older than anything that has found its partition by now. Backlogs come first, so the order holds.
            await unrouted.to_end(mover.take)
        surplus = before.partition_queues[after.partitions :]
        await self._broker.unbind(before.keys[after.partitions :])
        for queue in reversed(surplus):
            if await queue_exists(self._broker, queue):
                await self._empty(mover, queue)
                await self._remove(queue)

    async def _note(self, aside: Stretch, plan: Plan, kept: list[Delivery]) -> None:
        """Keep a later plan in place of an earlier one.

        What was set aside is gone for good first, so that the plans are all that is in the queue, and both are found.
        """
        await aside.reopen()
        await self._broker.publish("", self._after.resharding, plan.message())
        kept[:] = await aside.first(is_plan)

    async def _empty_partitions(self, mover: Mover, topology: Topology) -> None:
        places = asyncio.Semaphore(PARALLEL)

        async def empty(queue: str) -> None:
            async with places:
                await self._empty(mover, queue)

        await side_by_side(map(empty, topology.partition_queues))

    async def _empty(self, mover: Mover, queue: str) -> None:
        async with self._stretch(queue) as stretch:
            await stretch.to_end(mover.take_from_partition)

    async def _remove(self, queue: str) -> None:
        """Remove a queue that is empty, as soon as the broker sees it so."""
        deadline = time.monotonic() + self._options.patience_s
        while not await self._broker.remove(queue):
            if time.monotonic() > deadline:
                raise ReshardingFailed(
                    f"queue {queue} cannot be removed: messages come into it, or somebody reads it; look who does, and "
                    "run the same command again"
                )
            await asyncio.sleep(LOOK_S)

    def _stretch(self, queue: str, *, prefetch: int | None = None) -> Stretch:
        return Stretch(
            self._broker,
            queue,
            prefetch=self._options.prefetch if prefetch is None else prefetch,
            patience_s=self._options.patience_s,
        )

    def _topology(self, partitions: int) -> Topology:
        return Topology(self._namespace, partitions)
