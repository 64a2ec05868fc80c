"""StateSuite: what every place where producers remember must do, as a pytest class to derive from."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar, Final
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdqueue.testing.records import HOSTILE_IDS
from sdqueue_producers.channel import Bucket
from sdqueue_producers.state import Parked, ProducerState

TEXTS = ["", "0", "007", "1.0", "1e5", "null", "é 🤖", "\x00", "\ud800", '{"a": [1, "\\"]}', "x" * 100_000]
"""Values that some store or other has changed on the way."""

_SETTINGS: Final = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def reply(key: str, *, due_at: float = 0.0, body: str = "{}", attempts: int = 1, first_at: float = 1.5) -> Parked:
    """A reply that waits."""
    return Parked(key, body, attempts, due_at, first_at)


class StateSuite:
    """Every state of producers passes these. Derive from it, and give it your state by a fixture::

        class TestMyState(StateSuite):
            @pytest.fixture
            async def state(self):
                state = MyState()
                yield state
                await state.aclose()

    The tests are coroutines, for pytest-asyncio in auto mode. Overriding :meth:`second_state` tests two processes, and
    overriding :meth:`elapse` spares the waiting.
    """

    patience_s: ClassVar[float] = 30.0
    """Seconds in which every test must be through."""

    async def second_state(self, state: ProducerState) -> ProducerState:
        """Another object for the same state, as another process has it; whoever makes it closes it.

        Default: the state itself, where it lives in the object.
        """
        return state

    async def elapse(self, seconds: float) -> None:
        """Let time pass on the state's clock."""
        await asyncio.sleep(seconds)

    @pytest.fixture
    def channel(self) -> str:
        """A channel that nobody else has."""
        return f"suite-{uuid4().hex}"

    # Values

    async def test_values_come_back_as_they_were(self, state: ProducerState, channel: str) -> None:
        values = {f"{channel}:{number}": text for number, text in enumerate(TEXTS)}
        await state.set(values, ttl_s=60)
        assert await state.get(list(values)) == list(values.values())
        assert await state.get(list(reversed(values))) == list(reversed(values.values()))

    async def test_a_key_may_be_any_text(self, state: ProducerState, channel: str) -> None:
        names = [f"{channel}:{name}" for name in (*HOSTILE_IDS, *TEXTS)]
        for number, name in enumerate(names):
            await state.set({name: str(number)}, ttl_s=None)
        assert await state.get(names) == [str(names.index(name)) for name in names]

    async def test_what_is_not_there_is_none(self, state: ProducerState, channel: str) -> None:
        await state.set({f"{channel}:a": "1"}, ttl_s=None)
        assert await state.get([f"{channel}:b", f"{channel}:a", f"{channel}:A"]) == [None, "1", None]
        assert await state.get([]) == []

    async def test_a_later_value_takes_the_place_of_an_earlier(self, state: ProducerState, channel: str) -> None:
        """And brings its own time to live."""
        await state.set({f"{channel}:a": "1", f"{channel}:b": "1"}, ttl_s=0.2)
        await state.set({f"{channel}:a": "2"}, ttl_s=None)
        await self.elapse(0.4)
        assert await state.get([f"{channel}:a", f"{channel}:b"]) == ["2", None]
        await state.set({f"{channel}:a": "3"}, ttl_s=0.2)
        assert await state.get([f"{channel}:a"]) == ["3"]
        await self.elapse(0.4)
        assert await state.get([f"{channel}:a"]) == [None]

    async def test_a_value_is_forgotten_after_its_time(self, state: ProducerState, channel: str) -> None:
        await state.set({f"{channel}:short": "1"}, ttl_s=0.2)
        await state.set({f"{channel}:long": "1", f"{channel}:as long": "1"}, ttl_s=60)
        await state.add(f"{channel}:added", "1", ttl_s=0.2)
        names = [f"{channel}:{name}" for name in ("short", "long", "as long", "added")]
        assert await state.get(names) == ["1"] * 4
        await self.elapse(0.4)
        assert await state.get(names) == [None, "1", "1", None]

    async def test_add_sets_only_where_nothing_is(self, state: ProducerState, channel: str) -> None:
        assert await state.add(f"{channel}:a", "1", ttl_s=60) is True
        assert await state.add(f"{channel}:a", "2", ttl_s=None) is False
        assert await state.get([f"{channel}:a"]) == ["1"]
        assert await state.add(f"{channel}:empty", "", ttl_s=60) is True
        assert await state.add(f"{channel}:empty", "2", ttl_s=60) is False

    async def test_add_sets_again_what_was_forgotten_or_deleted(self, state: ProducerState, channel: str) -> None:
        assert await state.add(f"{channel}:a", "1", ttl_s=0.2)
        await self.elapse(0.4)
        assert await state.add(f"{channel}:a", "2", ttl_s=60)
        await state.delete([f"{channel}:a"])
        assert await state.add(f"{channel}:a", "3", ttl_s=60)
        assert await state.get([f"{channel}:a"]) == ["3"]

    async def test_an_add_in_vain_prolongs_nothing(self, state: ProducerState, channel: str) -> None:
        await state.add(f"{channel}:a", "1", ttl_s=0.2)
        await state.add(f"{channel}:a", "1", ttl_s=60)
        await self.elapse(0.4)
        assert await state.get([f"{channel}:a"]) == [None]

    async def test_of_many_that_add_at_once_one_does(self, state: ProducerState, channel: str) -> None:
        async with _Pair(self, state) as (one, other):
            tries = [(one, other)[n % 2].add(f"{channel}:a", str(n), ttl_s=60) for n in range(60)]
            added = await asyncio.gather(*tries)
            assert sum(added) == 1
            assert await other.get([f"{channel}:a"]) == [str(added.index(True))]

    async def test_swap_sets_what_nobody_else_has_set_meanwhile(self, state: ProducerState, channel: str) -> None:
        key = f"{channel}:a"
        assert await state.swap(key, None, "one", ttl_s=None)
        assert not await state.swap(key, None, "other", ttl_s=None)
        assert await state.swap(key, "one", "two", ttl_s=None)
        assert not await state.swap(key, "one", "other", ttl_s=None)
        assert await state.get([key]) == ["two"]

    async def test_a_swap_may_be_repeated_and_goes_on_from_nothing(self, state: ProducerState, channel: str) -> None:
        key = f"{channel}:a"
        assert await state.swap(key, "forgotten", "one", ttl_s=None)
        assert await state.swap(key, "forgotten", "one", ttl_s=None)
        assert await state.get([key]) == ["one"]

    async def test_what_was_swapped_is_forgotten_after_its_time(self, state: ProducerState, channel: str) -> None:
        key = f"{channel}:a"
        await state.set({key: "one"}, ttl_s=None)
        assert await state.swap(key, "one", "two", ttl_s=0.2)
        await self.elapse(0.4)
        assert await state.get([key]) == [None]

    async def test_of_many_that_swap_at_once_one_does(self, state: ProducerState, channel: str) -> None:
        key = f"{channel}:a"
        await state.set({key: "old"}, ttl_s=None)
        swapped = await asyncio.gather(*(state.swap(key, "old", str(number), ttl_s=None) for number in range(20)))
        assert sum(swapped) == 1
        assert await state.get([key]) == [str(swapped.index(True))]

    async def test_delete_forgets_and_ignores_what_is_not_there(self, state: ProducerState, channel: str) -> None:
        await state.set({f"{channel}:{name}": name for name in "abc"}, ttl_s=60)
        await state.delete([f"{channel}:a", f"{channel}:x", f"{channel}:c"])
        await state.delete([f"{channel}:a"])
        await state.delete([])
        assert await state.get([f"{channel}:{name}" for name in "abc"]) == [None, "b", None]

    async def test_values_of_one_call_are_seen_together(self, state: ProducerState, channel: str) -> None:
        """Given a writer that sets two values to the same number, over and over, before the eyes of a reader."""
        names = [f"{channel}:a", f"{channel}:b"]
        async with _Pair(self, state) as (one, other):

            async def write() -> None:
                for number in range(100):
                    await one.set(dict.fromkeys(names, str(number)), ttl_s=60)
                    await asyncio.sleep(0)

            writing = asyncio.create_task(write())
            while not writing.done():
                left, right = await other.get(names)
                assert left == right
                await asyncio.sleep(0)  # a state may answer without a pause
            await writing
            assert await other.get(names) == ["99", "99"]

    async def test_keys_without_a_channel_or_with_several_are_refused(self, state: ProducerState) -> None:
        """In every state alike: a Redis Cluster could not do such a call in one step."""
        for names in (["a:1", "b:1"], ["nothing"], [":1"], ["A:1"], ["{a}:1"], [""]):
            with pytest.raises(ValueError, match="<channel>:<rest>"):
                await state.get(names)
            with pytest.raises(ValueError, match="<channel>:<rest>"):
                await state.set(dict.fromkeys(names, "1"), ttl_s=1)
            with pytest.raises(ValueError, match="<channel>:<rest>"):
                await state.delete(names)
        with pytest.raises(ValueError, match="<channel>:<rest>"):
            await state.add("nothing", "1", ttl_s=1)

    # Rate limits

    async def test_a_bucket_holds_its_count_and_fills_evenly(self, state: ProducerState, channel: str) -> None:
        bucket = Bucket("b", 5, 2.0)
        waits = [await state.take(channel, [bucket]) for _ in range(6)]
        assert waits[:5] == [0] * 5
        assert 0.2 < waits[5] <= 0.41
        await self.elapse(waits[5])
        assert await state.take(channel, [bucket]) == 0
        assert 0.2 < await state.take(channel, [bucket]) <= 0.41

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
        async with _Pair(self, state) as pair:
            waits = await asyncio.gather(*(pair[n % 2].take(channel, [bucket]) for n in range(100)))
        assert sum(wait == 0 for wait in waits) == 10
        assert all(0 < wait < 601 for wait in waits if wait)

    async def test_nothing_leaves_a_blocked_bucket(self, state: ProducerState, channel: str) -> None:
        bucket, other = Bucket("b", 10, 1.0), Bucket("other", 1, 600.0)
        await state.block(channel, "b", 0.3)
        assert 0 < await state.take(channel, [bucket]) <= 0.31
        assert 0 < await state.take(channel, [other, bucket]) <= 0.31
        assert await state.take(channel, [other]) == 0, "a take in vain has taken"
        assert await state.take(f"{channel}-2", [bucket]) == 0
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
        beginning = time.monotonic()

        async def taker(state: ProducerState) -> None:
            while time.monotonic() - beginning < 0.8:
                before = time.monotonic()
                wait = await state.take(channel, [bucket])
                if wait == 0:
                    taken.append((before, time.monotonic()))
                await asyncio.sleep(wait or 0.001)

        async with _Pair(self, state) as (one, other):
            await asyncio.gather(*(taker(one) for _ in range(3)), *(taker(other) for _ in range(3)))
        # When the clock is one that a test moves, only what the bucket held can be had.
        assert len(taken) >= 4
        for first in range(len(taken)):
            for last in range(first, len(taken)):
                window = taken[last][1] - taken[first][0]
                assert last - first + 1 <= bucket.count + window * bucket.count / bucket.per_s + 0.01

    @_SETTINGS
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

    # The outbox

    async def test_replies_of_a_session_wait_in_order(self, state: ProducerState, channel: str) -> None:
        parked = [
            reply("t1:0", due_at=30.25, body='{"é": "\\ud83d"}', attempts=3, first_at=1700000000.123456),
            reply("t2:0", due_at=10.0, body="x" * 100_000),
            reply("t3:0", due_at=20.0, body="007"),
        ]
        assert await state.parked(channel, "s") is None
        for one in parked:
            await state.park(channel, "s", one)
        for one in parked:
            assert await state.parked(channel, "s") == one
            await state.unpark(channel, "s", one.key)
        assert await state.parked(channel, "s") is None
        assert await state.due(channel, now=1e12, count=10) == []

    async def test_a_reply_that_waits_already_is_ignored(self, state: ProducerState, channel: str) -> None:
        await state.park(channel, "s", reply("a", due_at=1, body="first"))
        await state.park(channel, "s", reply("b", due_at=1))
        await state.park(channel, "s", reply("a", due_at=99, body="again", attempts=9))
        await state.park(channel, "s", reply("b", due_at=99, body="again"))
        assert await state.parked(channel, "s") == reply("a", due_at=1, body="first")
        await state.unpark(channel, "s", "a")
        assert await state.parked(channel, "s") == reply("b", due_at=1)
        await state.unpark(channel, "s", "b")
        assert await state.parked(channel, "s") is None
        await state.park(channel, "s", reply("a", body="once more"))  # it waits no more, so this is news
        assert await state.parked(channel, "s") == reply("a", body="once more")

    async def test_the_first_of_a_session_says_when_it_is_due(self, state: ProducerState, channel: str) -> None:
        await state.park(channel, "s", reply("a", due_at=200))
        await state.park(channel, "s", reply("b", due_at=100))  # before its time, but behind
        assert await state.due(channel, now=199.99, count=10) == []
        assert await state.due(channel, now=200, count=10) == ["s"]
        await state.unpark(channel, "s", "a")
        assert await state.due(channel, now=99.99, count=10) == []
        assert await state.due(channel, now=100, count=10) == ["s"]

    async def test_sessions_come_longest_due_first(self, state: ProducerState, channel: str) -> None:
        for due_at in (30, 10, 50, 20, 40):
            await state.park(channel, f"s{due_at}", reply("a", due_at=due_at))
        await state.park(f"{channel}-2", "s5", reply("a", due_at=5))
        assert await state.due(channel, now=40, count=10) == ["s10", "s20", "s30", "s40"]
        assert await state.due(channel, now=40, count=2) == ["s10", "s20"]
        assert await state.due(channel, now=9, count=10) == []

    async def test_the_first_can_be_postponed(self, state: ProducerState, channel: str) -> None:
        due_at = 1700000000.654321
        await state.park(channel, "s", reply("a", due_at=1, body="kept", first_at=1.25))
        await state.park(channel, "s", reply("b", due_at=1))
        await state.postpone(channel, "s", "a", attempts=7, due_at=due_at)
        assert await state.parked(channel, "s") == reply("a", due_at=due_at, body="kept", attempts=7, first_at=1.25)
        assert await state.due(channel, now=due_at - 0.001, count=10) == []
        assert await state.due(channel, now=due_at, count=10) == ["s"]
        await state.postpone(channel, "s", "a", attempts=8, due_at=2)  # and sooner again, as a person may want it
        assert await state.due(channel, now=2, count=10) == ["s"]

    async def test_only_the_first_is_postponed_or_taken_out(self, state: ProducerState, channel: str) -> None:
        """Given another process that has been faster."""
        await state.park(channel, "s", reply("a", due_at=1))
        await state.park(channel, "s", reply("b", due_at=2))
        for key in ("b", "c"):
            await state.postpone(channel, "s", key, attempts=9, due_at=99)
            await state.unpark(channel, "s", key)
        await state.postpone(channel, "nobody", "a", attempts=9, due_at=99)
        await state.unpark(channel, "nobody", "a")
        assert await state.parked(channel, "s") == reply("a", due_at=1)
        await state.unpark(channel, "s", "a")
        await state.unpark(channel, "s", "a")
        assert await state.parked(channel, "s") == reply("b", due_at=2)
        assert await state.due(channel, now=99, count=10) == ["s"]

    async def test_sessions_and_replies_with_any_names_are_kept_apart(self, state: ProducerState, channel: str) -> None:
        names = list(dict.fromkeys([*HOSTILE_IDS, *TEXTS[1:5], "a:b", "a", "b:a"]))
        for number, session in enumerate(names):
            for key in names[:6]:
                await state.park(channel, session, reply(key, due_at=number, body=f"{number} {key}"))
        assert await state.due(channel, now=1e12, count=1000) == names
        for number, session in enumerate(names):
            for key in names[:6]:
                assert await state.parked(channel, session) == reply(key, due_at=number, body=f"{number} {key}")
                await state.unpark(channel, session, key)
        assert await state.due(channel, now=1e12, count=1000) == []

    async def test_a_value_and_a_reply_of_one_name_do_not_meet(self, state: ProducerState, channel: str) -> None:
        await state.park(channel, "s", reply("a"))
        await state.set({f"{channel}:s": "1", f"{channel}:a": "1"}, ttl_s=60)
        assert await state.take(channel, [Bucket("s", 1, 600.0)]) == 0
        await state.delete([f"{channel}:s", f"{channel}:a"])
        assert await state.parked(channel, "s") == reply("a")
        assert await state.take(channel, [Bucket("s", 1, 600.0)]) > 0

    async def test_replies_that_are_parked_at_once_are_all_kept(self, state: ProducerState, channel: str) -> None:
        async with _Pair(self, state) as pair:
            parking = [pair[n % 2].park(channel, f"s{n % 3}", reply(f"t{n}:0", due_at=n)) for n in range(60)]
            again = [pair[(n + 1) % 2].park(channel, f"s{n % 3}", reply(f"t{n}:0", due_at=n)) for n in range(60)]
            await asyncio.gather(*parking, *again)
            found = []
            for session in ("s0", "s1", "s2"):
                while waiting := await pair[1].parked(channel, session):
                    found.append(waiting.key)
                    await pair[0].unpark(channel, session, waiting.key)
        assert sorted(found) == sorted(f"t{n}:0" for n in range(60))

    async def test_of_many_that_take_one_out_no_other_goes_with_it(self, state: ProducerState, channel: str) -> None:
        for key in "abc":
            await state.park(channel, "s", reply(key))
        async with _Pair(self, state) as pair:
            await asyncio.gather(*(pair[n % 2].unpark(channel, "s", "a") for n in range(20)))
            assert await pair[1].parked(channel, "s") == reply("b")

    @_SETTINGS
    @given(
        calls=st.lists(
            st.tuples(
                st.sampled_from(["park", "park", "postpone", "unpark"]),
                st.sampled_from(["s", "t"]),
                st.sampled_from("abcd"),
                st.integers(0, 5),
            ),
            max_size=25,
        )
    )
    async def test_the_outbox_is_a_line_for_each_session(
        self, state: ProducerState, calls: list[tuple[str, str, str, int]]
    ) -> None:
        """Whatever is called in whatever order: nothing is lost, doubled, or overtakes."""
        channel = f"suite-{uuid4().hex}"
        lines: dict[str, list[Parked]] = {"s": [], "t": []}
        for call, session, key, number in calls:
            line = lines[session]
            if call == "park":
                one = reply(key, due_at=float(number))
                await state.park(channel, session, one)
                if key not in [waiting.key for waiting in line]:
                    line.append(one)
            elif call == "postpone":
                await state.postpone(channel, session, key, attempts=number, due_at=float(number))
                if line and line[0].key == key:
                    line[0] = reply(key, due_at=float(number), attempts=number)
            else:
                await state.unpark(channel, session, key)
                if line and line[0].key == key:
                    del line[0]
            for name, waiting in lines.items():
                assert await state.parked(channel, name) == (waiting[0] if waiting else None)
            due = {name for name, waiting in lines.items() if waiting and waiting[0].due_at <= 3}
            assert set(await state.due(channel, now=3, count=10)) == due

    # The object

    async def test_what_one_process_remembers_another_knows(self, state: ProducerState, channel: str) -> None:
        bucket = Bucket("b", 1, 600.0)
        async with _Pair(self, state) as (one, other):
            await one.set({f"{channel}:a": "1"}, ttl_s=60)
            await one.park(channel, "s", reply("a"))
            assert await one.take(channel, [bucket]) == 0
            assert await other.get([f"{channel}:a"]) == ["1"]
            assert await other.parked(channel, "s") == reply("a")
            assert await other.take(channel, [bucket]) > 0

    async def test_it_is_a_state(self, state: ProducerState) -> None:
        assert isinstance(state, ProducerState)

    async def test_closing_twice_is_fine(self, state: ProducerState) -> None:
        await state.aclose()
        await state.aclose()


class _Pair:
    """Two objects for a state, as two processes have it, for a block."""

    def __init__(self, suite: StateSuite, state: ProducerState) -> None:
        self._suite = suite
        self._states = (state, state)
        self._timeout = asyncio.timeout(suite.patience_s)

    async def __aenter__(self) -> tuple[ProducerState, ProducerState]:
        await self._timeout.__aenter__()
        self._states = self._states[0], await self._suite.second_state(self._states[0])
        return self._states

    async def __aexit__(self, *error: Any) -> None:
        if self._states[1] is not self._states[0]:
            await self._states[1].aclose()
        await self._timeout.__aexit__(*error)
