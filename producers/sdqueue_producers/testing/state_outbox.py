"""The outbox of a state."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from sdqueue.testing.records import HOSTILE_IDS
from sdqueue_producers.channel import Bucket
from sdqueue_producers.state import Parked, ProducerState
from sdqueue_producers.testing.state_base import SETTINGS, TEXTS, Pair, StateBase, reply


class StateOutbox(StateBase):
    """Replies wait in a state, in order."""

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
        async with Pair(self, state) as pair:
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
        async with Pair(self, state) as pair:
            await asyncio.gather(*(pair[n % 2].unpark(channel, "s", "a") for n in range(20)))
            assert await pair[1].parked(channel, "s") == reply("b")

    @SETTINGS
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
