"""PatientState: a state that is asked until it answers."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from sdqueue.errors import StoreUnavailable
from sdqueue_producers.channel import Bucket
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.state import Parked, ProducerState

MAX_WAIT_S: Final = 5.0

Answer = TypeVar("Answer")


class PatientState:
    """What the egress uses of a :class:`ProducerState`; each call waits until the state is there.

    Every one of them may be repeated: the state may have done what it could not confirm.

    Parameters:
        state: the state.
        channel: whose values.
        observer: told when it cannot be used.
    """

    name: str
    """Who this process is, among those of the channel."""

    def __init__(self, state: ProducerState, channel: str, observer: ProducerObserver) -> None:
        self.name = secrets.token_hex(8)
        self._state = state
        self._channel = channel
        self._observer = observer

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        """See :class:`ProducerState`, as for all of these."""
        return await self._patiently(lambda: self._state.get(keys))

    async def set(self, values: Mapping[str, str], *, ttl_s: float | None) -> None:
        """See :class:`ProducerState`."""
        await self._patiently(lambda: self._state.set(values, ttl_s=ttl_s))

    async def swap(self, key: str, old: str | None, new: str, *, ttl_s: float | None) -> bool:
        """See :class:`ProducerState`."""
        return await self._patiently(lambda: self._state.swap(key, old, new, ttl_s=ttl_s))

    async def delete(self, keys: Sequence[str]) -> None:
        """See :class:`ProducerState`."""
        await self._patiently(lambda: self._state.delete(keys))

    async def take(self, buckets: Sequence[Bucket], *, reserve: float = 0.0) -> float:
        """See :class:`ProducerState`."""
        if not buckets:
            return 0.0
        return await self._patiently(lambda: self._state.take(self._channel, buckets, reserve=reserve))

    async def block(self, bucket: str, seconds: float) -> None:
        """See :class:`ProducerState`."""
        await self._patiently(lambda: self._state.block(self._channel, bucket, seconds))

    async def park(self, session_id: str, reply: Parked) -> None:
        """See :class:`ProducerState`."""
        await self._patiently(lambda: self._state.park(self._channel, session_id, reply))

    async def parked(self, session_id: str) -> Parked | None:
        """See :class:`ProducerState`."""
        return await self._patiently(lambda: self._state.parked(self._channel, session_id))

    async def due(self, *, now: float, count: int) -> list[str]:
        """See :class:`ProducerState`."""
        return await self._patiently(lambda: self._state.due(self._channel, now=now, count=count))

    async def postpone(self, session_id: str, key: str, *, attempts: int, due_at: float) -> None:
        """See :class:`ProducerState`."""
        await self._patiently(
            lambda: self._state.postpone(self._channel, session_id, key, attempts=attempts, due_at=due_at)
        )

    async def unpark(self, session_id: str, key: str) -> None:
        """See :class:`ProducerState`."""
        await self._patiently(lambda: self._state.unpark(self._channel, session_id, key))

    async def _patiently(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            return await call()
        except StoreUnavailable as error:
            self._observer.backend_away(backend="state", error=str(error))
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_random_exponential(multiplier=0.1, max=MAX_WAIT_S),
            before_sleep=self._tell,
        )

        async def again() -> Answer:  # tenacity awaits only what is an async function itself
            return await call()

        return await retrying(again)

    def _tell(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._observer.backend_away(backend="state", error=str(error))
