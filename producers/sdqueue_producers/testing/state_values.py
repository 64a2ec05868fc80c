"""The values of a state."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio

import pytest

from sdqueue.testing.records import HOSTILE_IDS
from sdqueue_producers.state import ProducerState
from sdqueue_producers.testing.state_base import TEXTS, Pair, StateBase, Stopwatch


class StateValues(StateBase):
    """A state keeps values."""

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
        watch = Stopwatch()
        await state.set({f"{channel}:a": "3"}, ttl_s=0.2)
        assert await state.get([f"{channel}:a"]) == ["3"] or watch.seconds >= 0.2
        await self.elapse(0.4)
        assert await state.get([f"{channel}:a"]) == [None]

    async def test_a_value_is_forgotten_after_its_time(self, state: ProducerState, channel: str) -> None:
        watch = Stopwatch()
        await state.set({f"{channel}:short": "1"}, ttl_s=0.2)
        await state.set({f"{channel}:long": "1", f"{channel}:as long": "1"}, ttl_s=60)
        await state.add(f"{channel}:added", "1", ttl_s=0.2)
        names = [f"{channel}:{name}" for name in ("short", "long", "as long", "added")]
        assert await state.get(names) == ["1"] * 4 or watch.seconds >= 0.2
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
        watch = Stopwatch()
        await state.add(f"{channel}:a", "1", ttl_s=0.2)
        in_vain = not await state.add(f"{channel}:a", "1", ttl_s=60)
        assert in_vain or watch.seconds >= 0.2
        await self.elapse(0.4)
        assert await state.get([f"{channel}:a"]) == [None if in_vain else "1"]

    async def test_of_many_that_add_at_once_one_does(self, state: ProducerState, channel: str) -> None:
        async with Pair(self, state) as (one, other):
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
        async with Pair(self, state) as (one, other):

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
