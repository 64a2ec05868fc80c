"""The virtual loop and the processes on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.simulation.loop import Deadlock, VirtualLoop
from tests.simulation.nature import made_up
from tests.simulation.process import Process, Surroundings


class Scene:
    """A loop and what happened on it."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.happened: list[str] = []

    def process(self, name: str = "p") -> Process:
        return Process(Surroundings(self.loop, lambda who, what: self.happened.append(what)), name)

    def play(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_the_clock_jumps_to_the_next_timer(scene: Scene) -> None:
    async def work() -> None:
        started = scene.loop.time()
        await asyncio.sleep(3600)
        assert scene.loop.time() == started + 3600
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        assert scene.loop.time() == started + 3660

    started = time.monotonic()
    scene.play(work())
    assert time.monotonic() - started < 60


def test_timers_of_one_moment_go_off_in_the_order_in_which_they_were_set(scene: Scene) -> None:
    async def say(what: str) -> None:
        await asyncio.sleep(1)
        scene.happened.append(what)

    async def work() -> None:
        await asyncio.gather(*(say(f"{n}") for n in range(5)))

    scene.play(work())
    assert scene.happened == ["0", "1", "2", "3", "4"]


def test_waiting_for_nothing_is_a_deadlock(scene: Scene) -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="nothing is ready"):
        scene.play(work())
    (task,) = scene.loop.tasks(None)
    task.cancel()
    scene.play(asyncio.sleep(0))


def test_a_loop_that_goes_round_and_round_is_stopped(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.loop.MAX_STEPS", 1000)
    ending = False

    async def work() -> None:
        while not ending:
            await asyncio.sleep(0)

    with pytest.raises(Deadlock, match="round and round"):
        scene.play(work())
    ending = True
    monkeypatch.undo()
    scene.play(asyncio.sleep(1))


async def _work(scene: Scene) -> None:
    try:
        for n in range(4):
            scene.happened.append(f"step {n}")
            await asyncio.sleep(1)
    finally:
        scene.happened.append("cleaned up")


def test_a_stopped_process_goes_on_where_it_stood(scene: Scene) -> None:
    async def world() -> None:
        process = scene.process()
        task = process.start(_work(scene))
        await asyncio.sleep(1.5)
        process.freeze(10)
        await asyncio.sleep(9)
        assert scene.happened == ["step 0", "step 1", "stopped for 10.000 s"]
        await task
        assert scene.happened[3:] == ["continues", "step 2", "step 3", "cleaned up"]

    scene.play(world())


def test_a_killed_process_does_not_even_clean_up(scene: Scene) -> None:
    async def world() -> None:
        process = scene.process()
        task = process.start(_work(scene))
        await asyncio.sleep(1.5)
        process.kill()
        await asyncio.sleep(100)
        assert scene.happened == ["step 0", "step 1", "killed"]
        assert not task.done()
        process.bury()
        await asyncio.wait({task})
        assert not scene.loop.tasks(process)

    scene.play(world())


def test_what_a_process_starts_dies_with_it(scene: Scene) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(5, scene.happened.append, "timer")
        await asyncio.gather(_work(scene), asyncio.create_task(_work(scene)))

    async def world() -> None:
        process = scene.process()
        task = process.start(main())
        await asyncio.sleep(0.5)
        process.kill()
        process.soon(scene.happened.append, "a message for the dead")
        await asyncio.sleep(100)
        assert scene.happened == ["step 0", "step 0", "killed"]
        process.bury()
        await asyncio.wait({task})

    scene.play(world())


def test_clocks_and_chance_are_made_up_and_given_back(scene: Scene) -> None:
    import random
    import secrets
    import uuid
    from datetime import UTC, datetime

    from sdqueue import messages

    def drawn() -> tuple[Any, ...]:
        now = messages.datetime.now(UTC)
        return time.time(), time.monotonic(), now, random.random(), uuid.uuid4(), secrets.token_hex(8)

    before = drawn()
    with made_up(VirtualLoop(), 1):
        first = drawn()
    with made_up(VirtualLoop(), 1):
        assert drawn() == first
    with made_up(VirtualLoop(), 2):
        assert not set(drawn()[3:]) & set(first[3:])
    assert messages.datetime is datetime
    assert not set(drawn()) & (set(before) | set(first))
    assert first[2].timestamp() == first[0]
