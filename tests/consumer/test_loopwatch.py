"""The loop watch sees a blocked loop while it is blocked, says by whom, and is silent otherwise."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from sdqueue.consumer import loopwatch
from sdqueue.consumer.loopwatch import LoopWatch
from tests.consumer.stand import PATIENCE_S


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of a tenth of a second is one here."""
    monkeypatch.setattr(loopwatch, "BEAT_S", 0.02)
    monkeypatch.setattr(loopwatch, "BLOCKED_S", 0.1)


class Said:
    """What was told of :func:`block_until`. A machine that stands still for a moment blocks the loop elsewhere too."""

    def __init__(self, wanted: int = 1) -> None:
        self.events: list[dict[str, Any]] = []
        self.enough = threading.Event()
        self._wanted = wanted

    def __call__(self, **event: Any) -> None:
        if "in block_until" in event["stack"]:
            self.events.append(event)
        if len(self.events) >= self._wanted:
            self.enough.set()


def block_until(said: Said) -> None:
    deadline = time.monotonic() + PATIENCE_S
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


async def test_a_busy_loop_is_no_blocked_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a clock on which each round of the loop takes a millisecond, and a watch that has looked ten times."""
    loop, here, now, looks = asyncio.get_running_loop(), threading.get_ident(), 1000.0, 0

    def clock() -> float:
        nonlocal looks
        looks += threading.get_ident() != here
        return now

    told: list[dict[str, Any]] = []
    monkeypatch.setattr(loopwatch, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(loop, "time", clock)
    with LoopWatch(lambda **event: told.append(event)):
        while looks < 10:
            now += 0.001
            await asyncio.sleep(0)
    assert told == []


async def test_its_thread_ends_with_it() -> None:
    with LoopWatch(Said()):
        assert "sdqueue-loopwatch" in {thread.name for thread in threading.enumerate()}
    assert "sdqueue-loopwatch" not in {thread.name for thread in threading.enumerate()}
