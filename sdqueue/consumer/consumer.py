"""Consumer: reads all queues of turns and answers them, until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Self

from sdqueue.brokers import Broker, Subscription, queue_exists
from sdqueue.consumer.backlogs import Backlogs
from sdqueue.consumer.failure import describe, trace_of
from sdqueue.consumer.intake import Intake, interrupt
from sdqueue.consumer.loopwatch import LoopWatch
from sdqueue.consumer.mailbox import Mailboxes, Ran
from sdqueue.consumer.membership import Alone, Membership
from sdqueue.consumer.options import ConsumerOptions
from sdqueue.consumer.ownership import Ownership, Share
from sdqueue.consumer.pipeline import TurnPipeline
from sdqueue.consumer.reader import QueueReader
from sdqueue.consumer.readers import Readers
from sdqueue.consumer.replies import ReplyPublisher
from sdqueue.consumer.settlement import Settlement, State
from sdqueue.consumer.settler import Settler
from sdqueue.consumer.stallwatch import StallWatch
from sdqueue.consumer.work import Work
from sdqueue.errors import BrokerUnavailable, TopologyError
from sdqueue.observe import Observer
from sdqueue.sessions import SessionWorker
from sdqueue.streaming import DeltaLog, LogWriter

SUBSCRIBE_AT_ONCE = 8
"""Subscriptions being made at a time; the broker serves them side by side."""

CLEAN_UP_S = 1.5
"""Seconds that cancelled turns get to give their sessions back, after the grace period."""


class Consumer:
    """Takes turns from a broker through a :class:`~sdqueue.SessionWorker` and publishes the replies.

    ::

        async with broker, Consumer(broker, worker):
            ...

    or, for the whole life of a process, ``await consumer.run()``, which ends when :meth:`stop` was called.

    Parameters:
        broker: entered by the caller, with its topology applied.
        worker: serves the sessions.
        options: how to work.
        observer: told of what happens.
        membership: of the pool of consumers that share the partitions; default: alone. Entered and left here.
        delta_log: keeps streamed answers for a while, so that clients may read on; closed by the caller.
    """

    def __init__(
        self,
        broker: Broker,
        worker: SessionWorker,
        options: ConsumerOptions | None = None,
        *,
        observer: Observer | None = None,
        membership: Membership | None = None,
        delta_log: DeltaLog | None = None,
    ) -> None:
        self.options = ConsumerOptions() if options is None else options
        self._broker = broker
        self._observer = Observer() if observer is None else observer
        self._publisher = publisher = ReplyPublisher(broker, self._observer)
        self._log = None if delta_log is None else LogWriter(delta_log, self._log_failed)
        self._pipeline = TurnPipeline(worker, publisher, self.options, self._observer, self._log)
        self._settler = Settler(publisher, worker, self.options, self._observer, self._log)
        self._backlogs = None
        if worker.backlog is not None:
            self._backlogs = Backlogs(worker.backlog, self._settler, self.options, self._observer, self._failed)
        self._mailboxes = Mailboxes(
            self._work,
            self.options.concurrency,
            bound=self.options.mailbox_size,
            keeper=self._backlogs.keeper if self._backlogs else None,
            on_put=partial(interrupt, self.options),
        )
        intake = Intake(broker, self._mailboxes, self.options, self._observer)
        self._membership = Alone(self.options.name) if membership is None else membership
        self._ownership = Ownership(broker.topology, self._membership, self._observer)
        self._stallwatch = StallWatch(
            broker,
            self._mailboxes,
            intake,
            self._ownership.owned,
            lambda queue, subscription: self._readers.give_up(queue, subscription),
            self._observer,
            consumer_timeout_s=self.options.consumer_timeout_s,
        )
        places = asyncio.Semaphore(SUBSCRIBE_AT_ONCE)

        def reader(queue: str) -> QueueReader:
            return QueueReader(
                broker,
                queue,
                intake,
                self._mailboxes,
                self._observer,
                prefetch=self.options.prefetch,
                places=places,
                on_change=self._ownership.on_change,
            )

        self._readers = Readers(reader, broker.topology.turn_queues)
        self._ownership.take(self._readers, self._repartition)
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.run(), name=f"consumer {self.options.name}")
        ready = asyncio.create_task(self.ready())
        try:
            await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # The block is never entered, so nobody would stop it.
            self._task.cancel()
            await asyncio.wait({self._task})
            raise
        finally:
            ready.cancel()
        if self._task.done():
            self._task.result()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.stop()
        if self._task is not None:
            await self._task

    async def ready(self) -> None:
        """Wait until every queue that this consumer owns is subscribed."""
        await self._ownership.ready()

    def obstacles(self) -> list[str]:
        """Why this consumer does not take all of its work now; empty where it does.

        It asks nobody: a broker that hangs without having gone is not noticed yet. One that owns nothing since there
        are more consumers than partitions has none: it stands by.
        """
        return ["stopping"] if self._stopping.is_set() else list(self._ownership.obstacles())

    @property
    def share(self) -> Share:
        """How many partitions are this consumer's."""
        return self._ownership.share

    def owned(self) -> Iterator[tuple[str, Subscription]]:
        """The queues that this consumer owns now, with their live subscriptions; see :meth:`Ownership.owned`."""
        return self._ownership.owned()

    def stop(self) -> None:
        """Take no more work, let running turns end within the grace period, and go. A second call skips the waiting."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def run(self) -> None:
        """Work until :meth:`stop`; a task of it that dies ends it with the error.

        Raises:
            TopologyMissing, TopologyMismatch: the queues are not there, or are others. A broker that is away is waited
                for.
            ExceptionGroup: a task of the consumer itself has died.
        """
        try:
            await self._run()
        except ExceptionGroup as errors:
            wrong = errors.subgroup(TopologyError)
            if wrong is None:
                raise
            raise wrong.exceptions[0] from None

    async def _run(self) -> None:
        with LoopWatch(self._observer.loop_blocked):
            async with self._membership, asyncio.TaskGroup() as tasks:
                self._readers.start(tasks)
                side = [tasks.create_task(self._ownership.watch(), name="membership")]
                side.append(tasks.create_task(self._ownership.follow(), name="ownership"))
                side.append(tasks.create_task(self._report(), name="report"))
                side.append(tasks.create_task(self._check_topology(), name="topology check"))
                side.append(tasks.create_task(self._stallwatch.run(), name="stall watch"))
                if self._backlogs is not None:
                    taking_up = self._backlogs.watch(self._mailboxes, self._ownership.owned, self._broker)
                    side.append(tasks.create_task(taking_up, name="backlogs"))
                try:
                    await self._stopping.wait()
                    await self._drain()
                finally:
                    # Not reached by a clean stop with anything left: for cancellation and for a dead side task.
                    await self._mailboxes.cancel(within_s=CLEAN_UP_S)
                    for task in side:
                        task.cancel()
                    await self._readers.close()
                    await self._pipeline.aclose()
                    await self._publisher.aclose()
                    if self._log is not None:
                        await self._log.aclose()

    async def _drain(self) -> None:
        """The order of a shutdown.

        1. The others of the pool are told at once, so that they share the partitions anew. Each queue is served until
           one of them has subscribed it, which its standby nearly always has; then its channel is closed.
        2. Nothing new starts. Deliveries may still come; they wait and return with their channel.
        3. Running turns end: their locks and the heartbeats live on, their replies go out, they are acknowledged.
           Those of a lost channel too: what they save is what answers their redelivery.
        4. Each channel is closed as soon as nothing of it runs, so the next consumer can begin.
        5. What has not ended within the grace period is cancelled: nothing of it is saved, and it is delivered again.
        """
        has_heirs = self._ownership.begin_leaving()
        if not has_heirs:
            self._start_nothing()
        drained = asyncio.create_task(self._drain_all(hand_over=has_heirs))
        hurrying = asyncio.create_task(self._hurrying.wait())
        try:
            await asyncio.wait({drained, hurrying}, timeout=self.options.grace_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurrying.cancel()
            drained.cancel()
            await asyncio.gather(hurrying, drained, return_exceptions=True)

    async def _drain_all(self, *, hand_over: bool) -> None:
        if hand_over:
            await self._ownership.hand_over()
            self._start_nothing()
        await asyncio.gather(self._ownership.leave(), self._readers.drain(), self._mailboxes.wait_all_idle())

    def _start_nothing(self) -> None:
        self._mailboxes.close()
        self._pipeline.stopping = True

    async def _work(self, work: Work) -> Ran:
        """Take a piece of work to its settlement; the one place where an unexpected error can surface."""
        try:
            if work.refused is not None:
                if await self._settler.refuse(work, work.refused):
                    return Ran.ENDED
                work.admit()
                return Ran.ADMITTED
            settlement = await self._pipeline.run(work)
            if settlement.state is State.DEFERRED:
                return Ran.PARKED if settlement.parked else Ran.BEHIND  # its keeper settles it, once it is kept
            if settlement.state is State.FORWARDED and not await self._may_forward(work):
                settlement = Settlement(State.RELEASED)
            await self._settler.settle(work, settlement)
        except asyncio.CancelledError:
            self._readers.give_up(work.delivery.queue, work.delivery.subscription)
            await self._settler.settle(work, Settlement(State.RELEASED))
            raise
        except Exception as error:  # noqa: BLE001 -- a defect of ours must cost a redelivery, never a turn or the process
            self._failed(work.delivery.queue, work.delivery.subscription, work.session_id, work.turn_id, error)
        return Ran.ENDED

    def _log_failed(self, error: str) -> None:
        self._observer.backend_away(backend="stream log", error=error)

    def _failed(self, queue: str, subscription: Subscription, session_id: str, turn_id: str, error: Exception) -> None:
        """Give a generation up after a defect of ours."""
        self._readers.give_up(queue, subscription)
        self._observer.internal_error(
            session_id=session_id, turn_id=turn_id, error=describe(error), trace=trace_of(error)
        )

    async def _may_forward(self, work: Work) -> bool:
        """Whether the number of partitions by which a turn is in the wrong one is that of the whole pool.

        A consumer that cannot see its pool does not know. It waits, and if its queue is gone by then, the turn is not
        its own any more.
        """
        if not self._ownership.certain:
            work.stage = "waits to be forwarded until the other consumers can be seen"
            await self._ownership.until_certain()
            reader = self._readers.get(work.delivery.queue)
            return reader is not None and reader.subscription is work.delivery.subscription
        return True

    async def _repartition(self, partitions: int) -> bool:
        """Take another number of partitions over, if it is that of the broker. Nothing is subscribed now."""
        topology = replace(self._broker.topology, partitions=partitions)
        if await queue_exists(self._broker, topology.partition_queue(partitions)):
            return False
        if not await queue_exists(self._broker, topology.partition_queue(partitions - 1)):
            return False
        self._broker.topology = topology
        self._readers.repartition(topology.turn_queues)
        self._observer.repartitioned(partitions=partitions)
        return True

    async def _check_topology(self) -> None:
        # A queue that is missing later is waited for; here nobody has made any.
        with suppress(BrokerUnavailable):
            await self._broker.check()

    async def _report(self) -> None:
        while True:
            self._observer.running(turns=self._mailboxes.running, waiting=self._mailboxes.waiting)
            await asyncio.sleep(1)
