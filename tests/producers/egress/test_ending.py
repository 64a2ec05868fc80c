"""An egress that ends while what it needs stands still."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sdqueue_producers import RetryAfter

from tests.producers.egress.test_crashes import STATE, Death, Mortal
from tests.producers.egress.world import World, made_up


def test_it_ends_in_its_grace_though_the_state_stands_still_and_the_outbox_is_at_work() -> None:
    async def scenario() -> None:
        async with World() as world:
            frozen = Death(None, after=False)
            world.state = Mortal(world.state, frozen, *STATE)
            world.platform.faults.append(RetryAfter(100, "HTTP 429"))

            async def hold(kind: str, address: str) -> None:
                if len(world.platform.calls) > 1:
                    await asyncio.Event().wait()

            world.platform.hold = hold
            async with world.egress(grace_s=5.0) as egress:
                await world.say.final("t1", "one")
                await world.say.final("u1", "one", "other")
                await world.platform.until(lambda: len(world.platform.calls) == 3)
                assert egress._outbox._working
                frozen.dead.set()
                began = world.clock()
            assert world.clock() - began < 6

    made_up(scenario)


def test_it_may_end_before_it_has_begun() -> None:
    async def scenario() -> None:
        async with World() as world, world.egress():
            pass

    made_up(scenario)


def test_behind_a_defect_nothing_of_a_session_overtakes_what_was_in_its_way() -> None:
    """Given a state that breaks with an error that nobody has foreseen, and a process that takes its time to end."""

    async def scenario() -> None:
        async with World() as world:
            get, broken = world.state.get, False

            async def breaking(keys: list[str]) -> Any:
                if broken:
                    raise RuntimeError("nobody has foreseen this")
                return await get(keys)

            world.state.get = breaking
            async with world.egress() as egress:
                broken = True
                await world.say.final("t1", "one")
                with pytest.raises(RuntimeError):
                    await egress.wait_failed()
                broken = False
                await world.say.final("t2", "two")
                await asyncio.sleep(5)
                assert world.platform.texts() == []
            async with world.egress():
                await world.settled()
            assert world.platform.texts() == ["one", "two"]

    made_up(scenario)
