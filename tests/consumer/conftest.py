"""The stand of each test, and a clock for those that want one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.consumer.clock import Clock
from tests.consumer.stand import Stand


@pytest_asyncio.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Made-up seconds instead of real ones."""
    return Clock(asyncio.get_running_loop(), monkeypatch)


@pytest_asyncio.fixture
async def stand() -> AsyncIterator[Stand]:
    async with Stand() as made:
        yield made
