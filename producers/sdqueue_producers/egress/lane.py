"""Lane: the replies of one session, one after the other; Lanes: all of a channel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sdqueue.brokers import Delivery, Subscription
from sdqueue.messages import OutboundReply
from sdqueue_producers.egress.desk import Desk
from sdqueue_producers.egress.growing import Growing
from sdqueue_producers.egress.job import Job
from sdqueue_producers.egress.options import EgressOptions
from sdqueue_producers.egress.patience import Patience, Released

FORSAKEN_S: Final = 900.0
"""After so long without another delta or its final reply, a message that grows is left as it is."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A delivery of the broker that waits in a lane; ``error``: why it is no reply."""

    delivery: Delivery
    job: Job | None
    error: str = ""


class Lane:
    """Delivers what one session has, in order, one call of the platform at a time.

    Replies that end turns come first. Only when none waits, the message grows in which the deltas of a turn are shown.

    Parameters:
        desk: delivers.
        size: replies that may wait.
    """

    def __init__(self, desk: Desk, size: int) -> None:
        self._desk = desk
        self._size = size
        self._waiting: deque[Entry] = deque()
        self._growing: Growing | None = None
        self._left: list[Growing] = []
        self._stirred = asyncio.Event()
        self._patience: Patience | None = None
        self._current: Entry | None = None

    def put(self, entry: Entry) -> None:
        """A reply that ends a turn."""
        self._waiting.append(entry)
        self._stirred.set()
        if len(self._waiting) > self._size and self._patience is not None:
            self._patience.hurry()

    def grow(self, delta: OutboundReply) -> None:
        """A piece of an answer that is being made."""
        growing = self._growing
        if growing is None or growing.turn_id != delta.turn_id:
            if growing is not None:
                self._left.append(growing)
            growing = self._growing = self._desk.growing(delta)
        growing.accept(delta)
        self._stirred.set()

    def drop(self, subscription: Subscription) -> None:
        """Forget what is not begun of a subscription that has ended, since it comes again on another one."""
        self._waiting = deque(entry for entry in self._waiting if entry.delivery.subscription is not subscription)
        if self._patience is not None and self._current and self._current.delivery.subscription is subscription:
            self._patience.release()

        if self._growing is not None:
            self._growing.lose()

    def end(self) -> None:
        """Begin nothing any more."""
        self._waiting.clear()
        if self._growing is not None:
            self._left.append(self._growing)
            self._growing = None
        if self._patience is not None:
            self._patience.release()
        self._stirred.set()

    async def run(self) -> None:
        """Deliver until nothing is left."""
        while True:
            self._stirred.clear()
            if self._left:
                await self._left.pop().end()
            elif self._waiting:
                await self._deliver(self._waiting.popleft())
            elif self._growing is not None:
                await self._grow(self._growing)
            else:
                return

    async def _deliver(self, entry: Entry) -> None:
        if entry.job is None:
            await self._desk.bury_unreadable(entry.delivery, entry.error)
        else:
            try:
                await self._handle(entry, entry.job)
            except Released:
                return
        entry.delivery.subscription.ack(entry.delivery)

    async def _handle(self, entry: Entry, job: Job) -> None:
        growing = self._growing
        if growing is not None and growing.reply_id != job.reply.id:
            growing = None
        patience = self._desk.patience()
        if len(self._waiting) > self._size:
            patience.hurry()
        self._patience, self._current = patience, entry
        try:
            put_off = await self._desk.handle(job, growing, patience)
        finally:
            self._patience = self._current = None
        if growing is not None and self._growing is growing:
            self._growing = None
            if put_off:
                self._left.append(growing)

    async def _grow(self, growing: Growing) -> None:
        loop = asyncio.get_running_loop()
        wait = growing.next_at - loop.time() if growing.wanting else FORSAKEN_S
        if wait <= 0:
            if await self._desk.may_grow(growing) and not self._waiting:
                await growing.step()
            return
        try:
            async with asyncio.timeout(wait):
                await self._stirred.wait()
        except TimeoutError:
            if not growing.wanting and self._growing is growing:
                self._growing = None
                self._left.append(growing)


class Lanes:
    """The lanes of all sessions that have something.

    Parameters:
        desk: delivers.
        options: bounds.
        shows_deltas: the channel can show an answer while it is being made.
        on_defect: told of an exception that nobody has foreseen.
    """

    def __init__(
        self,
        desk: Desk,
        options: EgressOptions,
        *,
        shows_deltas: bool,
        on_defect: Callable[[BaseException], None],
    ) -> None:
        self._desk = desk
        self._options = options
        self._shows_deltas = shows_deltas
        self._on_defect = on_defect
        self._lanes: dict[str, tuple[Lane, asyncio.Task[None]]] = {}
        self._ending = False

    def take(self, delivery: Delivery) -> None:
        """Take a delivery; deltas are acknowledged at once, since the final reply has the whole text."""
        if self._ending:
            return
        try:
            job = Job.read(delivery)
        except ValueError as error:
            self._lane(f"\x00{delivery.tag}").put(Entry(delivery, None, f"the body is no reply: {error}"))
            return
        if job.reply.kind != "delta":
            self._lane(job.session).put(Entry(delivery, job))
            return
        delivery.subscription.ack(delivery)
        if self._shows_deltas:
            self._lane(job.session).grow(job.reply)

    def drop(self, subscription: Subscription) -> None:
        """See :meth:`Lane.drop`."""
        for lane, _ in self._lanes.values():
            lane.drop(subscription)

    async def drain(self, grace_s: float) -> None:
        """Begin nothing any more, and wait so long for what is in flight."""
        self._ending = True
        for lane, _ in self._lanes.values():
            lane.end()
        tasks = [task for _, task in self._lanes.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _lane(self, session: str) -> Lane:
        if session in self._lanes:
            return self._lanes[session][0]
        lane = Lane(self._desk, self._options.lane_size)
        task = asyncio.create_task(self._run(session, lane), name=f"replies of session {session}")
        self._lanes[session] = lane, task
        return lane

    async def _run(self, session: str, lane: Lane) -> None:
        try:
            await lane.run()
        except Exception as error:  # noqa: BLE001 -- it surfaces where the egress is waited for
            self._ending = True  # what comes behind those that it had must not overtake them
            self._on_defect(error)
        finally:
            # Nothing is awaited between its last look and this, so nothing has come that would be forgotten.
            del self._lanes[session]
