"""A turn that kills its process again and again, among many that run, on real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.consumer.poison_load import play

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis, pytest.mark.chaos]


async def test_the_poison_is_dead_and_no_other_turn_is_lost_condemned_or_out_of_order(
    amqp_url: str, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    """Its session goes on behind it. The same with more sessions: ``python -m tests.consumer.poison_load --help``."""
    outcome = await play(amqp_url, redis_url, namespace, tmp_path, sessions=120, within_s=100)
    assert outcome.wrong == []
    assert {letter.reason for letter in outcome.letters} == {"poison"}
    assert outcome.deaths == 2, "the third time, it was alone"
    assert outcome.alone >= outcome.suspects > 1, "its neighbours were suspects too"
