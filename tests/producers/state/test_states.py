"""The suite for each place where producers remember."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sdqueue_producers import ProducerState
from sdqueue_producers.state import MemoryState, RedisState, SQLiteState
from sdqueue_producers.testing import StateSuite


class TestMemory(StateSuite):
    @pytest.fixture
    def state(self) -> ProducerState:
        self.now = 1_700_000_000.0
        return MemoryState(clock=lambda: self.now)

    async def elapse(self, seconds: float) -> None:
        self.now += seconds


class TestMemoryByTheClock(StateSuite):
    @pytest.fixture
    def state(self) -> ProducerState:
        return MemoryState()


class TestSQLite(StateSuite):
    @pytest.fixture
    async def state(self, tmp_path: Path) -> AsyncIterator[ProducerState]:
        self.path = tmp_path / "a" / "producer.db"
        state = SQLiteState(self.path)
        yield state
        await state.aclose()

    async def second_state(self, state: ProducerState) -> ProducerState:
        return SQLiteState(self.path)


class TestRedis(StateSuite):
    @pytest.fixture
    async def state(self, redis_url: str, namespace: str) -> AsyncIterator[ProducerState]:
        self.where = redis_url, namespace
        state = RedisState(redis_url, namespace=namespace)
        yield state
        await state.aclose()

    async def second_state(self, state: ProducerState) -> ProducerState:
        return RedisState(self.where[0], namespace=self.where[1])
