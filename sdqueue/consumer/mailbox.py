"""Mailboxes: one FIFO a session, served in turn under one concurrency limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from enum import Enum, auto
from typing import Protocol

from sdqueue.brokers import Subscription
from sdqueue.consumer.work import Work


class Ran(Enum):
    """What became of a piece of work that was given to the consumer."""

    ENDED = auto()
    BEHIND = auto()  # it was not its turn: others of its session wait in the backlog
    PARKED = auto()  # it was not its turn: the session waits for a dead turn to be replayed or discarded
    ADMITTED = auto()  # it was to be refused and must not be: it belongs into its session's mailbox


class Keeper(Protocol):
    """Brings the turns that a mailbox has no room for into the session's backlog, and back."""

    @property
    def waiting(self) -> Collection[Work]:
        """Turns that are not in the backlog yet."""
        ...

    def start(self, works: Iterable[Work], mark: str | None) -> None:
        """Begin, with turns that are to go into the backlog.

        Parameters:
            works: the turns, in order.
            mark: what the session is listed under, where that was read before.
        """
        ...

    def put(self, work: Work) -> None:
        """Let a turn wait behind the backlog."""
        ...

    def take_back(self, works: Iterable[Work]) -> None:
        """Let turns wait in the backlog that were not to run yet, and bring what it has back in order once more."""
        ...

    def serve(self) -> None:
        """Look whether the mailbox needs more turns, or what was said of it has changed."""
        ...

    def park(self) -> None:
        """Bring no more back: the session is parked."""
        ...

    def cancel(self) -> None:
        """End it. What is not acknowledged is delivered again, what is in the backlog stays there."""
        ...


class Mailbox:
    """The turns of one session that one generation has in memory.

    Parameters:
        subscription: the generation.
        queue: whose.
        session_id: the session.
    """

    __slots__ = ("_mailboxes", "dropped", "keeper", "queue", "running", "session_id", "subscription", "task", "waiting")

    def __init__(self, mailboxes: Mailboxes, subscription: Subscription, queue: str, session_id: str) -> None:
        self._mailboxes = mailboxes
        self.subscription = subscription
        self.queue = queue
        self.session_id = session_id
        self.waiting: deque[Work] = deque()
        self.running: Work | None = None
        self.task: asyncio.Task[None] | None = None
        self.keeper: Keeper | None = None
        self.dropped = False

    def take(self, accept: Callable[[Work], bool]) -> list[Work]:
        """See :class:`~sdqueue.consumer.work.Followers`."""
        taken = []
        while self.waiting and accept(self.waiting[0]):
            taken.append(self.waiting.popleft())
        return taken

    def give_back(self, works: Sequence[Work]) -> None:
        """See :class:`~sdqueue.consumer.work.Followers`."""
        if not self.dropped:  # what a lost generation had is delivered again
            self.waiting.extendleft(reversed(works))

    def feed(self, works: Iterable[Work]) -> None:
        """Take turns from the backlog; for the keeper."""
        for work in works:
            self._mailboxes.add(self, work)

    def close_keeper(self) -> None:
        """The keeper has nothing left to do."""
        self.keeper = None
        self._mailboxes.tidy(self)


