"""A process that dies at any place: what the next one does, for each step of a delivery, before and after its effect.

The dying process shares the loop with the test. It dies by never getting an answer again: neither from the state, nor
from the platform, nor from the broker, which gives its deliveries to the next process.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from sdqueue_producers import Caps, Permanent
from sdqueue_producers.egress import Egress, EgressOptions

from sdqueue.channels import OnAmbiguous
from tests.producers.egress.platform import FakeChannel, FakePlatform
from tests.producers.egress.world import World, made_up

LONG = "first part of it\n\nsecond part of it\n\nthird part of it"


class Death:
    """Kills at the nth step of a process, before or after it has taken effect.

    Parameters:
        step: counts from 0; ``None``: never.
        after: whether the step takes effect.
    """

    def __init__(self, step: int | None, *, after: bool) -> None:
        self.step = step
        self.after = after
        self.steps = 0
        self.dead = asyncio.Event()

    async def through(self, effect: Callable[[], Any]) -> Any:
        if self.dead.is_set():
            await asyncio.Future()
        number, self.steps = self.steps, self.steps + 1
        if number != self.step:
            return await effect()
        if self.after:
            await effect()
        self.dead.set()
        return await asyncio.Future()


class Mortal:
    """Something whose async methods a process uses until it dies."""

    def __init__(self, inner: Any, death: Death, *names: str) -> None:
        self._inner, self._death, self._names = inner, death, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found
        return lambda *args, **named: self._death.through(lambda: found(*args, **named))


STATE = ("get", "set", "swap", "parked", "park", "unpark", "postpone")


async def crash_and_go_on(world: World, death: Death, options: EgressOptions, talk: Callable[[], Any]) -> bool:
    """Let one process begin and die, and another one go on; says whether the first one died."""
    channel = FakeChannel(world.platform, world.caps)
    mine = copy.copy(world.platform)  # what it has is shared
    mine.call = lambda *args: death.through(lambda: FakePlatform.call(world.platform, *args))  # type: ignore[method-assign]
    channel.platform = mine
    broker = Mortal(world.broker, death, "publish")
    state = Mortal(world.state, death, *STATE)
    first = Egress(channel, broker, state, options, world.notes, clock=world.clock)  # type: ignore[arg-type]
    await first.__aenter__()
    await talk()
    settled = asyncio.create_task(world.settled())
    died = asyncio.create_task(death.dead.wait())
    await asyncio.wait({settled, died}, return_when=asyncio.FIRST_COMPLETED)
    dead = death.dead.is_set()
    settled.cancel()
    died.cancel()
    if not dead:
        await first.__aexit__(None, None, None)
        return False
    subscription = first._queue._subscription
    first._queue._on_lost = lambda _: None  # a dead process learns of nothing
    if subscription is not None:
        subscription._ended = True  # type: ignore[attr-defined]
        world.server._end(subscription)  # type: ignore[arg-type]
    async with Egress(
        FakeChannel(world.platform, world.caps), world.broker, world.state, options, world.notes, clock=world.clock
    ):
        await world.settled()
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task() and task.get_name().startswith(("egress of", "replies of", "outbox of")):
            task.cancel()
    await asyncio.sleep(0)
    return True


def at_every_step(caps: Caps, check: Callable[[World], None], **more: Any) -> int:
    """Run a scenario once for every step at which the process can die, and check what came of it."""
    options = EgressOptions(**more.pop("options", {}))
    talk = more.pop("talk", None)
    counted = 0
    for after in (False, True):
        for step in itertools.count():
            died = False

            async def scenario(step: int = step, after: bool = after) -> None:
                nonlocal died
                async with World(caps, **more) as world:

                    async def say() -> None:
                        await world.say.final("t1", LONG)
                        await world.say.final("t2", "two")
                        await world.say.final("t3", "other", "other")

                    async def tell() -> None:
                        await talk(world)

                    death = Death(step, after=after)
                    died = await crash_and_go_on(world, death, options, tell if talk else say)
                    try:
                        check(world)
                    except AssertionError as error:
                        raise AssertionError(
                            f"died {'after' if after else 'before'} step {step}: {world.platform.messages}, "
                            f"{world.platform.calls}"
                        ) from error

            made_up(scenario)
            if not died:
                break
            counted += 1
    return counted


PARTS = ["first part of it", "second part of it", "third part of it", "two"]


@pytest.mark.parametrize("kind", ["idempotent", "can_find"])
def test_nothing_is_visible_twice_where_a_repeat_is_recognised_or_can_be_found(kind: str) -> None:
    def check(world: World) -> None:
        assert world.platform.texts("s") == PARTS
        assert world.platform.texts("other") == ["other"]

    recognises = kind == "idempotent"
    caps = Caps(max_chars=18, idempotent=recognises, can_find=not recognises)
    assert at_every_step(caps, check, recognises=recognises) > 50


def test_what_may_be_visible_twice_is_counted() -> None:
    def check(world: World) -> None:
        texts = world.platform.texts("s")
        doubled = len(texts) - len(set(texts)) + len(world.platform.texts("other")) - 1
        assert list(dict.fromkeys(texts)) == PARTS
        assert doubled <= world.notes.count("reply_ambiguous", outcome="resent") <= 2
        assert doubled <= 2

    assert at_every_step(Caps(max_chars=18), check) > 50


def test_what_may_not_be_visible_is_counted_where_it_is_to_be_dropped() -> None:
    def check(world: World) -> None:
        texts = world.platform.texts("s")
        assert len(set(texts)) == len(texts)
        missing = len(PARTS) - len(texts) + 1 - len(world.platform.texts("other"))
        assert 0 <= missing <= world.notes.count("reply_ambiguous", outcome="dropped")

    assert at_every_step(Caps(max_chars=18), check, options={"on_ambiguous": OnAmbiguous.DROP}) > 50


def test_a_reply_that_dies_has_a_letter_and_the_next_one_goes_on() -> None:
    async def talk(world: World) -> None:
        world.platform.faults.extend([Permanent("gone", "no such channel")] * 1)
        world.platform.faults.extend([None] * 5)
        await world.say.final("t1", "one")
        await world.say.final("t2", "two")

    def check(world: World) -> None:
        letters = world.server._queue(world.broker.topology.dead).waiting
        texts = world.platform.texts("s")
        # Where the refusal was not written down, the next process asks again, and this platform then takes it.
        assert texts[-1] == "two"
        assert texts in (["two"], ["one", "two"])
        assert len(letters) in ((1, 2) if texts == ["two"] else (0, 1))

    assert at_every_step(Caps(idempotent=True), check, talk=talk, recognises=True) > 20


def test_what_has_grown_is_finished_by_the_next_process() -> None:
    async def talk(world: World) -> None:
        for number in range(3):
            await world.say.delta("t1", number, f"word {number} ")
            await asyncio.sleep(1.5)
        await world.say.final("t1", "word 0 word 1 word 2 and the end")
        await world.say.final("t2", "two")

    def check(world: World) -> None:
        assert world.platform.texts("s") == ["word 0 word 1 word 2 and the end", "two"]

    caps = Caps(can_edit=True, can_find=True)
    assert at_every_step(caps, check, talk=talk) > 30
    caps = Caps(can_edit=True, can_find=True, native_stream=True)
    assert at_every_step(caps, check, talk=talk) > 30
