"""The short form of the chaos on servers of its own: consumers, broker and store attacked at random, from one seed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.checker import check
from tests.chaos.producer import quiet
from tests.chaos.scenarios import ALL
from tests.chaos.servers import Servers
from tests.chaos.stage import Stage
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.redis import PrivateRedis

SEED = 3
"""It closes all connections, replaces, pauses and kills consumers, and does not restart the broker: that takes long."""


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_a_random_attack_breaks_no_promise(
    private_rabbitmq: Callable[..., Awaitable[PrivateRabbitMQ]],
    private_redis: Callable[..., Awaitable[PrivateRedis]],
    tmp_path: Path,
) -> None:
    quiet()
    rabbitmq, redis = await private_rabbitmq(), await private_redis()
    scenario = ALL["random"]
    scenario = replace(scenario, load=replace(scenario.load, seconds=12), consumers=2)
    stage = Stage(scenario, Servers(rabbitmq.url, redis.url, (rabbitmq,), redis), tmp_path, seed=SEED)
    evidence = await stage.play()

    findings = check(evidence)
    assert findings.clean, "\n".join(findings.details)
    assert not stage.pool.defects()
    assert findings.sent > 200


def test_every_scenario_has_its_row_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text()
    for scenario in ALL.values():
        assert f"| `{scenario.name}` | {scenario.row} | {scenario.what} |" in text
