"""The stand of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.consumer.stand import Stand


@pytest_asyncio.fixture
async def stand() -> AsyncIterator[Stand]:
    async with Stand() as made:
        yield made
