"""Courier: brings one reply to the platform, part by part, so that each is visible once as far as anybody can tell.

What is known at each place where the process may die, and what the next one does:

=============================================  ===============================================================
died                                           then
=============================================  ===============================================================
before ``begun`` is written                    nothing is visible; it is sent
between ``begun`` and the answer               unknown: recognised, found, or decided by ``on_ambiguous``; a process
                                               that is alive is waited for
between the answer and its being written       likewise
between two parts                              the next part is sent
while an edit was under way                    the edit is done again: it shows the same
between ``done`` and the acknowledgement       the reply is dropped
=============================================  ===============================================================
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from sdqueue.channels import OnAmbiguous
from sdqueue_producers.egress.growing import Growing
from sdqueue_producers.egress.job import Job
from sdqueue_producers.egress.options import EgressOptions
from sdqueue_producers.egress.patience import Patience
from sdqueue_producers.egress.platform import Platform
from sdqueue_producers.egress.record import Page
from sdqueue_producers.egress.splitting import split
from sdqueue_producers.errors import Ambiguous, Permanent, RetryAfter
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.outgoing import Outgoing, Ref, Sent

FRESH_S: Final = 2.0
"""What was written longer ago says nothing about who has the reply now: this process may have slept meanwhile."""

MOST_BEGINNINGS: Final = 3
"""A state that always takes longer than that must not keep replies from being shown."""


class Courier:
    """Brings replies to one platform. Who uses it sees to the order, to retries and to dead letters.

    Parameters:
        platform: where to.
        options: the policy for unknown outcomes.
        observer: told of these.
    """

    def __init__(self, platform: Platform, options: EgressOptions, observer: ProducerObserver) -> None:
        self._platform = platform
        self._options = options
        self._observer = observer

    async def bring(self, job: Job, page: Page, growing: Growing | None, patience: Patience) -> None:
        """Make a reply visible, or what is missing of it, and write down that it is.

        Parameters:
            job: the reply.
            page: what was done about it before, and is now.
            growing: what has grown with its deltas in this process.
            patience: for the rate limits.

        Raises:
            Overtaken: another process has gone on with it.
            RetryAfter, Permanent: see :class:`Channel`; what was made visible before stays written down.
            Released, OutOfPatience: see :class:`Patience`.
        """
        if not page.record.refs and not page.record.fresh:
            await self._grow_up(job, page, growing, patience)
        parts = self._parts(job, page)
        for number in range(len(page.record.refs), len(parts)):
            outgoing = Outgoing(job.reply, parts[number], number, len(parts))
            sent = await self._send(job, outgoing, page, patience)
            await self._keep(page, sent.ref, len(parts))
        if not page.record.done:
            await page.save(done=True)

    # The message that has grown

    async def _grow_up(self, job: Job, page: Page, growing: Growing | None, patience: Patience) -> None:
        """Let the message that has grown show the reply; where there is none, or that fails, a new one is needed."""
        if growing is not None and await self._finish(job, page, growing, patience):
            return
        ref = await self._ref_of(job, page, patience)
        if ref is not None and self._platform.caps.can_edit and await self._edit(job, page, ref, patience):
            return
        shown = growing.appended if growing is not None else page.grown.appended
        text = job.reply.text
        skip = len(shown) if shown and text.startswith(shown) and not self._platform.caps.can_edit else 0
        await page.save(fresh=True, skip=skip)

    async def _finish(self, job: Job, page: Page, growing: Growing, patience: Patience) -> bool:
        stream, reply = growing.stream, job.reply
        if stream is None:
            return False
        parts = self._parts(job, page)
        outgoing = Outgoing(reply, parts[0], 0, len(parts))
        await self._platform.pace(reply.address, patience, edit=True)
        try:
            sent = await self._platform.call(lambda: stream.finish(outgoing, growing.appended))
        except (Permanent, Ambiguous):
            growing.stream = None
            return False
        growing.stream = None
        await self._keep(page, sent.ref, len(parts))
        return True

    async def _edit(self, job: Job, page: Page, ref: Ref, patience: Patience) -> bool:
        caps = self._platform.caps
        await page.save(limits=(caps.max_edit_chars or caps.max_chars, caps.max_chars))
        parts = self._parts(job, page)
        await self._platform.pace(job.reply.address, patience, edit=True)
        try:
            sent = await self._platform.edit(job.reply.address, ref, Outgoing(job.reply, parts[0], 0, len(parts)))
        except Permanent:
            await page.save(limits=None)  # it is gone
            return False
        except Ambiguous as error:
            raise RetryAfter(None, f"whether an edit arrived is not known, so it is done again: {error}") from error
        await self._keep(page, ref if sent.ref is None else sent.ref, len(parts))
        return True

    async def _ref_of(self, job: Job, page: Page, patience: Patience) -> Ref:
        """What the platform calls the message that has grown; ``None`` where there is none that is known of."""
        await page.wait_for_grown(patience)
        grown, caps, address = page.grown, self._platform.caps, job.reply.address
        if grown.live or not grown.begun:
            return grown.ref if grown.live else None
        outgoing = Outgoing(job.reply, job.reply.text[: caps.max_chars])
        if caps.idempotent and caps.can_edit:
            await self._platform.pace(address, patience)
            try:
                sent: Sent | None = await self._platform.deliver(address, replace(outgoing, again=True))
            except Ambiguous as error:
                raise RetryAfter(None, f"whether it arrived is not known: {error}") from error
            self._tell(job, "repeated")
        elif caps.can_find:
            try:
                sent = await self._look_for(job, outgoing, patience)
            except Permanent:
                sent = None
                self._tell(job, "resent")
        else:
            sent = None
            self._tell(job, "resent")  # the final reply has to be seen, whatever is there already
        return sent.ref if sent is not None else None

    # A new message

    async def _send(self, job: Job, outgoing: Outgoing, page: Page, patience: Patience) -> Sent:
        if page.record.begun:
            await page.wait_for_call(patience)
            sent = await self._resolve(job, outgoing, page, patience)
            if sent is not None:
                return sent
        outgoing = replace(outgoing, again=page.record.again)
        await self._platform.pace(job.reply.address, patience)
        await self._begin(page)
        try:
            return await self._platform.deliver(job.reply.address, outgoing)
        except RetryAfter:
            await page.save(begun=False, calling=False)
            raise
        except Permanent:
            await page.save(begun=False, calling=False)
            raise
        except Ambiguous as error:
            await page.save(calling=False)
            sent = await self._resolve(job, outgoing, page, patience)
            if sent is not None:
                return sent
            raise RetryAfter(None, f"whether it arrived is not known: {error}") from error

    async def _begin(self, page: Page) -> None:
        """Write down that the call is made now; said again where that took so long that this may be asleep."""
        clock = asyncio.get_running_loop().time
        for _ in range(MOST_BEGINNINGS):
            asked_at = clock()
            await page.save(begun=True, calling=True)
            if clock() - asked_at < FRESH_S:
                return

    async def _resolve(self, job: Job, outgoing: Outgoing, page: Page, patience: Patience) -> Sent | None:
        """What an unknown outcome was; ``None``: send again."""
        caps = self._platform.caps
        sent: Sent | None = None
        if caps.idempotent:
            self._tell(job, "repeated")
        elif caps.can_find:
            try:
                sent = await self._look_for(job, outgoing, patience)
            except Permanent:
                sent = self._decide(job)
        else:
            sent = self._decide(job)
        if sent is None:
            await page.save(begun=False, calling=False, again=True)
        return sent

    async def _look_for(self, job: Job, outgoing: Outgoing, patience: Patience) -> Sent | None:
        """Look for a message twice.

        Raises:
            Permanent: the platform does not tell.
        """
        sent = await self._platform.find(job.reply.address, outgoing)
        if sent is None:
            await patience.sleep(self._options.ask_again_s)
            sent = await self._platform.find(job.reply.address, outgoing)
        self._tell(job, "absent" if sent is None else "found")
        return sent

    def _decide(self, job: Job) -> Sent | None:
        if self._options.on_ambiguous is OnAmbiguous.DROP:
            self._tell(job, "dropped")
            return Sent()
        self._tell(job, "resent")
        return None

    def _tell(self, job: Job, outcome: str) -> None:
        self._observer.reply_ambiguous(channel=self._platform.name, reply_id=job.reply.id, outcome=outcome)

    def _parts(self, job: Job, page: Page) -> list[str]:
        """The messages of a reply, cut as they were when the first of them was sent."""
        most = self._platform.caps.max_chars
        first, limit = page.record.limits or (most, most)
        text = job.reply.text[page.record.skip :]
        return split(text, limit, first=first) if text or not page.record.skip else []

    async def _keep(self, page: Page, ref: Ref, parts: int) -> None:
        most = self._platform.caps.max_chars
        refs = (*page.record.refs, ref)
        limits = page.record.limits or (most, most)
        await page.save(refs=refs, limits=limits, begun=False, calling=False, again=False, done=len(refs) == parts)
