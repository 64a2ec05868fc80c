"""Desk: somebody who looks through the dead letters, puts turns back and throws letters away."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING

from sdqueue.deadletters import DeadLetter, DeadLetters, LetterFilter
from sdqueue.errors import SdqueueError
from tests.simulation.broker import SimulatedBroker
from tests.simulation.locks import SimulatedLocks
from tests.simulation.process import Process
from tests.simulation.store import SimulatedStore
from tests.simulation.wire import Wire

if TYPE_CHECKING:
    from tests.simulation.world import World

REPLAYS = 2
"""A turn that has died again so often is given up."""


class Desk:
    """One look through the letters, by a command in a process of its own, which may be killed like any other.

    Parameters:
        world: where it stands.
        process: what it is.
        chance: decides what becomes of a letter.
    """

    def __init__(self, world: World, process: Process, chance: random.Random) -> None:
        self.process = process
        self.wire = Wire(world.loop, process, world.profile, world.chance)
        self.broker = SimulatedBroker(self.wire, world.broker_side, world.topology, world.server)
        self._world = world
        self._chance = chance

    async def main(self) -> None:
        """Look at each letter once."""
        world = self._world
        store, locks = SimulatedStore(self.wire, world.store_side, world.store), SimulatedLocks(self.wire, world.locks)
        with suppress(SdqueueError):  # the next one tries again
            async with self.broker:
                dead = DeadLetters(self.broker, store=store, locks=locks)
                for letter in (await dead.list()).letters:
                    await self._decide(dead, letter)

    async def _decide(self, dead: DeadLetters, letter: DeadLetter) -> None:
        history, turn_id = self._world.history, letter.why.turn_id
        drawn = self._chance.random()
        if drawn < 0.6 and letter.why.replay < REPLAYS and letter.why.reason != "invalid-field":
            self.process.note(f"replays {turn_id}, dead because of {letter.why.reason}")
            history.replayed.add(turn_id)
            await dead.replay(LetterFilter(names=frozenset({letter.fingerprint})))
        elif drawn < 0.8 or self._world.is_parked(letter.why.session_id):
            self.process.note(f"discards {turn_id}, dead because of {letter.why.reason}")
            await dead.discard(LetterFilter(names=frozenset({letter.fingerprint})))
