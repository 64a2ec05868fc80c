"""Growing: the message that a streamed answer is shown in while it is being made."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from sdqueue.messages import OutboundReply
from sdqueue.streaming import NewestAttempt
from sdqueue_producers.egress.job import final_id
from sdqueue_producers.egress.patient import PatientState
from sdqueue_producers.egress.platform import Platform
from sdqueue_producers.egress.record import Grown, Page, grown_key
from sdqueue_producers.egress.splitting import pieces
from sdqueue_producers.errors import Ambiguous, DeliveryError, Permanent, RetryAfter
from sdqueue_producers.outgoing import Outgoing, Ref, Stream

STREAM_LIFE: Final = 0.9
"""The part of a native stream's life after which it is ended in order, rather than found expired."""

AFTER_FAILURE_S: Final = 2.0
"""How long a message that could not grow is left alone, at least."""


class Growing:
    """Shows the deltas of one turn: by a native stream, by edits, or not at all.

    Whatever fails here is made good by the final reply, which has the whole text. So nothing is tried again, nothing is
    waited for, and each step is one call of the platform at most.

    Parameters:
        first: the first delta of the turn.
        platform: where it is shown.
        state: keeps what the message is called, for whoever delivers the final reply.
        kept_s: seconds that it is kept.
    """

    def __init__(self, first: OutboundReply, platform: Platform, state: PatientState, *, kept_s: float) -> None:
        self.turn_id = first.turn_id
        self.session = first.session_id or first.turn_id
        self.reply_id = final_id(first)
        self.stream: Stream | None = None
        """The native stream, while it lives."""
        self.appended = ""
        """What the native stream shows, or has shown when it came to its end."""
        self.next_at = 0.0
        """When the next step may be, by the event loop's clock."""
        self._template = first.model_copy(update={"id": self.reply_id})
        self._platform = platform
        self._state = state
        self._kept_s = kept_s
        self._newest = NewestAttempt()
        self._index = -1
        self._text = ""
        self._shown = ""
        self._ref: Ref = None
        self.begun = False
        """Whether there is a message."""
        self._given_up = False
        self._lost = False
        self._ends_at = 0.0

    @property
    def wanting(self) -> bool:
        """Whether there is something to be shown."""
        return not self._given_up and bool(self._text.strip()) and self._text_to_show() != self._shown

    def accept(self, delta: OutboundReply) -> None:
        """Take a delta.

        A missing one ends it until the answer starts over: what follows a gap would read as if nothing were missing.
        """
        accepted = self._newest.accept(delta)
        if accepted is None:
            return
        place = accepted.stream
        if place is not None and (place.restart or place.index == 0):
            self._text, self._index = "", place.index - 1
        if place is not None and place.index != self._index + 1:
            self._index = -2  # no index follows it
            return
        self._index += 1
        self._text += accepted.text

    async def step(self) -> None:
        """Show what is new, unless the rate limits have no room to spare."""
        caps, loop = self._platform.caps, asyncio.get_running_loop()
        try:
            wait = await self._platform.spare(self._template.address, edit=self.begun)
            if wait <= 0 and self.begun and not await self._is_ours():
                self.lose()
            elif wait <= 0:
                await self._show()
                wait = caps.edit_every_s
        except RetryAfter as error:
            await self._platform.block(error)
            wait = max(error.seconds or 0.0, AFTER_FAILURE_S)
        except DeliveryError:
            self._given_up = True
            wait = 0.0
        self.next_at = loop.time() + wait

    def lose(self) -> None:
        """Another process has the session's replies from now on, and the message."""
        self._given_up = self._lost = True

    def give_up(self) -> None:
        """Show nothing more."""
        self._given_up = True

    async def end(self) -> None:
        """Leave it as it is: nothing more will come."""
        self._given_up = True
        if self.stream is None or self._lost:
            return
        stream, self.stream = self.stream, None
        with suppress(DeliveryError):  # it expires by itself
            await self._platform.call(lambda: stream.finish(self._outgoing(self.appended), self.appended))
        await self._without_stream()

    async def _is_ours(self) -> bool:
        """Whether no other process shows the final text already; asked last, since this one may have slept."""
        page = Page(self._state, self._platform.name, self.reply_id, self._kept_s)
        return (await page.load(0)).untouched

    async def _show(self) -> None:
        text = self._text_to_show()
        if not self.begun:
            await self._begin(text)
        elif self.stream is not None:
            await self._append(self.stream, text)
        else:
            await self._edit(text)

    async def _begin(self, text: str) -> None:
        caps, address = self._platform.caps, self._template.address
        await self._write(Grown(begun=True, by=self._state.name))
        try:
            if caps.native_stream:
                self.stream = await self._platform.stream(address, self._outgoing(""))
            if self.stream is None:
                if not caps.can_edit:
                    self._given_up = True
                    await self._write(Grown())
                    return
                self._ref = (await self._platform.deliver(address, self._outgoing(text))).ref
                self._shown = text
        except (RetryAfter, Permanent):
            await self._write(Grown())
            raise
        except Ambiguous:
            await self._write(Grown(begun=True))
            raise
        self.begun = True
        if self.stream is not None:
            self._ref = self.stream.ref
            self._ends_at = asyncio.get_running_loop().time() + STREAM_LIFE * caps.stream_max_s
        await self._write(Grown(begun=True, live=True, ref=self._ref, by=self._state.name))
        if self.stream is not None and not self._lost:
            await self._append(self.stream, text)

    async def _append(self, stream: Stream, text: str) -> None:
        over = asyncio.get_running_loop().time() >= self._ends_at
        try:
            if over or not text.startswith(self.appended):
                await self._finish(stream, text, over=over)
                return
            await self._platform.call(lambda: stream.append(text[len(self.appended) :]))
            self.appended = self._shown = text
        except (Permanent, Ambiguous):
            self.stream = None
            await self._without_stream()

    async def _finish(self, stream: Stream, text: str, *, over: bool) -> None:
        """End a stream that has no life left, or has said what is not the answer any more."""
        if not over and not self._platform.caps.can_edit:
            self._given_up = True  # the final reply will end it, and say what it has to show
            return
        sent = await self._platform.call(lambda: stream.finish(self._outgoing(text), self.appended))
        self.stream = None
        self._ref = sent.ref if sent.ref is not None else self._ref
        self.appended = self._shown = text
        await self._without_stream()

    async def _without_stream(self) -> None:
        """Go on with edits, or leave the rest to the final reply."""
        if not self._platform.caps.can_edit:
            self._given_up = True
        by = "" if self._given_up else self._state.name
        await self._write(Grown(begun=True, live=True, ref=self._ref, appended=self.appended, by=by))

    async def _edit(self, text: str) -> None:
        sent = await self._platform.edit(self._template.address, self._ref, self._outgoing(text))
        self._ref = sent.ref if sent.ref is not None else self._ref
        self._shown = text

    def _text_to_show(self) -> str:
        """What fits into one message; the final reply has the rest in further ones."""
        caps = self._platform.caps
        edited = self.stream is None and not (caps.native_stream and not self.begun)
        limit = caps.max_edit_chars if edited and caps.max_edit_chars else caps.max_chars
        return self._text if len(self._text) <= limit else "".join(next(pieces(self._text, limit)))

    def _outgoing(self, text: str) -> Outgoing:
        # With the id of the final reply: whoever looks for that finds this message, and edits it.
        return Outgoing(self._template.model_copy(update={"text": text}), text)

    async def _write(self, grown: Grown) -> None:
        await self._state.set({grown_key(self._platform.name, self.reply_id): grown.dump()}, ttl_s=self._kept_s)
