"""A resharding that is killed anywhere, again and again, while producers never stop: nothing lost, all in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdqueue.consumer.membership import Epoch
from sdqueue.messages import partition_of
from tests.resharding.world import Life, World

SESSIONS = [f"s{n}" for n in range(6)]


@dataclass(frozen=True)
class Story:
    """What happens.

    Parameters:
        before, after: partitions.
        known: for each session the number that its producer knows; ``None`` publishes under the session id.
        earlier: sessions that sent something before the resharding.
        forwarded: turns of each queue that consumers had looked at by then, and forwarded where they were wrong.
        during: what is sent while the tool runs: at which of its steps, and the session.
        deaths: after how many steps each life of the tool ends; the one behind them lives.
    """

    before: int
    after: int
    known: Sequence[int | None]
    earlier: Sequence[int]
    forwarded: int
    during: Sequence[tuple[int, int]]
    deaths: Sequence[int]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    before, after = draw(st.lists(st.integers(1, 6), min_size=2, max_size=2, unique=True))
    session = st.integers(0, len(SESSIONS) - 1)
    return Story(
        before,
        after,
        draw(st.lists(st.sampled_from([before, after, 3, 7, None]), min_size=len(SESSIONS), max_size=len(SESSIONS))),
        draw(st.lists(session, max_size=25)),
        draw(st.integers(0, 5)),
        draw(st.lists(st.tuples(st.integers(1, 120), session), max_size=40)),
        draw(st.lists(st.integers(1, 110), max_size=3)),
    )


async def play(story: Story) -> None:
    world = World(story.before)
    async with world.broker:
        await world.broker.apply()
        for number in story.earlier:
            await world.send(SESSIONS[number], story.known[number])
        await world.forward(story.before, story.forwarded)
        ahead = sorted(story.during)
        done = 0

        async def before_step(_: int) -> None:
            nonlocal done
            done += 1
            while ahead and ahead[0][0] <= done:
                number = ahead.pop(0)[1]
                await world.send(SESSIONS[number], story.known[number])

        for ends_before in story.deaths:
            await world.reshard_and_die(story.after, Life(ends_before, before_step))
        await world.reshard(story.after, Life(before=before_step))

        assert world.is_as_applied(story.after)
        assert (await world.pool.look()).epoch == Epoch(story.after)
        for number, session in enumerate(SESSIONS):
            await world.send(session, story.known[number])
        assert await world.consumed(story.after) == world.sent


@settings(max_examples=200, deadline=None)
@given(stories())
def test_nothing_is_lost_and_each_session_stays_in_order(story: Story) -> None:
    asyncio.run(play(story))


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (4, 2), (1, 5)])
async def test_whatever_step_it_dies_at_the_next_run_brings_it_to_its_end(before: int, after: int) -> None:
    """Every step, with turns that wait at home, on the wrong queue, unrouted, and that come meanwhile."""
    steps = Life()
    await play_steps(World(before), before, after, steps)
    for step in range(steps.done):
        await play_steps(World(before), before, after, Life(step))


async def play_steps(world: World, before: int, after: int, life: Life) -> None:
    known = {session: [before, after, 7, None][n % 4] for n, session in enumerate(SESSIONS)}
    async with world.broker:
        await world.broker.apply()
        for _turn in range(5):
            for session in SESSIONS:
                await world.send(session, known[session])
        await world.forward(before, 2)

        async def send_one(step: int) -> None:
            if step % 4 == 0:  # at every step it would be as fast as the tool, which then never catches up
                session = SESSIONS[step // 4 % len(SESSIONS)]
                await world.send(session, known[session])

        life._before = send_one
        await world.reshard_and_die(after, life)
        await world.reshard(after, Life(before=send_one))
        assert world.is_as_applied(after)
        assert (await world.pool.look()).epoch == Epoch(after)
        for session in SESSIONS:
            await world.send(session, known[session])
        assert await world.consumed(after) == world.sent


def test_the_sessions_of_these_tests_change_their_partitions() -> None:
    """Or they would show nothing."""
    for before, after in ((2, 3), (3, 2), (4, 2), (1, 5)):
        assert any(partition_of(s, before) != partition_of(s, after) for s in SESSIONS)
    assert len({partition_of(s, 3) for s in SESSIONS}) == 3
