"""The place of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.cli.manager import Manager
from tests.cli.place import Place


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(tmp_path, stack)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Hears when a process has taken note of a signal: two that it has not come to yet would be one."""
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()
