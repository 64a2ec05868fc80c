"""StateSuite: what every place where producers remember must do, as a pytest class to derive from."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

from sdqueue_producers.channel import Bucket
from sdqueue_producers.state import ProducerState
from sdqueue_producers.testing.state_base import Pair, reply
from sdqueue_producers.testing.state_buckets import StateBuckets
from sdqueue_producers.testing.state_outbox import StateOutbox
from sdqueue_producers.testing.state_values import StateValues


class StateSuite(StateValues, StateBuckets, StateOutbox):
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

    async def test_what_one_process_remembers_another_knows(self, state: ProducerState, channel: str) -> None:
        bucket = Bucket("b", 1, 600.0)
        async with Pair(self, state) as (one, other):
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
