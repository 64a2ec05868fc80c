"""MemoryState: what producers remember, for one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from sdqueue_producers.channel import Bucket
from sdqueue_producers.state.state import Parked, refilled, split_keys, wait_for

_FORGET_AT: Final = 1000
"""So many entries are kept before those that have expired are looked for."""


class MemoryState:
    """A state that lives and ends with its process, for tests and ``memory://``.

    Parameters:
        clock: seconds since 1970.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._values: dict[str, tuple[str, float | None]] = {}
        self._levels: dict[tuple[str, str], tuple[float, float, float]] = {}  # calls left, when, and when it is full
        self._blocked: dict[tuple[str, str], float] = {}
        self._outbox: dict[tuple[str, str], list[Parked]] = {}
        self._forget_at = _FORGET_AT

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        """See :class:`ProducerState`."""
        if keys:
            split_keys(keys)
        return [self._value(key) for key in keys]

    async def set(self, values: Mapping[str, str], *, ttl_s: float | None) -> None:
        """See :class:`ProducerState`."""
        if not values:
            return
        split_keys(list(values))
        self._forget()
        until = None if ttl_s is None else self._clock() + ttl_s
        self._values |= {key: (value, until) for key, value in values.items()}

    async def add(self, key: str, value: str, *, ttl_s: float | None) -> bool:
        """See :class:`ProducerState`."""
        split_keys([key])
        if self._value(key) is not None:
            return False
        await self.set({key: value}, ttl_s=ttl_s)
        return True

    async def swap(self, key: str, old: str | None, new: str, *, ttl_s: float | None) -> bool:
        """See :class:`ProducerState`."""
        split_keys([key])
        if self._value(key) not in (None, old, new):
            return False
        await self.set({key: new}, ttl_s=ttl_s)
        return True

    async def delete(self, keys: Sequence[str]) -> None:
        """See :class:`ProducerState`."""
        if keys:
            split_keys(keys)
        for key in keys:
            self._values.pop(key, None)

    async def take(self, channel: str, buckets: Sequence[Bucket], *, reserve: float = 0.0) -> float:
        """See :class:`ProducerState`."""
        self._forget()
        now = self._clock()
        wait = 0.0
        holds: dict[tuple[str, str], float] = {}
        for bucket in buckets:
            key = channel, bucket.key
            kept = self._levels.get(key)
            holds[key] = refilled(bucket, None if kept is None or kept[2] <= now else kept[:2], now)
            wait = max(wait, wait_for(bucket, holds[key], reserve), self._blocked.get(key, now) - now)
        taken = wait <= 0
        for bucket in buckets:
            key = channel, bucket.key
            # Also where nothing was taken: by a clock that was set back, it fills from now on.
            self._levels[key] = holds[key] - taken, now, now + bucket.per_s
        return max(wait, 0.0)

    async def block(self, channel: str, bucket: str, seconds: float) -> None:
        """See :class:`ProducerState`."""
        until = self._clock() + seconds
        self._blocked[channel, bucket] = max(until, self._blocked.get((channel, bucket), until))

    async def park(self, channel: str, session_id: str, reply: Parked) -> None:
        """See :class:`ProducerState`."""
        waiting = self._outbox.setdefault((channel, session_id), [])
        if all(one.key != reply.key for one in waiting):
            waiting.append(reply)

    async def parked(self, channel: str, session_id: str) -> Parked | None:
        """See :class:`ProducerState`."""
        return next(iter(self._outbox.get((channel, session_id), ())), None)

    async def due(self, channel: str, *, now: float, count: int) -> list[str]:
        """See :class:`ProducerState`."""
        firsts = [(waiting[0].due_at, session) for (name, session), waiting in self._outbox.items() if name == channel]
        return [session for due_at, session in sorted(firsts) if due_at <= now][:count]

    async def postpone(self, channel: str, session_id: str, key: str, *, attempts: int, due_at: float) -> None:
        """See :class:`ProducerState`."""
        waiting = self._outbox.get((channel, session_id), [])
        if waiting and waiting[0].key == key:
            waiting[0] = replace(waiting[0], attempts=attempts, due_at=due_at)

    async def unpark(self, channel: str, session_id: str, key: str) -> None:
        """See :class:`ProducerState`."""
        waiting = self._outbox.get((channel, session_id), [])
        if waiting and waiting[0].key == key:
            del waiting[0]
            if not waiting:
                del self._outbox[channel, session_id]

    async def aclose(self) -> None:
        """See :class:`ProducerState`."""

    def _value(self, key: str) -> str | None:
        value, until = self._values.get(key, (None, None))
        return value if until is None or self._clock() < until else None

    def _forget(self) -> None:
        """Drop what has expired, each time that there is twice as much as was left the last time."""
        if len(self._values) + len(self._levels) + len(self._blocked) < self._forget_at:
            return
        now = self._clock()
        self._values = {k: (v, until) for k, (v, until) in self._values.items() if until is None or until > now}
        self._levels = {key: level for key, level in self._levels.items() if level[2] > now}
        self._blocked = {key: until for key, until in self._blocked.items() if until > now}
        self._forget_at = max(_FORGET_AT, 2 * (len(self._values) + len(self._levels) + len(self._blocked)))
