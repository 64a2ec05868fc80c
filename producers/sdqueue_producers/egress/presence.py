"""Presence: lets the other processes of a channel know that this one is there, until it is gone."""

from __future__ import annotations

import asyncio
from typing import Final

from sdqueue_producers.egress.patient import PatientState

LIFE_S: Final = 3.0
"""A process that was not heard of for so long is dead, or asleep: nobody waits for it any more."""

RENEWED_S: Final = 1.0


class Presence:
    """Announces a process, so that a call that it is in the middle of is waited for.

    A process may lose the broker, and with it all its replies to another one, while it shows one of them.

    Parameters:
        state: where it is announced.
        channel: whose process it is.
    """

    def __init__(self, state: PatientState, channel: str) -> None:
        self._state = state
        self._key = presence_key(channel, state.name)

    async def run(self) -> None:
        """Announce it, until cancelled."""
        while True:
            await self._state.set({self._key: "1"}, ttl_s=LIFE_S)
            await asyncio.sleep(RENEWED_S)


def presence_key(channel: str, name: str) -> str:
    """Where it is kept that a process is there."""
    return f"{channel}:present:{name}"
