"""Users: each says the next thing once the platform has taken the one before, and the platform repeats it later."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from tests.producers.table.observations import Sent
from tests.producers.table.platforms.platform import Platform, pause

UNANSWERED: Final = 3
"""So many messages without an answer a user has at most; more would only wait for a platform's rate limit."""

REPEATS: Final = (1, 3)
"""Every message comes so many times more."""

REPEATED_S: Final = (0.0, 3.0)
"""Seconds after which a repeat comes, with later messages before it."""

ACCEPTED_S: Final = 90.0
"""Seconds after which a message that is not accepted is lost."""

THINKS_S: Final = (0.0, 0.15)


class Users:
    """The users of one platform.

    Parameters:
        platform: theirs.
        conversations: one user each.
        chance: everything random.
    """

    def __init__(self, platform: Platform, conversations: Sequence[int], chance: random.Random) -> None:
        self.platform = platform
        self.conversations = conversations
        self.sent: list[Sent] = []
        self._chance = chance

    async def talk(self, goes_on: Callable[[int], bool]) -> None:
        """Talk until ``goes_on(number of the next message)`` is false, and until all repeats were sent."""
        async with asyncio.TaskGroup() as tasks:
            for conversation in self.conversations:
                tasks.create_task(self._talk(conversation, goes_on, tasks))

    @property
    def unanswered(self) -> set[str]:
        """The marks of accepted messages without a visible answer."""
        answered = {shown.text.rpartition(" ")[2] for shown in self.platform.visible()}
        return {sent.mark for sent in self.sent if sent.accepted} - answered

    async def _talk(self, conversation: int, goes_on: Callable[[int], bool], tasks: asyncio.TaskGroup) -> None:
        number = 0
        while goes_on(number):
            mark, at = self.platform.mark(conversation, number), time.monotonic()
            accepted = await self._bring(conversation, number, at + ACCEPTED_S)
            self.sent.append(Sent(mark, str(conversation), at, accepted))
            if not accepted:
                return
            for _ in range(self._chance.randint(*REPEATS)):
                tasks.create_task(self._repeat(conversation, number))
            number += 1
            await pause(self._chance.uniform(*THINKS_S))
            own = f"{self.platform.name}.{conversation}."
            while goes_on(number) and sum(mark.startswith(own) for mark in self.unanswered) >= UNANSWERED:
                await pause(0.1)

    async def _bring(self, conversation: int, number: int, until: float) -> bool:
        while not await self.platform.send(conversation, number):
            if time.monotonic() > until:
                return False
            await pause(self._chance.uniform(0.05, 0.2))
        return True

    async def _repeat(self, conversation: int, number: int) -> None:
        await pause(self._chance.uniform(*REPEATED_S))
        await self.platform.send(conversation, number)
