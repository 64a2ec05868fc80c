"""Desk: decides about one reply, and settles it: shown, dropped, put off, or dead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sdqueue.brokers import Delivery, Message
from sdqueue.messages import OutboundReply
from sdqueue_producers.egress.burial import Burial
from sdqueue_producers.egress.courier import Courier
from sdqueue_producers.egress.growing import Growing
from sdqueue_producers.egress.job import Job
from sdqueue_producers.egress.options import EgressOptions
from sdqueue_producers.egress.patience import OutOfPatience, Patience
from sdqueue_producers.egress.patient import PatientState
from sdqueue_producers.egress.platform import Platform
from sdqueue_producers.egress.record import ENDED_S, Overtaken, Page, ended_key
from sdqueue_producers.egress.retry import next_wait
from sdqueue_producers.errors import Permanent, RetryAfter
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.state import Parked


@dataclass(frozen=True)
class Later:
    """A reply was not shown, and is to be tried again.

    Parameters:
        seconds: after so long.
        attempts: how often it has failed.
        first_at: when it was tried first, in seconds since 1970.
    """

    seconds: float
    attempts: int
    first_at: float


class Desk:
    """Delivers replies one at a time, as lanes and outboxes bring them.

    Parameters:
        platform: where they are shown.
        state: what is known of them.
        burial: for the dead.
        options: limits.
        observer: told what became of them.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        platform: Platform,
        state: PatientState,
        burial: Burial,
        options: EgressOptions,
        observer: ProducerObserver,
        clock: Callable[[], float],
    ) -> None:
        self._platform = platform
        self._state = state
        self._burial = burial
        self._options = options
        self._observer = observer
        self._clock = clock
        self.on_parked: Callable[[], None] = lambda: None
        """Called when something was put into the outbox."""
        self._courier = Courier(platform, options, observer)

    async def handle(self, job: Job, growing: Growing | None, patience: Patience) -> bool:
        """Deliver a reply that came from the broker; when this returns it may be acknowledged.

        It is tried in place as long as there is patience. Then it waits in the outbox, and so does a reply whose
        session has something there, since that comes first.

        Returns:
            Whether it was put into the outbox.

        Raises:
            Released: it is not settled, and comes again.
        """
        arrived = asyncio.get_running_loop().time()
        while True:
            try:
                return await self._handle(job, growing, patience, arrived)
            except Overtaken:
                patience.check()  # else it is looked again what there is left to do

    async def _handle(self, job: Job, growing: Growing | None, patience: Patience, arrived: float) -> bool:
        page = self._page(job)
        _, first = await asyncio.gather(page.load(job.replay), self._state.parked(job.session))
        patience.check()
        if await self._is_settled(job, page, growing):
            return False
        if first is not None or patience.hurried:
            now = self._clock()
            await self._park(job, Later(0.0, page.record.attempts, page.record.first_at or now))
            return True
        while (later := await self._attempt(job, page, growing, patience)) is not None:
            try:
                await patience.sleep(later.seconds)
            except OutOfPatience as out:
                await self._park(job, Later(out.seconds, later.attempts, later.first_at))
                return True
        if page.record.done and not page.record.dead:
            seconds = asyncio.get_running_loop().time() - arrived
            self._delivered(job, seconds)
        return False

    async def work_off(self, job: Job, patience: Patience) -> Later | None:
        """Deliver a reply that was in the outbox.

        Returns:
            When it is to be tried again; ``None``: it is settled, and may be taken out.

        Raises:
            Released: it is not settled.
        """
        while True:
            page = await self._page(job).load(job.replay)
            if await self._is_settled(job, page, None):
                return None
            try:
                later = await self._attempt(job, page, None, patience)
                break
            except Overtaken:
                patience.check()
        if later is None and not page.record.dead:
            self._delivered(job, self._clock() - page.record.first_at)
        return later

    async def _attempt(self, job: Job, page: Page, growing: Growing | None, patience: Patience) -> Later | None:
        """Try once; a reply that there is no hope for is put away.

        Returns:
            When it is to be tried again; ``None``: it is settled.

        Raises:
            Released: it is not settled.
        """
        if not page.record.first_at:
            await page.save(first_at=self._clock())
        first_at = page.record.first_at
        try:
            await self._courier.bring(job, page, growing, patience)
        except OutOfPatience as out:
            return Later(out.seconds, page.record.attempts, first_at)
        except Permanent as error:
            await page.save(attempts=page.record.attempts + 1)
            await self._bury(job, page, error.reason, error.detail)
            return None
        except RetryAfter as error:
            await self._platform.block(error)
            attempts = page.record.attempts + 1
            await page.save(attempts=attempts)
            wait = next_wait(
                error.seconds,
                attempts=attempts,
                schedule=self._platform.caps.retry_s,
                trying_s=self._clock() - first_at,
                at_most_s=self._options.outbox_s,
            )
            if wait is None:
                tried = f"tried {attempts} times in {self._clock() - first_at:.0f} s"
                await self._bury(job, page, "retries-used-up", f"{tried}; the last time: {error.why}")
                return None
            self._observer.reply_retried(
                channel=self._platform.name, reply_id=job.reply.id, attempts=attempts, wait_s=wait, error=error.why
            )
            return Later(wait, attempts, first_at)
        await self._end(job)
        return None

    async def bury_unreadable(self, delivery: Delivery, error: str) -> None:
        """Put away what is no reply."""
        await self._burial.bury_unreadable(delivery.message, delivery.routing_key, error)

    async def bury_parked(self, session: str, parked: Parked, error: str) -> None:
        """Put away what is in the outbox and no reply, as it is there."""
        message = Message(parked.body.encode(), message_id=parked.key)
        key = self._burial.routing_key(session)
        await self._burial.bury_unreadable(message, key, f"what waited in the outbox is no reply: {error}")

    def patience(self) -> Patience:
        """For a reply that is tried in place."""
        return Patience(self._options.in_place_s)

    def growing(self, delta: OutboundReply) -> Growing:
        """A message that begins with this delta."""
        return Growing(delta, self._platform, self._state, kept_s=self._options.kept_ids_s)

    async def may_grow(self, growing: Growing) -> bool:
        """Whether the deltas of a turn may be shown now: nothing of its session comes before them.

        Those of a turn that has its final reply are not shown any more, nor those whose message another process has
        begun: it had the deltas before these.
        """
        if growing.begun:
            return True
        page = Page(self._state, self._platform.name, growing.reply_id, self._options.kept_ids_s)
        _, waiting = await asyncio.gather(page.load(0), self._state.parked(growing.session))
        if not page.untouched or page.grown.begun:
            growing.give_up()
        elif waiting is not None:
            growing.next_at = asyncio.get_running_loop().time() + self._options.poll_s
        else:
            return True
        return False

    async def _is_settled(self, job: Job, page: Page, growing: Growing | None) -> bool:
        caps = self._platform.caps
        if page.behind(job.replay):
            await self._end(job)
            self._observer.reply_repeated(channel=self._platform.name, reply_id=job.reply.id)
            return True
        if not job.visible(errors=caps.errors_visible, everything=caps.every_reply):
            if growing is not None:
                await growing.end()
            await self._end(job)
            return True
        return False

    async def _bury(self, job: Job, page: Page, reason: str, error: str) -> None:
        await self._burial.bury(job, reason, error, attempts=page.record.attempts)
        await page.save(done=True, dead=True)
        await self._end(job)

    async def _park(self, job: Job, later: Later) -> None:
        due_at = self._clock() + later.seconds
        parked = job.parked(attempts=later.attempts, due_at=due_at, first_at=later.first_at)
        await self._state.park(job.session, parked)
        self.on_parked()

    async def _end(self, job: Job) -> None:
        await self._state.set({ended_key(self._platform.name, job.reply.turn_id): "1"}, ttl_s=ENDED_S)

    def _delivered(self, job: Job, seconds: float) -> None:
        self._observer.reply_delivered(
            channel=self._platform.name,
            session_id=job.reply.session_id,
            reply_id=job.reply.id,
            seconds=max(seconds, 0.0),
        )

    def _page(self, job: Job) -> Page:
        return Page(self._state, self._platform.name, job.reply.id, self._options.kept_ids_s)
