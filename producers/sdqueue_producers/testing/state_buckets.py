"""The rate limits of a state."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from sdqueue.testing.records import HOSTILE_IDS
from sdqueue_producers.channel import Bucket
from sdqueue_producers.state import ProducerState
from sdqueue_producers.testing.state_base import SETTINGS, TEXTS, Pair, StateBase, Stopwatch


class StateBuckets(StateBase):
    """A state has buckets that fill."""

    async def test_a_bucket_holds_its_count_and_fills_evenly(self, state: ProducerState, channel: str) -> None:
        bucket = Bucket("b", 5, 2.0)
        watch = Stopwatch()
        waits = [await state.take(channel, [bucket]) for _ in range(6)]
        assert waits[:5] == [0] * 5
        assert 0.39 - watch.seconds < waits[5] <= 0.41
        watch = Stopwatch()
        await self.elapse(waits[5])
        assert await state.take(channel, [bucket]) == 0
        wait = await state.take(channel, [bucket])
        assert 0.39 - max(0.0, watch.seconds - waits[5]) < wait <= 0.41

    async def test_a_bucket_never_holds_more_than_its_count(self, state: ProducerState, channel: str) -> None:
        bucket = Bucket("b", 3, 0.3)
        assert await state.take(channel, [bucket]) == 0
        await self.elapse(1.0)
        slow = Bucket("b", 3, 600.0)
        assert [await state.take(channel, [slow]) > 0 for _ in range(4)] == [False, False, False, True]

    async def test_all_buckets_or_none(self, state: ProducerState, channel: str) -> None:
        wide, narrow = Bucket("wide", 10, 600.0), Bucket("narrow", 1, 600.0)
        assert await state.take(channel, [wide, narrow]) == 0
        for _ in range(5):  # in vain, and without a call of the wide one
            assert await state.take(channel, [wide, narrow]) > 500
        assert [await state.take(channel, [wide]) == 0 for _ in range(10)] == [True] * 9 + [False]

    async def test_the_longest_wait_counts(self, state: ProducerState, channel: str) -> None:
        short, long = Bucket("short", 1, 10.0), Bucket("long", 1, 100.0)
        assert await state.take(channel, [short, long]) == 0
        for order in ([short, long], [long, short]):
            assert 95 < await state.take(channel, order) < 101

    async def test_without_buckets_nothing_waits(self, state: ProducerState, channel: str) -> None:
        assert await state.take(channel, []) == 0

    async def test_a_reserve_is_left(self, state: ProducerState, channel: str) -> None:
        """Given ten calls, of which what may wait leaves three: it gets seven, and what may not gets the rest."""
        bucket = Bucket("b", 10, 600.0)
        early = [await state.take(channel, [bucket], reserve=0.3) == 0 for _ in range(8)]
        assert early == [True] * 7 + [False]
        assert [await state.take(channel, [bucket]) == 0 for _ in range(4)] == [True] * 3 + [False]

    async def test_a_reserve_lets_a_full_bucket_out(self, state: ProducerState, channel: str) -> None:
        """However large it is: what waits for more than a bucket holds would wait for ever."""
        assert await state.take(channel, [Bucket("one", 1, 600.0)], reserve=0.5) == 0
        assert await state.take(channel, [Bucket("all", 4, 600.0)], reserve=1.0) == 0
        assert await state.take(channel, [Bucket("all", 4, 600.0)], reserve=1.0) > 0

    async def test_buckets_are_kept_apart(self, state: ProducerState, channel: str) -> None:
        for name in dict.fromkeys((*HOSTILE_IDS, *TEXTS[1:])):
            assert await state.take(channel, [Bucket(name, 1, 600.0)]) == 0
            assert await state.take(channel, [Bucket(name, 1, 600.0)]) > 0
        assert await state.take(f"{channel}-2", [Bucket(TEXTS[1], 1, 600.0)]) == 0

    async def test_of_a_hundred_takers_ten_get_a_call(self, state: ProducerState, channel: str) -> None:
        bucket = Bucket("b", 10, 6000.0)
        async with Pair(self, state) as pair:
            waits = await asyncio.gather(*(pair[n % 2].take(channel, [bucket]) for n in range(100)))
        assert sum(wait == 0 for wait in waits) == 10
        assert all(0 < wait < 601 for wait in waits if wait)

    async def test_nothing_leaves_a_blocked_bucket(self, state: ProducerState, channel: str) -> None:
        bucket, other = Bucket("b", 10, 1.0), Bucket("other", 1, 600.0)
        await state.block(channel, "b", 100)
        assert 50 < await state.take(channel, [bucket]) <= 100.1
        assert 50 < await state.take(channel, [other, bucket]) <= 100.1
        assert await state.take(channel, [other]) == 0, "a take in vain has taken"
        assert await state.take(f"{channel}-2", [bucket]) == 0

    async def test_a_block_ends(self, state: ProducerState, channel: str) -> None:
        bucket, watch = Bucket("b", 10, 1.0), Stopwatch()
        await state.block(channel, "b", 0.3)
        assert 0.29 - watch.seconds < await state.take(channel, [bucket]) <= 0.31
        await self.elapse(0.4)
        assert await state.take(channel, [bucket]) == 0

    async def test_the_longer_block_stays(self, state: ProducerState, channel: str) -> None:
        await state.block(channel, "b", 50)
        await state.block(channel, "b", 0.1)
        await state.block(channel, "b", 0)
        assert 45 < await state.take(channel, [Bucket("b", 1, 1.0)]) <= 50.1
        await state.block(channel, "b", 100)
        assert 95 < await state.take(channel, [Bucket("b", 1, 1.0)]) <= 100.1

    async def test_no_window_lets_more_out_than_a_bucket_and_its_refill(
        self, state: ProducerState, channel: str
    ) -> None:
        """Given takers that try as soon as they are told to, until a bucket has filled twice."""
        bucket = Bucket("b", 4, 0.4)
        taken: list[tuple[float, float]] = []  # a call is taken at some time between these

        async def taker(state: ProducerState) -> None:
            beginning = time.monotonic()
            while time.monotonic() - beginning < 0.8:
                before = time.monotonic()
                wait = await state.take(channel, [bucket])
                if wait == 0:
                    taken.append((before, time.monotonic()))
                await asyncio.sleep(wait or 0.001)

        async with Pair(self, state) as (one, other):
            await asyncio.gather(*(taker(one) for _ in range(3)), *(taker(other) for _ in range(3)))
        # When the clock is one that a test moves, only what the bucket held can be had.
        assert len(taken) >= 4
        for first in range(len(taken)):
            for last in range(first, len(taken)):
                window = taken[last][1] - taken[first][0]
                assert last - first + 1 <= bucket.count + window * bucket.count / bucket.per_s + 0.01

    @SETTINGS
    @given(
        count=st.integers(1, 6),
        fills_s=st.floats(0.01, 1000),
        steps=st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.25, 1.0])), max_size=8),
    )
    async def test_a_burst_is_never_larger_than_a_bucket(
        self, state: ProducerState, count: int, fills_s: float, steps: list[tuple[int, float]]
    ) -> None:
        """Over any calls with any reserve: what comes out is at most the bucket and what flowed in meanwhile."""
        channel, bucket = f"suite-{uuid4().hex}", Bucket("b", count, fills_s)
        beginning, taken = time.monotonic(), 0
        for calls, reserve in steps:
            for _ in range(calls):
                wait = await state.take(channel, [bucket], reserve=reserve)
                assert 0 <= wait <= fills_s + 0.01
                taken += wait == 0
        assert taken <= count + (time.monotonic() - beginning) * count / fills_s + 0.01
