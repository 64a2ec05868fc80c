"""Trouble: what befalls processes and backends from outside, at any time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.world import World


class Trouble:
    """Kills, stops, cuts off and tells to end, as often as the profile says, at times that the seed has chosen.

    Parameters:
        world: what it befalls.
        chance: chooses.
    """

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance

    async def happen(self) -> None:
        """Let all of it happen."""
        profile, chance = self._world.profile, self._chance
        kinds: list[tuple[int, Callable[[], None]]] = [
            (profile.kills, self._kill),
            (profile.freezes, self._freeze),
            (profile.cuts, self._cut),
            (profile.stops, self._stop),
            (profile.outages, self._outage),
            (profile.desks, self._world.open_desk),
        ]
        due = [(chance.uniform(0, profile.lasts_s), act) for count, act in kinds for _ in range(count)]
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for at, act in sorted(due, key=lambda one: one[0]):
            await asyncio.sleep(begun + at - loop.time())
            if self._world.members:
                act()
        await asyncio.sleep(max(0.0, begun + profile.lasts_s - loop.time()))

    def _kill(self) -> None:
        self._chance.choice(self._world.members).process.kill()

    def _freeze(self) -> None:
        self._chance.choice(self._world.members).process.freeze(self._chance.uniform(0.5, 20))

    def _cut(self) -> None:
        broker = self._chance.choice(self._world.members).broker
        if broker.subscriptions and self._chance.random() < 0.5:
            self._chance.choice(broker.subscriptions).cut("the channel was closed")
        else:
            broker.hang_up("the connection was cut")

    def _stop(self) -> None:
        member = self._chance.choice(self._world.members)
        member.stop()
        if self._chance.random() < 0.3:
            member.stop()

    def _outage(self) -> None:
        world, chance = self._world, self._chance
        backend = chance.choice([world.broker_side, world.store_side])
        if backend.away:
            return
        world.trace.note(backend.name, "is away")
        backend.away = True
        if backend is world.broker_side:
            for member in world.members:
                member.broker.hang_up("the broker is away")
        asyncio.get_running_loop().call_later(chance.uniform(0.5, 10), self._back, backend)

    def _back(self, backend: object) -> None:
        world = self._world
        for side in (world.broker_side, world.store_side):
            if side is backend and side.away:
                world.trace.note(side.name, "is back")
                side.away = False
