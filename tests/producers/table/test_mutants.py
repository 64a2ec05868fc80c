"""Producers with one well-known mistake each: the table shows it, where the short form without it shows nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.producer import quiet
from tests.producers.table.checker import Findings, check
from tests.producers.table.mutants import MUTANTS
from tests.producers.table.platforms import ALONE
from tests.producers.table.world import House, Plan, World

CASES: Final = {
    "answer_first": ("webhook-callback", "received", "out of order"),
    "ack_first": ("webchat", "begun", "missing"),
    "forget_begun": ("slack-http", "delivered", "seen twice"),
    "new_ids": ("telegram-webhook", "confirmed", "doubled"),
}
"""The platform, where its producer is killed, and the column in which the mistake is seen.

What the first of them loses comes again as a repeat, too late.
"""


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_a_mistake_is_seen_in_its_column(amqp_url: str, redis_url: str, namespace: str, tmp_path: Path) -> None:
    quiet()
    assert set(CASES) == set(MUTANTS)

    async def play(house: House, mutant: str) -> Findings:
        platform, point, _ = CASES[mutant]
        plan = Plan(
            seed=3, points=(point,), strikes=2, users=3, messages=3, passes=(2, 4), at_most_s=120, patience_s=5,
            mutant=mutant,
        )  # fmt: skip
        return check((await World(house, ALONE[platform], plan, tmp_path / mutant).play())[platform].observations)

    house = House(amqp_url, redis_url, tmp_path / "house", namespace)
    try:
        async with house:
            found = dict(zip(CASES, await asyncio.gather(*(play(house, mutant) for mutant in CASES)), strict=True))
    finally:
        await house.clear()
    for mutant, (_, _, column) in CASES.items():
        assert found[mutant].counts[column], (mutant, found[mutant].counts, found[mutant].details)
        assert not found[mutant].counts["strange"], (mutant, found[mutant].details)
        assert not found[mutant].clean
