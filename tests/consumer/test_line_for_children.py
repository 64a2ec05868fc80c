"""Who gets which child, and when one is started or let go; with children that are no processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from sdqueue.consumer import children as module
from sdqueue.consumer.child import ChildNotStarted
from sdqueue.consumer.children import Children


class Nursery:
    """Makes children, one for each permit."""

    def __init__(self) -> None:
        self.made: list[Infant] = []
        self.asked = 0
        self.permits = asyncio.Semaphore(0)
        self.fails = False

    async def start(self, agent: str, *, timeout: float) -> Infant:
        self.asked += 1
        await self.permits.acquire()
        if self.fails:
            raise ChildNotStarted("no")
        self.made.append(Infant(len(self.made)))
        return self.made[-1]


class Infant:
    def __init__(self, number: int) -> None:
        self.pid = number
        self.used = False
        self.living = True

    async def close(self) -> None:
        self.living = False


@pytest.fixture
def nursery(monkeypatch: pytest.MonkeyPatch) -> Nursery:
    nursery = Nursery()
    monkeypatch.setattr(module, "Child", nursery)
    monkeypatch.setattr(module, "AT_ONCE", 2)
    monkeypatch.setattr(module, "STARTING_AT_ONCE", 1)
    return nursery


@pytest_asyncio.fixture
async def line(nursery: Nursery) -> AsyncIterator[Children]:
    line = Children("agent")
    yield line
    await line.aclose()
    assert not any(child.living for child in nursery.made)


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def _waiting(line: Children, *, fresh: bool = False) -> asyncio.Task[Any]:
    return asyncio.create_task(line.take(fresh=fresh))


async def _used(line: Children, nursery: Nursery) -> Any:
    nursery.permits.release()
    child = await line.take(fresh=False)
    child.used = True
    return child


async def test_a_child_that_comes_back_is_not_waited_for_any_longer(line: Children, nursery: Nursery) -> None:
    """Given a start that takes long, whoever waits takes a child that another has done with."""
    child = await _used(line, nursery)
    waiting = _waiting(line)
    await _settle()
    assert nursery.asked == 2
    line.give_back(child)
    assert await waiting is child
    line.give_back(child)


async def test_those_who_need_a_fresh_one_are_served_first_and_get_no_other(line: Children, nursery: Nursery) -> None:
    child = await _used(line, nursery)
    before, needs_fresh = _waiting(line), _waiting(line, fresh=True)
    await _settle()
    nursery.permits.release()
    fresh = await needs_fresh
    assert (fresh, fresh.used) == (nursery.made[1], False)
    assert not before.done()
    line.give_back(child)
    assert await before is child
    for each in (child, fresh):
        line.give_back(each)


async def test_at_the_limit_a_used_one_makes_room_for_a_fresh_one(line: Children, nursery: Nursery) -> None:
    first, second = await _used(line, nursery), await _used(line, nursery)
    needs_fresh, waiting = _waiting(line, fresh=True), _waiting(line)
    await _settle()
    assert nursery.asked == 2, "there are as many as there may be"
    line.give_back(first)
    nursery.permits.release()
    assert await needs_fresh is nursery.made[2]
    assert not first.living
    line.give_back(second)
    assert await waiting is second
    line.give_back(second)
    line.give_back(nursery.made[2])


async def test_a_dead_one_is_not_handed_out_and_makes_room(line: Children, nursery: Nursery) -> None:
    children = [await _used(line, nursery), await _used(line, nursery)]
    waiting = _waiting(line)
    children[0].living = False
    line.give_back(children[0])
    nursery.permits.release()
    assert await waiting is nursery.made[2]
    for child in (children[1], nursery.made[2]):
        line.give_back(child)


@pytest.mark.parametrize("when", ["before", "with"])
async def test_a_child_for_somebody_who_has_given_up_goes_to_the_next(
    line: Children, nursery: Nursery, when: str
) -> None:
    child = await _used(line, nursery)
    gives_up, waiting = _waiting(line), _waiting(line)
    await _settle()
    steps: list[Callable[[], object]] = [gives_up.cancel, lambda: line.give_back(child)]
    for step in steps if when == "before" else reversed(steps):
        step()
    assert await waiting is child
    assert gives_up.cancelled()
    line.give_back(child)


async def test_a_failed_start_is_told_to_one_and_the_next_one_has_another(line: Children, nursery: Nursery) -> None:
    nursery.fails = True
    first, second = _waiting(line), _waiting(line)
    await _settle()
    nursery.permits.release()
    with pytest.raises(ChildNotStarted):
        await first
    nursery.fails = False
    nursery.permits.release()
    line.give_back(await second)


async def test_what_was_started_for_nobody_is_kept_for_the_next(line: Children, nursery: Nursery) -> None:
    waiting = _waiting(line)
    await _settle()
    waiting.cancel()
    nursery.permits.release()
    await _settle()
    line.give_back(await line.take(fresh=False))
    assert nursery.asked == 1


async def test_after_the_end_there_are_none(line: Children, nursery: Nursery) -> None:
    child = await _used(line, nursery)
    starting = _waiting(line)
    await _settle()
    starting.cancel()
    await line.aclose()
    line.give_back(child)
    with pytest.raises(ChildNotStarted, match="stopped"):
        await line.take(fresh=False)
