"""Locks of superdialog's protocol: its own, and each of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import superdialog.session

from sdqueue import AsyncioLockBackend, FileLockBackend, RedisLockBackend


@pytest.fixture(params=["superdialog", "asyncio", "file", "redis"])
async def locks(request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> AsyncIterator[Any]:
    if request.param == "superdialog":
        yield superdialog.session.AsyncioLockBackend()
        return
    made = {
        "asyncio": AsyncioLockBackend,
        "file": lambda: FileLockBackend(tmp_path),
        "redis": lambda: RedisLockBackend(request.getfixturevalue("redis_url"), namespace=namespace),
    }[request.param]()
    yield made
    await made.aclose()


async def test_one_key_is_held_by_one_task_at_a_time(locks: Any) -> None:
    events: list[str] = []

    async def work(name: str) -> None:
        async with locks.acquire("s"):
            events.append(name)
            for _ in range(5):
                await asyncio.sleep(0)
            events.append(name)

    await asyncio.gather(*(work(name) for name in "abc"))
    assert len(events) == 6
    assert events[::2] == events[1::2]


async def test_two_keys_are_held_at_once(locks: Any) -> None:
    """Each task waits, holding its own key, until the other has got in."""
    inside = {"a": asyncio.Event(), "b": asyncio.Event()}

    async def work(key: str, other: str) -> None:
        async with locks.acquire(key):
            inside[key].set()
            await inside[other].wait()

    async with asyncio.timeout(60):
        await asyncio.gather(work("a", "b"), work("b", "a"))


async def test_acquire_is_no_coroutine_and_an_error_lets_go(locks: Any) -> None:
    async def fail() -> None:
        async with locks.acquire("s"):
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            await fail()
