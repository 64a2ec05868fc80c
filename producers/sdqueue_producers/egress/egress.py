"""Egress: delivers the replies of one channel to its platform."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from sdqueue.brokers import Broker
from sdqueue_producers.channel import Channel
from sdqueue_producers.egress.burial import Burial
from sdqueue_producers.egress.desk import Desk
from sdqueue_producers.egress.lane import Lanes
from sdqueue_producers.egress.options import EgressOptions
from sdqueue_producers.egress.outbox import Outbox
from sdqueue_producers.egress.patient import PatientState
from sdqueue_producers.egress.platform import Platform
from sdqueue_producers.egress.presence import Presence
from sdqueue_producers.egress.queue import RepliesQueue
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.state import ProducerState


class Egress:
    """Delivers replies: in order within a session, one at a time; sessions in parallel.

    ::

        async with channel, Egress(channel, broker, state, EgressOptions(), ProducerObserver()) as egress:
            await egress.wait_failed()

    It waits for a broker or a state that is away, and acknowledges nothing meanwhile. At the end it takes nothing more,
    lets deliveries in flight end, and gives the queue up; what is left is delivered by whoever is next.

    Parameters:
        channel: entered by the caller.
        broker: entered by the caller.
        state: shared by all processes of the channel.
        options: how.
        observer: told what becomes of replies.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        channel: Channel,
        broker: Broker,
        state: ProducerState,
        options: EgressOptions | None = None,
        observer: ProducerObserver | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._channel = channel
        self._broker = broker
        self._state = state
        self._options = options if options is not None else EgressOptions()
        self._observer = observer if observer is not None else ProducerObserver()
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        name, options, observer = self._channel.name, self._options, self._observer
        self._failed = asyncio.get_running_loop().create_future()
        state = PatientState(self._state, name, observer)
        platform = Platform(self._channel, state, options, observer)
        desk = Desk(platform, state, Burial(self._broker, name, observer), options, observer, self._clock)
        self._outbox = Outbox(name, desk, state, options, clock=self._clock, on_defect=self._fail)
        desk.on_parked = self._outbox.wake
        caps = self._channel.caps
        self._lanes = Lanes(desk, options, shows_deltas=caps.can_edit or caps.native_stream, on_defect=self._fail)
        self._queue = RepliesQueue(
            self._broker, name, self._lanes.take, self._lanes.drop, observer,
            prefetch=options.prefetch, declare=options.declare,
        )  # fmt: skip
        self._tasks = [
            self._supervised(self._queue.run, "queue"),
            self._supervised(self._outbox.run, "outbox"),
            self._supervised(self._outbox.renew, "leases"),
            self._supervised(Presence(state, name).run, "presence"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        queue, outbox, leases, presence = self._tasks
        grace_s = 0.0 if isinstance(error, asyncio.CancelledError) else self._options.grace_s
        try:
            # Not to take, then to let end what is in flight under its leases, then to give the queue up.
            await _stop(outbox)
            await asyncio.gather(self._lanes.drain(grace_s), self._outbox.drain(grace_s))
        finally:
            await _stop(queue)
            await _stop(leases)
            await _stop(presence)
            await self._queue.close()
            assert self._failed is not None
            if not self._failed.done():
                self._failed.cancel()
            elif not self._failed.cancelled():
                self._failed.exception()  # whoever did not wait for it does not want to know

    async def wait_ready(self) -> None:
        """Wait until the queue of the channel is there and subscribed; replies sent earlier may have found none."""
        await self._queue.wait_taken()

    @property
    def obstacle(self) -> str:
        """Why no replies are taken now; empty where they are."""
        problem = self._queue.problem
        return problem and f"the replies of {self._channel.name} are not taken: {problem}"

    async def wait_failed(self) -> None:
        """Wait until something that nobody has foreseen has gone wrong, and raise it; the process had better end.

        Nothing is lost by that: what was not settled is delivered again.
        """
        assert self._failed is not None, "use it inside `async with egress:`"
        await asyncio.shield(self._failed)

    def _supervised(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
        async def run() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 -- see wait_failed
                self._fail(error)

        return asyncio.create_task(run(), name=f"egress of {self._channel.name}: {name}")

    def _fail(self, error: BaseException) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
