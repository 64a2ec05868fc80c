"""Where producers remember, by the settings."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from sdqueue_producers.state import MemoryState, RedisState, SQLiteState, open_state, opened_state
from sdqueue_producers.state.opening import default_state_url

from sdqueue.settings import Settings


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
