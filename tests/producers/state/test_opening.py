"""Where producers remember, by the settings."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from sdqueue_producers.state import MemoryState, RedisState, SQLiteState, open_state, opened_state
from sdqueue_producers.state.opening import default_state_url

from sdqueue.settings import Settings
from tests.producers.testing import chirp


@pytest.mark.parametrize(
    ("store", "state"),
    [
        ("sqlite:///x.db", "sqlite:///x.db.producer"),
        ("sqlite:////var/x.db", "sqlite:////var/x.db.producer"),
        ("file:///d", "sqlite:////d/producer.db"),
        ("redis://:pw@h/3", "redis://:pw@h/3"),
        ("redis+cluster://h:1,h:2", "redis+cluster://h:1,h:2"),
        ("null://", "memory://"),
        ("memory://", "memory://"),
    ],
)
def test_without_a_url_it_is_what_fits_the_store(store: str, state: str) -> None:
    assert default_state_url(store) == state


async def test_the_file_beside_a_store_is_where_it_is_said(tmp_path: Path) -> None:
    settings = Settings.load(broker_url="memory://", store_url=(tmp_path / "d").as_uri())
    async with opened_state(settings) as state:
        assert isinstance(state, SQLiteState)
        await state.set({"a:b": "1"}, ttl_s=60)
    assert (tmp_path / "d" / "producer.db").is_file()


async def test_a_url_wins(tmp_path: Path, redis_url: str, namespace: str) -> None:
    """And the keys in Redis are in the namespace."""
    settings = Settings.load(
        broker_url="memory://",
        store_url=f"sqlite:///{tmp_path}/x.db",
        producer_state_url=redis_url,
        namespace=namespace,
    )
    async with opened_state(settings) as state:
        assert isinstance(state, RedisState)
        await state.set({"a:b": "1"}, ttl_s=60)
    async with opened_state(settings.model_copy(update={"namespace": f"{namespace}-2"})) as other:
        assert await other.get(["a:b"]) == [None]
    async with opened_state(settings) as again:
        assert await again.get(["a:b"]) == ["1"]


async def test_a_memory_that_ends_before_its_broker_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        state = open_state(Settings.load(broker_url="memory://", store_url="memory://"))
        assert isinstance(state, MemoryState)
        assert caplog.text == ""
        open_state(Settings.load(broker_url="amqp://localhost", store_url="null://"))
        assert "SDQUEUE_PRODUCER_STATE_URL" in caplog.text


async def test_doctor_looks_at_channels_and_their_state(tmp_path: Path) -> None:
    """Given that channels are set: one that lacks a setting, and then the state as a folder."""
    (tmp_path / "sqlite.db.producer").mkdir()
    environment = {"SDQUEUE_STORE_URL": "sqlite:///sqlite.db", "SDQUEUE_CHANNELS": "nosuch"}
    unknown = await _doctor(tmp_path, environment)
    assert (unknown["channels"]["ok"], "state" in unknown) == (False, False)
    assert "there is no channel 'nosuch'" in unknown["channels"]["detail"]

    chirp.install(tmp_path)
    environment |= {"SDQUEUE_CHANNELS": "chirp", "SDQUEUE_CHIRP_SECRET": chirp.SECRET}
    lacking = await _doctor(tmp_path, environment)
    assert "SDQUEUE_CHIRP_TOKEN" in lacking["channels"]["detail"]

    environment |= {"SDQUEUE_CHIRP_TOKEN": chirp.TOKEN}
    away = await _doctor(tmp_path, environment)
    assert (away["channels"]["ok"], away["state"]["ok"]) == (True, False)
    assert "sqlite.db.producer" in away["state"]["detail"]

    environment |= {"SDQUEUE_PRODUCER_STATE_URL": "sqlite:///other.db"}
    well = await _doctor(tmp_path, environment)
    assert well["state"]["ok"]
    assert "sqlite:///other.db: writes, reads and deletes" in well["state"]["detail"]
    for report in (unknown, lacking, away, well):
        assert chirp.SECRET not in str(report)


async def _doctor(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sdqueue.cli", "doctor", "--json"), cwd=folder, stdout=PIPE,
        env=os.environ | {"PYTHONPATH": str(folder)} | environment,
    )  # fmt: skip
    said, _ = await process.communicate()
    return {check["name"]: check for check in json.loads(said)["checks"]}
