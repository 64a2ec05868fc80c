"""Platform: calls of a channel that end in time and fail in one of three ways."""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from sdqueue_producers.channel import Bucket, Caps, Channel
from sdqueue_producers.egress.options import EgressOptions
from sdqueue_producers.egress.patience import Patience
from sdqueue_producers.egress.patient import PatientState
from sdqueue_producers.errors import Ambiguous, DeliveryError, RetryAfter
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.outgoing import Address, Outgoing, Ref, Sent, Stream

Made = TypeVar("Made")

LEFT_FOR_FINALS: Final = 0.3
"""The part of a rate limit that deltas do not use."""

BEHIND_FINALS_S: Final = 0.5
"""How long a delta waits whose rate limit a reply is waiting for: of a limit of one call nothing can be left."""


class Platform:
    """A channel's methods, paced, bounded in number and time.

    All of them raise RetryAfter, Permanent or Ambiguous, and nothing else: a defect of the channel is told to the
    observer. Where a repeat is recognised or a message can be looked for, the outcome of a defect is as unknown as that
    of a broken connection; elsewhere it counts as a failure, or every defect would be visible twice.

    Parameters:
        channel: whose.
        state: has the rate limits.
        options: bounds.
        observer: told of defects.
    """

    def __init__(
        self, channel: Channel, state: PatientState, options: EgressOptions, observer: ProducerObserver
    ) -> None:
        self.caps: Caps = channel.caps
        self.name = channel.name
        self._channel = channel
        self._state = state
        self._options = options
        self._observer = observer
        self._wanted: Counter[str] = Counter()
        """Rate limits by how many replies want a call out of them now."""
        self._places = asyncio.Semaphore(options.parallel)

    async def pace(self, address: Address, patience: Patience, *, edit: bool = False) -> None:
        """Take one call out of the rate limits of new messages, else of edits, and wait for it.

        Raises:
            Released, OutOfPatience: see :class:`Patience`.
        """
        buckets = await self._buckets(address, edit=edit)
        wanted = Counter(bucket.key for bucket in buckets)
        self._wanted += wanted
        try:
            while (seconds := await self._state.take(buckets)) > 0:
                await patience.sleep(seconds)
        finally:
            self._wanted -= wanted
        patience.check()

    async def spare(self, address: Address, *, edit: bool) -> float:
        """Take one call for something that may wait; else the seconds after which there may be one."""
        buckets = await self._buckets(address, edit=edit)
        if any(bucket.key in self._wanted for bucket in buckets):
            return BEHIND_FINALS_S
        return await self._state.take(buckets, reserve=LEFT_FOR_FINALS)

    async def block(self, error: RetryAfter) -> None:
        """Let nobody send under a rate limit that was hit."""
        if error.bucket is not None and error.seconds:
            await self._state.block(error.bucket, error.seconds)

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        """See :class:`Channel`."""
        return await self.call(lambda: self._channel.deliver(address, outgoing))

    async def edit(self, address: Address, ref: Ref, outgoing: Outgoing) -> Sent:
        """See :class:`Channel`."""
        return await self.call(lambda: self._channel.edit(address, ref, outgoing))

    async def find(self, address: Address, outgoing: Outgoing) -> Sent | None:
        """See :class:`Channel`; an answer that did not come is asked for again."""
        try:
            return await self.call(lambda: self._channel.find(address, outgoing))
        except Ambiguous as error:
            raise RetryAfter(None, f"could not be looked for: {error}") from error

    async def stream(self, address: Address, outgoing: Outgoing) -> Stream | None:
        """See :class:`Channel`."""
        return await self.call(lambda: self._channel.stream(address, outgoing))

    async def call(self, method: Callable[[], Awaitable[Made]]) -> Made:
        """Call a method of the channel, or of a stream of it."""
        async with self._places:
            try:
                async with asyncio.timeout(self._options.call_timeout_s):
                    return await method()
            except DeliveryError:
                raise
            except TimeoutError as error:
                raise Ambiguous(f"no answer within {self._options.call_timeout_s:g} s") from error
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                raise self._defect(error) from error
            except Exception as error:
                raise self._defect(error) from error

    async def _buckets(self, address: Address, *, edit: bool) -> Sequence[Bucket]:
        try:
            return [bucket for bucket in self._channel.buckets(address) if bucket.applies(edit=edit)]
        except DeliveryError:
            raise
        except Exception as error:
            self._tell(error)
            raise RetryAfter(None, f"a defect of the channel: {error!r}") from error

    def _defect(self, error: BaseException) -> DeliveryError:
        self._tell(error)
        why = f"a defect of the channel: {error!r}"
        return Ambiguous(why) if self.caps.idempotent or self.caps.can_find else RetryAfter(None, why)

    def _tell(self, error: BaseException) -> None:
        trace = "".join(traceback.format_exception(error))
        self._observer.channel_defect(channel=self.name, error=repr(error), trace=trace)
