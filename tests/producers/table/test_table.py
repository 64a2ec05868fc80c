"""The short form of the table: every platform, its producer killed at every point, on RabbitMQ and Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.producer import quiet
from tests.producers.table.checker import check
from tests.producers.table.lives import RANDOM
from tests.producers.table.platforms import ALONE, Make, otherwise, together
from tests.producers.table.world import House, Outcome, Plan, World
from tests.producers.table.wounded import POINTS


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_on_every_platform_a_producer_may_die_at_every_point(
    amqp_url: str, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    """Given users on all platforms, each of which repeats everything, refuses, fails and cuts connections, when the
    producer is killed once at every point for each platform, then nothing is lost, doubled or out of order, and no
    answer is seen twice but those of Telegram that were told as ambiguous."""
    quiet()
    plan = Plan(seed=5, users=2, messages=3, passes=(1, 2), at_most_s=400)

    async def played(make: Make, name: str, points: tuple[str, ...]) -> dict[str, Outcome]:
        house = House(amqp_url, redis_url, tmp_path / name, f"{namespace}-{name}")
        try:
            async with house:
                world = World(house, make, Plan(**{**vars(plan), "points": points}), tmp_path / name)
                outcomes = await world.play()
            assert not house.pool.defects()
            return outcomes
        finally:
            await house.clear()

    # Long polling has a producer of its own, which waits for the lease of the one that died: so fewer deaths.
    most, others = await asyncio.gather(
        played(together, "most", (*POINTS, RANDOM)), played(otherwise, "others", POINTS)
    )
    outcomes = most | others
    assert set(outcomes) == set(ALONE)
    for name, outcome in outcomes.items():
        findings = check(outcome.observations)
        assert findings.clean, (name, findings.details)
        assert all(outcome.strikes.get(point) for point in POINTS), (name, outcome.strikes)
        assert findings.sent >= 6
