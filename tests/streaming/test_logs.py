"""The logs of streamed answers: the suite for each, and what is particular to one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sdqueue.errors import ConfigurationError, StoreUnavailable
from sdqueue.streaming import (
    BEGINNING,
    DeltaLog,
    LogEntry,
    LogLimits,
    MemoryDeltaLog,
    RedisDeltaLog,
    SQLiteDeltaLog,
    StreamOffset,
)
from sdqueue.testing import DeltaLogSuite
from tests.servers.redis_group import RedisGroup

SMALL = LogLimits(entries=10, ttl_s=0.2)
FIRST = LogEntry(StreamOffset.of(1, 0), "first")


class TestMemory(DeltaLogSuite):
    @pytest.fixture
    async def log(self) -> DeltaLog:
        return MemoryDeltaLog()

    @pytest.fixture
    async def small_log(self) -> DeltaLog:
        return MemoryDeltaLog(SMALL)


class TestSQLite(DeltaLogSuite):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[DeltaLog]:
        log = SQLiteDeltaLog(tmp_path / "a" / "streams.db")
        yield log
        await log.aclose()

    @pytest.fixture
    async def small_log(self, tmp_path: Path) -> AsyncIterator[DeltaLog]:
        log = SQLiteDeltaLog(tmp_path / "small.db", limits=SMALL)
        yield log
        await log.aclose()

    async def second_log(self, log: DeltaLog) -> DeltaLog:
        assert isinstance(log, SQLiteDeltaLog)
        return SQLiteDeltaLog(log._path)

    async def test_a_reader_makes_no_file(self, tmp_path: Path) -> None:
        log = SQLiteDeltaLog(tmp_path / "streams.db")
        assert await log.read("s", "t", after=BEGINNING, wait_s=0) is None
        assert list(tmp_path.iterdir()) == []


class TestRedis(DeltaLogSuite):
    slack = 100  # a node of a stream, which is trimmed as a whole

    @pytest.fixture
    async def log(self, redis_url: str, namespace: str) -> AsyncIterator[DeltaLog]:
        log = RedisDeltaLog(redis_url, namespace=namespace)
        yield log
        await log.aclose()

    @pytest.fixture
    async def small_log(self, redis_url: str, namespace: str) -> AsyncIterator[DeltaLog]:
        log = RedisDeltaLog(redis_url, namespace=namespace, limits=SMALL)
        yield log
        await log.aclose()

    @pytest.fixture(autouse=True)
    def _remember(self, redis_url: str, namespace: str) -> None:
        self._where = redis_url, namespace

    async def second_log(self, log: DeltaLog) -> DeltaLog:
        return RedisDeltaLog(self._where[0], namespace=self._where[1])

    async def test_more_than_100_may_wait_in_one_process(self, log: DeltaLog) -> None:
        """Each has a connection, and redis-py 8 gives a client 100 unless it is told otherwise."""
        readers = [asyncio.create_task(log.read("s", f"t{n}", after=BEGINNING, wait_s=60)) for n in range(150)]
        await asyncio.wait(readers, timeout=0.5, return_when=asyncio.FIRST_EXCEPTION)
        for number in range(150):
            await log.append("s", f"t{number}", [FIRST])
        assert await asyncio.gather(*readers) == [[FIRST]] * 150


async def test_on_a_cluster_a_log_is_in_the_slot_of_its_session(redis_group: RedisGroup) -> None:
    log = RedisDeltaLog(f"redis+cluster://127.0.0.1:{(await redis_group.cluster())[0]}")
    try:
        for number in range(20):
            await log.append(f"s{number}", "t", [FIRST])
            assert await log.read(f"s{number}", "t", after=BEGINNING, wait_s=0) == [FIRST]
        waiting = asyncio.create_task(log.read("late", "t", after=BEGINNING, wait_s=60))
        await asyncio.wait({waiting}, timeout=0.1)
        await log.append("late", "t", [FIRST])
        assert await waiting == [FIRST]
        assert await log.read("late", "u", after=BEGINNING, wait_s=0.05) is None
    finally:
        await log.aclose()


async def test_a_redis_that_is_away_is_said() -> None:
    with socket.socket() as kept:  # so that nobody else listens there meanwhile
        kept.bind(("127.0.0.1", 0))
        log = RedisDeltaLog(f"redis://127.0.0.1:{kept.getsockname()[1]}")
        for call in (log.append("s", "t", [FIRST]), log.read("s", "t", after=BEGINNING, wait_s=0)):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await call  # type: ignore[misc]  # one returns nothing
        await log.aclose()


@pytest.mark.parametrize("limits", [{"entries": 0}, {"ttl_s": 0}, {"ttl_s": -1}])
def test_a_log_that_could_keep_nothing_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="cannot keep"):
        LogLimits(**limits)
