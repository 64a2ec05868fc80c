"""The short form of the chaos: real consumers on the run's servers, with a well-known defect and without.

Each scenario is played twice at once. The consumers as they are must come out clean; those with the defect must be
caught, or the checker sees nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chaos import faults
from tests.chaos.checker import check
from tests.chaos.evidence import Evidence
from tests.chaos.plan import Load
from tests.chaos.producer import quiet
from tests.chaos.scenarios import CROWDED, FULL, HASTY, SLOW, asleep_at_save, crash_at, nothing, repeated
from tests.chaos.servers import Servers
from tests.chaos.stage import Scenario, Stage

SEED = 1


def short(load: Load, seconds: float) -> Load:
    return replace(load, seconds=seconds)


CASES = {
    "ack_before_save": (
        Scenario(
            "kill", "1", "kill -9 in the middle of turns", repeated(faults.kill, pause_s=3), short(SLOW, 5), 2, FULL
        ),
        {"lost", "replies missing"},
    ),
    "publish_before_save": (
        Scenario("crash", "3", "kill -9 before the save", crash_at("answered"), short(SLOW, 60)),
        {"reply ids reused"},
    ),
    "no_version_check": (
        Scenario("asleep", "2", "asleep at the save", asleep_at_save, short(SLOW, 60), 1, HASTY),
        {"lost", "reply ids reused"},
    ),
    "cancel_not_close": (
        Scenario("rolling", "4", "SIGTERM and a new one", repeated(faults.replace, pause_s=1), short(CROWDED, 6)),
        {"out of order"},
    ),
    "requeue_to_retry": (
        Scenario("flaky", "", "some turns fail passingly", nothing, short(CROWDED, 4), 1),
        {"out of order"},
    ),
}


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutant", CASES)
async def test_a_defect_is_caught_and_without_it_all_is_well(
    amqp_url: str, redis_url: str, tmp_path: Path, mutant: str
) -> None:
    quiet()
    scenario, columns = CASES[mutant]
    if mutant == "no_version_check":
        # Locks in another database: there the version is all that a save is checked against.
        locks = urlsplit(redis_url)._replace(path="/1").geturl()
        scenario = replace(scenario, settings={**scenario.settings, "SDQUEUE_LOCK_URL": locks})
    servers = Servers(amqp_url, redis_url)

    def broken_with(seed: int) -> Stage:
        return Stage(scenario, servers, tmp_path / f"broken-{seed}", seed=seed, mutant=mutant, patience_s=5)

    sound, broken = await asyncio.gather(
        play(Stage(scenario, servers, tmp_path / "sound", seed=SEED)), play(broken_with(SEED))
    )
    well = check(sound)
    assert well.clean, "\n".join(well.details)
    assert well.sent > 50
    caught = check(broken)
    for seed in range(SEED + 1, SEED + 4):  # within some seconds a defect need not come to light
        if columns & set(+caught.counts):
            break
        caught = check(await play(broken_with(seed)))
    assert columns & set(+caught.counts), f"{mutant} was not caught: {caught.counts}"


async def play(stage: Stage) -> Evidence:
    evidence = await stage.play()
    await stage.clear()
    if stage.mutant is None:
        assert not stage.pool.defects()
    return evidence
