"""The loop watch sees a blocked loop while it is blocked, says by whom, and is silent otherwise."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

import pytest

from sdqueue.consumer import loopwatch
from sdqueue.consumer.loopwatch import LoopWatch


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of a tenth of a second is one here."""
    monkeypatch.setattr(loopwatch, "BEAT_S", 0.02)
    monkeypatch.setattr(loopwatch, "BLOCKED_S", 0.1)


class Said:
    def __init__(self, wanted: int = 1) -> None:
        self.events: list[dict[str, Any]] = []
        self.enough = threading.Event()
        self._wanted = wanted

    def __call__(self, **event: Any) -> None:
        self.events.append(event)
        if len(self.events) >= self._wanted:
            self.enough.set()


def block_until(said: Said) -> None:
    deadline = time.monotonic() + 10
    while not said.enough.is_set() and time.monotonic() < deadline:
        time.sleep(0.01)


async def test_the_task_that_holds_the_loop_is_named_while_it_does() -> None:
    said = Said()

    async def hold() -> None:
        block_until(said)

    with LoopWatch(said):
        await asyncio.create_task(hold(), name="turn 1 of session s")
    assert said.events[0]["task"] == "turn 1 of session s"
    assert said.events[0]["seconds"] >= 0.1
    assert "block_until" in said.events[0]["stack"]


async def test_a_long_block_is_told_again_each_time_it_has_doubled() -> None:
    said = Said(wanted=3)
    with LoopWatch(said):
        block_until(said)
    seconds = [event["seconds"] for event in said.events]
    assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(seconds))


async def test_a_block_outside_of_any_task_is_told_too() -> None:
    said = Said()
    done = asyncio.Event()

    def hold() -> None:
        block_until(said)
        done.set()

    with LoopWatch(said):
        asyncio.get_running_loop().call_soon(hold)
        await done.wait()
    assert said.events[0]["task"] == ""


async def test_a_busy_loop_is_no_blocked_one() -> None:
    said = Said()
    with LoopWatch(said):
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            await asyncio.sleep(0)
    assert said.events == []


async def test_its_thread_ends_with_it() -> None:
    with LoopWatch(Said()):
        assert "sdqueue-loopwatch" in {thread.name for thread in threading.enumerate()}
    assert "sdqueue-loopwatch" not in {thread.name for thread in threading.enumerate()}
