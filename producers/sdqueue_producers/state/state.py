"""The ProducerState protocol: what producers remember for a day or so, in a place that all of them share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sdqueue_producers.channel import Bucket


@dataclass(frozen=True, slots=True)
class Parked:
    """A reply that waits in the outbox for a later try, behind others of its session.

    Parameters:
        key: names it within its session; the reply's id, with the number of a replay.
        body: the message as it came from the broker, as text of the egress's own.
        attempts: how often it was tried.
        due_at: when it is to be tried again, in seconds since 1970. That of a session's first one counts.
        first_at: when it was tried first.
    """

    key: str
    body: str
    attempts: int
    due_at: float
    first_at: float


@runtime_checkable
class ProducerState(Protocol):
    """Values by key, rate limits, and the outbox of replies that wait for a later try.

    Every state passes ``sdqueue_producers.testing.StateSuite``. A key is ``<channel>:<rest>``; all keys of one call
    have the same channel, whose name is the hash tag in a Redis Cluster. Each call takes effect as a whole or not at
    all.

    All methods raise ``StoreUnavailable`` where it cannot be reached.
    """

    # Values

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        """The values of these keys, ``None`` where there is none."""
        ...

    async def set(self, values: Mapping[str, str], *, ttl_s: float | None) -> None:
        """Set values, forgotten after ``ttl_s`` seconds; ``None``: never."""
        ...

    async def add(self, key: str, value: str, *, ttl_s: float | None) -> bool:
        """Set a value where there is none; answers whether it was set."""
        ...

    async def swap(self, key: str, old: str | None, new: str, *, ttl_s: float | None) -> bool:
        """Set a value unless somebody else has set it meanwhile: to neither ``old`` nor ``new``.

        So it may be repeated where its answer was lost, and a state that was emptied stops nobody.

        Parameters:
            key: whose value.
            old: what it was when it was looked at; ``None``: there was none.
            new: what it shall be.
            ttl_s: seconds until it is forgotten; ``None``: never.

        Returns:
            Whether it is ``new`` now.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget values; those that are not there are ignored."""
        ...

    # Rate limits

    async def take(self, channel: str, buckets: Sequence[Bucket], *, reserve: float = 0.0) -> float:
        """Take one call out of each bucket, or none out of any.

        A bucket holds ``count`` calls and fills evenly, one in ``per_s / count`` seconds, by the state's own clock.

        Parameters:
            channel: whose buckets.
            buckets: all of them count.
            reserve: the part of each bucket, 0 to 1, that must be left: what may wait leaves room for what may not.

        Returns:
            0 where they were taken, else the seconds after which it is worth while to try again.
        """
        ...

    async def block(self, channel: str, bucket: str, seconds: float) -> None:
        """Let nothing out of a bucket for so long, as after a 429. A longer block that is there stays."""
        ...

    # The outbox

    async def park(self, channel: str, session_id: str, reply: Parked) -> None:
        """Put a reply behind the others of its session. One whose key waits there already is ignored."""
        ...

    async def parked(self, channel: str, session_id: str) -> Parked | None:
        """The first of a session, ``None`` where nothing waits."""
        ...

    async def due(self, channel: str, *, now: float, count: int) -> list[str]:
        """Sessions whose first reply is due, longest due first, at most ``count``."""
        ...

    async def postpone(self, channel: str, session_id: str, key: str, *, attempts: int, due_at: float) -> None:
        """Try the first of a session again later; ignored where another one is first by now."""
        ...

    async def unpark(self, channel: str, session_id: str, key: str) -> None:
        """Take the first of a session out; ignored where another one is first by now. The next becomes due by its own
        ``due_at``."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and files. Idempotent."""
        ...


def split_keys(keys: Sequence[str]) -> tuple[str, list[str]]:
    """The channel of the keys of one call, and what follows it in each.

    Raises:
        ValueError: there is no channel, or several: such a call could not be one step in a Redis Cluster.
    """
    parts = [key.partition(":") for key in keys]
    channels = {channel for channel, _, _ in parts}
    if (
        len(channels) != 1
        or not all(re.fullmatch(r"[a-z0-9_-]{1,64}", c) for c in channels)
        or any(not colon for _, colon, _ in parts)
    ):
        shown = ", ".join(repr(key[:80]) for key in keys[:5])
        raise ValueError(f"keys of a call must all be <channel>:<rest> with one channel, but they are {shown}")
    return channels.pop(), [rest for _, _, rest in parts]


def refilled(bucket: Bucket, kept: tuple[float, float] | None, now: float) -> float:
    """How many calls a bucket holds that held ``kept[0]`` at ``kept[1]``; ``None``: it is full.

    A clock that was set back fills nothing.
    """
    if kept is None:
        return float(bucket.count)
    return min(float(bucket.count), kept[0] + max(0.0, now - kept[1]) * bucket.count / bucket.per_s)


def wait_for(bucket: Bucket, calls: float, reserve: float) -> float:
    """Seconds until a bucket that holds so many calls lets one out; 0: now."""
    needed = 1 + min(reserve * bucket.count, bucket.count - 1)
    if calls >= needed:
        return 0.0
    # A millisecond on top, so that rounding does not let the next try come too early.
    return (needed - calls) * bucket.per_s / bucket.count + 0.001
