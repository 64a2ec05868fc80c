"""Mailboxes: one FIFO a session, served in turn under one concurrency limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from sdqueue.brokers import Subscription
from sdqueue.consumer.work import Work

_Key = tuple[int, str]


class _Mailbox:
    __slots__ = ("key", "running", "task", "waiting")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.waiting: deque[Work] = deque()
        self.running: Work | None = None
        self.task: asyncio.Task[None] | None = None


class Mailboxes:
    """Runs the work of each session one after the other, and of all sessions side by side.

    Sessions take turns: one that has work goes to the end of the line after each piece of it, so a session with a
    thousand waiting turns delays the others no more than one with two. Mailboxes belong to a generation, the
    subscription that delivered the work: what another generation has waiting or running is never touched.

    Parameters:
        run: does a piece of work; must settle it and raise nothing.
        concurrency: pieces of work running at once.
    """

    def __init__(self, run: Callable[[Work], Awaitable[None]], concurrency: int) -> None:
        self._run = run
        self._concurrency = concurrency
        self._boxes: dict[_Key, _Mailbox] = {}
        self._line: deque[_Mailbox] = deque()
        self._open = True
        self._idle: dict[int, asyncio.Event] = {}
        self._busy: dict[int, int] = {}
        self.running = 0

    @property
    def waiting(self) -> int:
        """Pieces of work that have not started."""
        return sum(len(box.waiting) for box in self._boxes.values())

    def put(self, work: Work) -> None:
        """Queue a piece of work behind the others of its session and generation."""
        key = (id(work.delivery.subscription), work.session_id)
        box = self._boxes.get(key)
        if box is None:
            box = self._boxes[key] = _Mailbox(key)
        box.waiting.append(work)
        if box.running is None and len(box.waiting) == 1:
            self._line.append(box)
            self._serve()

    def running_before(self, work: Work) -> Work | None:
        """What runs now in the mailbox of this work."""
        box = self._boxes.get((id(work.delivery.subscription), work.session_id))
        return box.running if box else None

    def close(self) -> None:
        """Start nothing from now on; what runs goes on."""
        self._open = False

    def drop(self, subscription: Subscription) -> None:
        """Forget what has not started of a generation that has ended: the broker delivers it again."""
        generation = id(subscription)
        for key in [key for key in self._boxes if key[0] == generation]:
            box = self._boxes[key]
            box.waiting.clear()
            if box.running is None:
                del self._boxes[key]
        self._line = deque(box for box in self._line if box.waiting)

    async def wait_idle(self, subscription: Subscription) -> None:
        """Wait until nothing of a generation runs."""
        generation = id(subscription)
        if self._busy.get(generation):
            await self._idle.setdefault(generation, asyncio.Event()).wait()

    async def wait_all_idle(self) -> None:
        """Wait until nothing runs, of whatever generation. To be called after :meth:`close`."""
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks)

    async def cancel(self, *, within_s: float) -> None:
        """Cancel everything that runs and wait for it to end; nothing starts from now on.

        Parameters:
            within_s: seconds after which this returns all the same. What still runs then waits for a backend that
                does not answer, and can neither save nor acknowledge.
        """
        self.close()
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [box.task for box in self._boxes.values() if box.task is not None]

    def _serve(self) -> None:
        while self._open and self._line and self.running < self._concurrency:
            box = self._line.popleft()
            work = box.running = box.waiting.popleft()
            self.running += 1
            self._busy[box.key[0]] = self._busy.get(box.key[0], 0) + 1
            name = f"turn {work.turn_id} of session {work.session_id}" if work.turn else "invalid message"
            box.task = asyncio.create_task(self._one(box, work), name=name)

    async def _one(self, box: _Mailbox, work: Work) -> None:
        try:
            await self._run(work)
        finally:
            self._finished(box)

    def _finished(self, box: _Mailbox) -> None:
        self.running -= 1
        generation = box.key[0]
        box.running = box.task = None
        if box.waiting:
            self._line.append(box)
        else:
            del self._boxes[box.key]
        self._busy[generation] -= 1
        if not self._busy[generation]:
            del self._busy[generation]
            if idle := self._idle.pop(generation, None):
                idle.set()
        self._serve()