class Mailboxes:
    """Runs the work of each session one after the other, and of all sessions side by side.

    Sessions take turns: one that has work goes to the end of the line after each piece of it, so a session with a
    thousand waiting turns delays the others no more than one with two. Mailboxes belong to a generation, the
    subscription that delivered the work: what another generation has waiting or running is never touched.

    Parameters:
        run: does a piece of work; must settle it, or say that it was not its turn, and raise nothing.
        concurrency: pieces of work running at once.
        bound: pieces of work that wait in one mailbox.
        keeper: makes what keeps the rest in the session's backlog; ``None``: there is no backlog and no bound.
        on_put: told of each piece of work that joins a mailbox, before it does.
    """

    def __init__(
        self,
        run: Callable[[Work], Awaitable[Ran]],
        concurrency: int,
        *,
        bound: int = 64,
        keeper: Callable[[Mailbox], Keeper] | None = None,
        on_put: Callable[[Mailbox, Work], None] = lambda mailbox, work: None,
    ) -> None:
        self._run = run
        self._concurrency = concurrency
        self._bound = bound
        self._keeper = keeper
        self._on_put = on_put
        self._boxes: dict[tuple[int, str], Mailbox] = {}
        self._line: deque[Mailbox] = deque()
        self._open = True
        self._idle: dict[int, asyncio.Event] = {}
        self._busy: dict[int, int] = {}
        self.running = 0

    @property
    def waiting(self) -> int:
        """Pieces of work that have not started, without those in backlogs."""
        return sum(len(box.waiting) + (len(box.keeper.waiting) if box.keeper else 0) for box in self._boxes.values())

    def works(self) -> Iterator[tuple[Work, str]]:
        """All work in memory, and what holds it, for people."""
        for box in self._boxes.values():
            running = box.running
            if running is not None:
                yield from ((work, running.stage) for work in (running, *running.taken))
                behind = f"waits behind turn {running.turn_id!r} of its session, which {running.stage}"
            else:
                behind = "waits until one of the turns that run has ended: SDQUEUE_CONCURRENCY is used up"
            yield from ((work, behind) for work in box.waiting)
            if box.keeper is not None:
                yield from ((work, "waits until the store has it in the backlog") for work in box.keeper.waiting)

    def put(self, work: Work) -> None:
        """Queue a piece of work behind the others of its session and generation."""
        box = self._box(work.delivery.subscription, work.delivery.queue, work.lane)
        if work.unsorted:
            self.add(box, work)
        elif box.keeper is not None:
            box.keeper.put(work)
        elif self._keeper is not None and self._open and len(box.waiting) >= self._bound:
            self._overflow(box, [*box.waiting, work])
        else:
            self.add(box, work)

    def add(self, box: Mailbox, work: Work) -> None:
        """Put work into a mailbox, whatever the bound."""
        self._on_put(box, work)
        box.waiting.append(work)
        if box.running is None and len(box.waiting) == 1:
            self._line.append(box)
            self._serve()

    def find(self, work: Work) -> Mailbox | None:
        """The mailbox that this work would be put into, if there is one."""
        return self._boxes.get((id(work.delivery.subscription), work.lane))

    def take_up(self, subscription: Subscription, queue: str, session_id: str, mark: str) -> None:
        """Work on the backlog of a session that has nothing in memory.

        Parameters:
            subscription, queue, session_id: the mailbox.
            mark: what the session is listed under; see :meth:`~sdqueue.sessions.TurnBacklog.unlist`.
        """
        if self._keeper is not None and self._open and (id(subscription), session_id) not in self._boxes:
            self._overflow(self._box(subscription, queue, session_id), [], mark)

    def close(self) -> None:
        """Start nothing from now on; what runs goes on.

        What still comes waits to be delivered again. In the backlog it would stand before what was dropped already.
        """
        self._open = False
        for box in list(self._boxes.values()):
            self._end_keeper(box)

    def drop(self, subscription: Subscription) -> None:
        """Forget what has not started of a generation that has ended: the broker delivers it again."""
        generation = id(subscription)
        for key in [key for key in self._boxes if key[0] == generation]:
            box = self._boxes[key]
            box.dropped = True
            box.waiting.clear()
            self._end_keeper(box)
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

    def tidy(self, box: Mailbox) -> None:
        """Forget a mailbox that has nothing left."""
        if box.running is None and not box.waiting and box.keeper is None:
            self._boxes.pop((id(box.subscription), box.session_id), None)

    def _box(self, subscription: Subscription, queue: str, session_id: str) -> Mailbox:
        key = (id(subscription), session_id)
        box = self._boxes.get(key)
        if box is None:
            box = self._boxes[key] = Mailbox(self, subscription, queue, session_id)
        return box

    def _overflow(self, box: Mailbox, works: Sequence[Work], mark: str | None = None) -> None:
        """Let all that waits in a mailbox, or is about to, wait in the backlog."""
        assert self._keeper is not None
        keeper = box.keeper = self._keeper(box)
        box.waiting = deque(work for work in works if work.unsorted)
        keeper.start([work for work in works if not work.unsorted], mark)
        if box in self._line and not box.waiting:
            self._line.remove(box)

    def _end_keeper(self, box: Mailbox) -> None:
        if box.keeper is not None:
            box.keeper.cancel()
            box.keeper = None

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [box.task for box in self._boxes.values() if box.task is not None]

    def _serve(self) -> None:
        while self._open and self._line and self.running < self._concurrency:
            box = self._line.popleft()
            work = box.running = box.waiting.popleft()
            work.followers = box
            self.running += 1
            generation = id(box.subscription)
            self._busy[generation] = self._busy.get(generation, 0) + 1
            name = f"turn {work.turn_id} of session {work.session_id}" if work.turn else "invalid message"
            box.task = asyncio.create_task(self._one(box, work), name=name)

    async def _one(self, box: Mailbox, work: Work) -> None:
        ran = Ran.ENDED
        try:
            ran = await self._run(work)
        finally:
            self._finished(box, work, ran)

    def _finished(self, box: Mailbox, work: Work, ran: Ran) -> None:
        self.running -= 1
        box.running = box.task = None
        if ran is not Ran.ENDED and self._open and not box.dropped:
            if ran is Ran.ADMITTED:
                self.put(work)
            else:
                self._not_yet(box, work, ran)
        if box.keeper is not None:
            box.keeper.serve()
        if box.waiting:
            self._line.append(box)
        else:
            self.tidy(box)
        generation = id(box.subscription)
        self._busy[generation] -= 1
        if not self._busy[generation]:
            del self._busy[generation]
            if idle := self._idle.pop(generation, None):
                idle.set()
        self._serve()

    def _not_yet(self, box: Mailbox, work: Work, ran: Ran) -> None:
        """Let work wait in the backlog that is not to run now, and all that waits behind it."""
        work.unsorted = False
        if box.keeper is None:
            self._overflow(box, [work, *box.waiting])
        else:
            later, box.waiting = box.waiting, deque()
            box.waiting.extend(other for other in later if other.on_backlog is None)
            box.keeper.take_back([work, *(other for other in later if other.on_backlog is not None)])
        assert box.keeper is not None
        if ran is Ran.PARKED:
            box.keeper.park()
