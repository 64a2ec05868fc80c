"""The suite for states, on states that are broken in one way each; run by test_suite.py in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
from sdqueue_producers import Bucket, MemoryState, Parked, ProducerState
from sdqueue_producers.testing import StateSuite


class Broken(MemoryState):
    """Broken in the way of the subclass's name."""

    caught_by: ClassVar[str]


class NeverForgets(Broken):
    caught_by = "test_a_value_is_forgotten_after_its_time"

    async def set(self, values: Mapping[str, str], *, ttl_s: float | None) -> None:
        await super().set(values, ttl_s=None)


class SetsOneAfterTheOther(Broken):
    caught_by = "test_values_of_one_call_are_seen_together"

    async def set(self, values: Mapping[str, str], *, ttl_s: float | None) -> None:
        for key, value in values.items():
            await super().set({key: value}, ttl_s=ttl_s)
            await asyncio.sleep(0)


class LooksThenAdds(Broken):
    caught_by = "test_of_many_that_add_at_once_one_does"

    async def add(self, key: str, value: str, *, ttl_s: float | None) -> bool:
        if (await self.get([key]))[0] is not None:
            return False
        await asyncio.sleep(0)
        await self.set({key: value}, ttl_s=ttl_s)
        return True


class LooksThenSwaps(Broken):
    caught_by = "test_of_many_that_swap_at_once_one_does"

    async def swap(self, key: str, old: str | None, new: str, *, ttl_s: float | None) -> bool:
        if (await self.get([key]))[0] not in (None, old, new):
            return False
        await asyncio.sleep(0)
        await self.set({key: new}, ttl_s=ttl_s)
        return True


class SwapsForAnybody(Broken):
    caught_by = "test_swap_sets_what_nobody_else_has_set_meanwhile"

    async def swap(self, key: str, old: str | None, new: str, *, ttl_s: float | None) -> bool:
        await self.set({key: new}, ttl_s=ttl_s)
        return True


class SwapsOnce(Broken):
    caught_by = "test_a_swap_may_be_repeated_and_goes_on_from_nothing"

    async def swap(self, key: str, old: str | None, new: str, *, ttl_s: float | None) -> bool:
        if (await self.get([key]))[0] != old:
            return False
        await self.set({key: new}, ttl_s=ttl_s)
        return True


class TakesNumbersForNumbers(Broken):
    caught_by = "test_values_come_back_as_they_were"

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        found = await super().get(keys)
        return [str(int(value)) if value and value.isdecimal() else value for value in found]


class TakesOneAfterTheOther(Broken):
    caught_by = "test_all_buckets_or_none"

    async def take(self, channel: str, buckets: Sequence[Bucket], *, reserve: float = 0.0) -> float:
        return max([await super(Broken, self).take(channel, [one], reserve=reserve) for one in buckets], default=0.0)


class LooksThenTakes(Broken):
    caught_by = "test_of_a_hundred_takers_ten_get_a_call"

    async def take(self, channel: str, buckets: Sequence[Bucket], *, reserve: float = 0.0) -> float:
        before = dict(self._levels)
        await asyncio.sleep(0)
        self._levels = before
        return await super().take(channel, buckets, reserve=reserve)


class LeavesNoReserve(Broken):
    caught_by = "test_a_reserve_is_left"

    async def take(self, channel: str, buckets: Sequence[Bucket], *, reserve: float = 0.0) -> float:
        return await super().take(channel, buckets)


class WaitsForMoreThanThereIs(Broken):
    caught_by = "test_a_reserve_lets_a_full_bucket_out"

    async def take(self, channel: str, buckets: Sequence[Bucket], *, reserve: float = 0.0) -> float:
        return 1.0 if reserve == 1 else await super().take(channel, buckets, reserve=reserve)


class HoldsTwice(Broken):
    caught_by = "test_no_window_lets_more_out_than_a_bucket_and_its_refill"

    async def take(self, channel: str, buckets: Sequence[Bucket], *, reserve: float = 0.0) -> float:
        return await super().take(channel, [Bucket(b.key, 2 * b.count, b.per_s) for b in buckets], reserve=reserve)


class ShortensABlock(Broken):
    caught_by = "test_the_longer_block_stays"

    async def block(self, channel: str, bucket: str, seconds: float) -> None:
        self._blocked.pop((channel, bucket), None)
        await super().block(channel, bucket, seconds)


class ParksTwice(Broken):
    caught_by = "test_a_reply_that_waits_already_is_ignored"

    async def park(self, channel: str, session_id: str, reply: Parked) -> None:
        self._outbox.setdefault((channel, session_id), []).append(reply)


class ParksInFront(Broken):
    caught_by = "test_replies_of_a_session_wait_in_order"

    async def park(self, channel: str, session_id: str, reply: Parked) -> None:
        self._outbox.setdefault((channel, session_id), []).insert(0, reply)


class DueByTheEarliest(Broken):
    caught_by = "test_the_first_of_a_session_says_when_it_is_due"

    async def due(self, channel: str, *, now: float, count: int) -> list[str]:
        lines = [(session, line) for (name, session), line in self._outbox.items() if name == channel]
        return [session for session, line in lines if min(one.due_at for one in line) <= now][:count]


class DueInAnyOrder(Broken):
    caught_by = "test_sessions_come_longest_due_first"

    async def due(self, channel: str, *, now: float, count: int) -> list[str]:
        return (await super().due(channel, now=now, count=1000))[::-1][:count]


class TakesOutWhoeverIsFirst(Broken):
    caught_by = "test_of_many_that_take_one_out_no_other_goes_with_it"

    async def unpark(self, channel: str, session_id: str, key: str) -> None:
        first = await self.parked(channel, session_id)
        if first is not None:
            await super().unpark(channel, session_id, first.key)


class PostponesWhoeverIsFirst(Broken):
    caught_by = "test_the_outbox_is_a_line_for_each_session"

    async def postpone(self, channel: str, session_id: str, key: str, *, attempts: int, due_at: float) -> None:
        first = await self.parked(channel, session_id)
        if first is not None:
            await super().postpone(channel, session_id, first.key, attempts=attempts, due_at=due_at)


class OneChannelForAll(Broken):
    caught_by = "test_buckets_are_kept_apart"

    async def take(self, channel: str, buckets: Sequence[Bucket], *, reserve: float = 0.0) -> float:
        return await super().take("x", buckets, reserve=reserve)


BROKEN: list[Any] = [kind for kind in list(globals().values()) if isinstance(kind, type) and "caught_by" in vars(kind)]


class _Suite(StateSuite):
    made: type[Broken]

    @pytest.fixture
    def state(self) -> ProducerState:
        return self.made()


for _kind in BROKEN:
    globals()[f"Test{_kind.__name__}"] = type(f"Test{_kind.__name__}", (_Suite,), {"made": _kind})
