"""Consumer: reads all queues of turns and answers them, until it is told to stop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Self

from sdqueue.brokers import Broker, Delivery
from sdqueue.consumer.backlog import BacklogDesk, BacklogKeeper
from sdqueue.consumer.failure import Refused, describe, trace_of
from sdqueue.consumer.intake import Intake, interrupt
from sdqueue.consumer.loopwatch import LoopWatch
from sdqueue.consumer.mailbox import Mailbox, Mailboxes, Ran
from sdqueue.consumer.options import ConsumerOptions
from sdqueue.consumer.pipeline import TurnPipeline
from sdqueue.consumer.reader import QueueReader
from sdqueue.consumer.replies import ReplyPublisher
from sdqueue.consumer.settlement import Settlement, State
from sdqueue.consumer.settler import Settler
from sdqueue.consumer.work import Work
from sdqueue.errors import BrokerUnavailable, StoreUnavailable, TopologyError
from sdqueue.messages import partition_of
from sdqueue.observe import Observer
from sdqueue.sessions import SessionWorker

SUBSCRIBE_AT_ONCE = 8
"""Subscriptions being made at a time; the broker serves them side by side."""

BACKLOGS_S = 1.0
"""How often a consumer looks for backlogs that nobody works on."""

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
    """

    def __init__(
        self,
        broker: Broker,
        worker: SessionWorker,
        options: ConsumerOptions | None = None,
        *,
        observer: Observer | None = None,
    ) -> None:
        self.options = ConsumerOptions() if options is None else options
        self._broker = broker
        self._observer = Observer() if observer is None else observer
        publisher = ReplyPublisher(broker, self._observer)
        self._pipeline = TurnPipeline(worker, publisher, self.options, self._observer)
        self._settler = Settler(publisher, worker, self.options, self._observer)
        self._mailboxes = Mailboxes(
            self._work,
            self.options.concurrency,
            bound=self.options.mailbox_size,
            keeper=self._keepers(worker),
            on_put=partial(interrupt, self.options),
        )
        self._backlog = worker.backlog
        intake = Intake(broker, self._mailboxes, self.options, self._observer)
        places = asyncio.Semaphore(SUBSCRIBE_AT_ONCE)
        self._readers = {
            queue.name: QueueReader(
                broker,
                queue.name,
                intake,
                self._mailboxes,
                self._observer,
                prefetch=self.options.prefetch,
                places=places,
            )
            for queue in broker.topology.queues
            if queue.single_active
        }
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
        """Wait until every queue is subscribed."""
        for reader in self._readers.values():
            await reader.subscribed.wait()

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
        # Consumers that start together read the queues in different orders, so each becomes active on some.
        order = random.sample(list(self._readers.values()), len(self._readers))
        with LoopWatch(self._observer.loop_blocked):
            async with asyncio.TaskGroup() as tasks:
                side = [tasks.create_task(r.run(), name=f"reader {r.queue}") for r in order]
                side.append(tasks.create_task(self._report(), name="report"))
                side.append(tasks.create_task(self._check_topology(), name="topology check"))
                side.append(tasks.create_task(self._take_up_backlogs(), name="backlogs"))
                try:
                    await self._stopping.wait()
                    await self._drain()
                finally:
                    # Not reached by a clean stop with anything left: for cancellation and for a dead side task.
                    await self._mailboxes.cancel(within_s=CLEAN_UP_S)
                    for task in side:
                        task.cancel()
                    await _close_all(self._readers.values())
                    await self._pipeline.aclose()

    async def _drain(self) -> None:
        """The order of a shutdown.

        1. Nothing new starts. Deliveries may still come; they wait and return with their channel.
        2. Running turns end: their locks and the heartbeats live on, their replies go out, they are acknowledged.
           Those of a lost channel too: what they save is what answers their redelivery.
        3. Each channel is closed as soon as nothing of it runs, so the next consumer can begin.
        4. What has not ended within the grace period is cancelled: nothing of it is saved, and it is delivered again.
        """
        self._mailboxes.close()
        self._pipeline.stopping = True
        drained = asyncio.create_task(self._drain_all())
        hurrying = asyncio.create_task(self._hurrying.wait())
        try:
            await asyncio.wait({drained, hurrying}, timeout=self.options.grace_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurrying.cancel()
            drained.cancel()
            await asyncio.gather(hurrying, drained, return_exceptions=True)

    async def _drain_all(self) -> None:
        await asyncio.gather(*(reader.drain() for reader in self._readers.values()), self._mailboxes.wait_all_idle())

    async def _work(self, work: Work) -> Ran:
        """Take a piece of work to its settlement; the one place where an unexpected error can surface."""
        try:
            if work.refused is not None:
                if not await self._settler.refuse(work, work.refused):
                    work.admit()
                    self._mailboxes.put(work)
                return Ran.ENDED
            settlement = await self._pipeline.run(work)
            if settlement.state is State.DEFERRED:
                return Ran.PARKED if settlement.parked else Ran.BEHIND  # its keeper settles it, once it is kept
            await self._settler.settle(work, settlement)
        except asyncio.CancelledError:
            self._give_up(work.delivery)
            await self._settler.settle(work, Settlement(State.RELEASED))
            raise
        except Exception as error:  # noqa: BLE001 -- a defect of ours must cost a redelivery, never a turn or the process
            self._give_up(work.delivery)
            self._observer.internal_error(
                session_id=work.session_id, turn_id=work.turn_id, error=describe(error), trace=trace_of(error)
            )
        return Ran.ENDED

    def _give_up(self, delivery: Delivery) -> None:
        self._readers[delivery.queue].give_up(delivery.subscription)

    def _keepers(self, worker: SessionWorker) -> Callable[[Mailbox], BacklogKeeper] | None:
        """What makes the keepers of backlogs, where the store has any."""
        if worker.backlog is None:
            return None
        full = Refused("backlog-full", f"{self.options.backlog_size} turns of its session wait already")

        def on_error(box: Mailbox, error: Exception) -> None:
            self._readers[box.queue].give_up(box.subscription)
            self._observer.internal_error(
                session_id=box.session_id, turn_id="", error=describe(error), trace=trace_of(error)
            )

        desk = BacklogDesk(
            store=worker.backlog,
            observer=self._observer,
            max_text_bytes=self.options.max_text_bytes,
            batch=self.options.mailbox_size,
            limit=self.options.backlog_size,
            on_deferred=lambda work: self._settler.settle(work, Settlement(State.DEFERRED)),
            on_refused=lambda work: self._settler.refuse(work, full),
            on_error=on_error,
        )
        return partial(BacklogKeeper, desk=desk)

    async def _take_up_backlogs(self) -> None:
        """Work on backlogs that nobody works on: their consumer has died, or their session is parked no more."""
        if self._backlog is None:
            return
        while True:
            try:
                listed = await self._backlog.backlogged()
            except StoreUnavailable as error:
                self._observer.backend_away(backend="store", error=str(error))
                listed = {}
            topology = self._broker.topology
            for session_id, mark in listed.items():
                queue = topology.partition_queue(partition_of(session_id, topology.partitions))
                subscription = self._readers[queue].subscription
                if subscription is not None:
                    self._mailboxes.take_up(subscription, queue, session_id, mark)
            await asyncio.sleep(BACKLOGS_S)

    async def _check_topology(self) -> None:
        # A queue that is missing later is waited for; here nobody has made any.
        with suppress(BrokerUnavailable):
            await self._broker.check()

    async def _report(self) -> None:
        while True:
            self._observer.running(turns=self._mailboxes.running, waiting=self._mailboxes.waiting)
            await asyncio.sleep(1)


async def _close_all(readers: Iterable[QueueReader]) -> None:
    await asyncio.gather(*(reader.close() for reader in readers))
