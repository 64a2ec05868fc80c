"""BacklogKeeper: what of a session has no room in its mailbox waits in the store, and comes back in order.

A session has a backlog or it has none. While it has one, what stands first in it is the session's next turn, and every
delivery belongs behind it. So where a mailbox overflows, all that waits in it goes into the backlog, and the turn that
runs as well: whoever takes the session over finds it there in front, and the ring tells whether it has ended.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final, Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from sdqueue.brokers import Delivery, Message
from sdqueue.consumer.mailbox import Mailbox
from sdqueue.consumer.options import ConsumerOptions
from sdqueue.consumer.work import NO_TAG, Work
from sdqueue.errors import InvalidTurn, RecordSealed, StoreUnavailable
from sdqueue.observe import Observer
from sdqueue.sessions import Deferred, Kept, TurnBacklog

NO_LIMIT: Final = sys.maxsize
"""For turns that the backlog has to take, full as it may be."""


class BacklogDesk(Protocol):
    """What all keepers of a consumer share."""

    store: TurnBacklog
    observer: Observer
    options: ConsumerOptions

    async def deferred(self, work: Work) -> None:
        """Settle the delivery of a turn that is in the backlog for good."""
        ...

    async def refused(self, work: Work) -> bool:
        """Settle a turn that the backlog had no room for; answers whether that was done.

        It is not for a turn that has begun, has ended or was put back from the dead letters: that one waits too.
        """
        ...

    def failed(self, box: Mailbox, error: Exception) -> None:
        """A defect has ended the keeper of this mailbox."""
        ...


class BacklogKeeper:
    """Keeps the backlog of one session, for as long as its mailbox has one.

    Parameters:
        box: the mailbox.
        desk: what all keepers share.
    """

    def __init__(self, box: Mailbox, desk: BacklogDesk) -> None:
        self._box = box
        self._desk = desk
        self._session_id = box.session_id
        self._arrived: deque[Work] = deque()
        self._in_hand: set[str] = set()  # run or wait in the mailbox, or are settled and not out of the backlog yet
        self._settled: list[str] = []
        self._mark: str | None = None
        self._after = 0
        self._looks = 0  # counts the beginnings; what a look finds that was overtaken by another one is worth nothing
        self._parked = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> Collection[Work]:
        """See :class:`~sdqueue.consumer.mailbox.Keeper`."""
        return self._arrived

    def start(self, works: Iterable[Work], mark: str | None) -> None:
        """See :class:`~sdqueue.consumer.mailbox.Keeper`."""
        self._mark = mark
        running = self._box.running
        if running is not None and running.turn is not None:
            ahead = [self._adopt(work, work.key) for work in (running, *running.taken)]
            works = [*ahead, *works]
        self._arrived.extend(works)
        self._task = asyncio.create_task(self._run(), name=f"backlog of session {self._session_id}")

    def put(self, work: Work) -> None:
        """See :class:`~sdqueue.consumer.mailbox.Keeper`."""
        self._arrived.append(work)
        self.serve()

    def take_back(self, works: Iterable[Work]) -> None:
        """See :class:`~sdqueue.consumer.mailbox.Keeper`."""
        self._after = 0
        self._looks += 1
        self._in_hand = set(self._settled)
        for work in works:
            # What has come from the backlog is there; a delivery is so at best, and has to be settled.
            if work.is_delivery:
                work.on_backlog = None
                if work not in self._arrived:
                    self._arrived.append(work)
        self.serve()

    def serve(self) -> None:
        """See :class:`~sdqueue.consumer.mailbox.Keeper`."""
        self._wake.set()

    def park(self) -> None:
        """See :class:`~sdqueue.consumer.mailbox.Keeper`."""
        self._parked = True

    def cancel(self) -> None:
        """See :class:`~sdqueue.consumer.mailbox.Keeper`."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while True:
                self._wake.clear()
                await self._put_away()
                await self._take_out()
                if await self._ended():
                    break
                await self._wake.wait()
        except Exception as error:  # noqa: BLE001 -- a defect of ours, or a damaged backlog: it must be told, and costs a redelivery
            self._desk.failed(self._box, error)
        else:
            self._box.close_keeper()

    async def _put_away(self) -> None:
        """Bring what has arrived into the backlog, and settle it there."""
        while self._arrived:
            works = list(self._arrived)
            kept = await self._defer(works, limit=self._desk.options.backlog_size)
            for _ in works:
                self._arrived.popleft()
            excess = await self._settle(works, kept)
            answers = await asyncio.gather(*(self._desk.refused(work) for work in excess))
            admitted = [work for work, settled in zip(excess, answers, strict=True) if not settled]
            if admitted:
                # In the mailbox they would run before what stands first, be sent here again, and so on for ever. What
                # is still left out was refused once and has ended since, by a replay: it needs no turn of its own.
                kept = await self._defer(admitted, limit=NO_LIMIT)
                self._box.feed(await self._settle(admitted, kept))

    async def _defer(self, works: Sequence[Work], *, limit: int) -> list[Kept]:
        return await put_away(partial(self._ask, self._desk.store.defer), self._session_id, works, limit=limit)

    async def _settle(self, works: Sequence[Work], kept: Sequence[Kept]) -> list[Work]:
        """Settle what is in the backlog, and return what is not. One that runs is settled when it has ended."""
        idle = [(work, is_in) for work, is_in in zip(works, kept, strict=True) if work.on_backlog is None]
        for work, is_in in idle:
            if is_in:
                await self._desk.deferred(work)
        return [work for work, is_in in idle if not is_in]

    async def _take_out(self) -> None:
        """Forget what has been settled, and bring back what is next."""
        if self._settled:
            keys, self._settled = self._settled, []
            await self._ask(self._desk.store.undefer, self._session_id, keys)
            self._in_hand.difference_update(keys)
        if self._parked or self._box.waiting:
            return
        count, look = self._desk.options.mailbox_size, self._looks
        turns = await self._ask(self._desk.store.deferred, self._session_id, after=self._after, count=count)
        if look != self._looks:
            self.serve()
            return
        if turns:
            self._after = turns[-1].position
        limit = self._desk.options.max_text_bytes
        self._box.feed(
            self._adopt(load(turn, self._box, max_text_bytes=limit), turn.turn_id)
            for turn in turns
            if turn.turn_id not in self._in_hand
        )

    async def _ended(self) -> bool:
        """Whether nothing is left to do here; if so, nothing is awaited behind the last look."""
        if self._arrived or self._settled or (not self._parked and (self._box.waiting or self._in_hand)):
            return False
        if not self._parked:
            left = await self._ask(self._desk.store.deferred, self._session_id, after=0, count=1)
            if left:
                self._after = 0  # somebody else has put it there, or it was passed over while it ran elsewhere
                self._wake.set()
                return False
        if self._mark is not None:
            # Read before the look: whoever has put something there since has listed the session under another mark.
            mark, self._mark = self._mark, None
            await self._ask(self._desk.store.unlist, self._session_id, mark)
        return not self._arrived and not self._settled

    def _adopt(self, work: Work, key: str) -> Work:
        self._in_hand.add(key)
        work.on_backlog = partial(self._on_settled, key)
        return work

    def _on_settled(self, key: str) -> None:
        self._settled.append(key)
        self._wake.set()

    async def _ask(self, call: Callable[..., Awaitable[Any]], *args: Any, **named: Any) -> Any:
        """Ask the store until it answers, with the keys that it takes to open what it has."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((StoreUnavailable, RecordSealed)),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            before_sleep=self._away,
        )
        return await retrying(call, *args, **named)

    def _away(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._desk.observer.backend_away(backend="store", error=str(error))


class Defer(Protocol):
    """:meth:`TurnBacklog.defer <sdqueue.sessions.TurnBacklog.defer>`, as its caller calls it."""

    async def __call__(self, session_id: str, turns: Sequence[Deferred], *, limit: int) -> list[Kept]:
        """Append turns."""
        ...


async def put_away(defer: Defer, session_id: str, works: Sequence[Work], *, limit: int) -> list[Kept]:
    """Bring turns into the backlog of their session.

    A turn waits there once. Its repeat that came with a queue for direct replies waits a second time, behind it: it
    will be found answered, and whoever asked again, perhaps since another process had died, gets the answer too.

    Parameters:
        defer: of the store.
        session_id: their session.
        works: the turns.
        limit: so many may wait. As many repeats may wait besides; those in excess get no direct reply.
    """
    kept = await defer(session_id, [Deferred(work.key, dump(work)) for work in works], limit=limit)
    asked_again = [
        work
        for work, fate in zip(works, kept, strict=True)
        if fate is Kept.THERE and work.on_backlog is None and work.delivery.message.reply_to
    ]
    if asked_again:
        copies = [Deferred(work.copy_key, dump(work)) for work in asked_again]
        await defer(session_id, copies, limit=min(2 * limit, NO_LIMIT))
    return kept


def dump(work: Work) -> bytes:
    """A turn as the store keeps it: the whole message, byte for byte, under the id that it has here."""
    message = asdict(work.delivery.message) | {"body": base64.b64encode(work.delivery.message.body).decode()}
    return json.dumps({"turn_id": work.turn_id, "routing_key": work.delivery.routing_key, **message}).encode()


def load(turn: Deferred, box: Mailbox, *, max_text_bytes: int) -> Work:
    """The turn that was kept, as if it had just been delivered. What is none becomes work too, for the dead letters."""
    routing_key = turn_id = ""
    damage: InvalidTurn | None = None
    try:
        fields = json.loads(turn.body)
        routing_key, turn_id = fields.pop("routing_key"), fields.pop("turn_id")
        message = Message(**fields | {"body": base64.b64decode(fields["body"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = Message(turn.body, message_id=turn.turn_id)
        damage = InvalidTurn("damaged-backlog", f"the store has something at {turn.turn_id!r} that is no turn: {error}")
    delivery = Delivery(message, box.queue, NO_TAG, False, routing_key, box.subscription)
    if damage is not None:
        return Work(delivery, None, damage, anonymous=False, session_id=box.session_id)
    work = Work.read(delivery, max_text_bytes=max_text_bytes)
    work.session_id = work.lane = box.session_id
    if work.turn is not None and work.anonymous:
        work.turn = work.turn.model_copy(update={"id": turn_id})
    if work.key != turn.turn_id:
        work.backlog_key = turn.turn_id
    return work
