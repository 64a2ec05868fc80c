"""Platform: what a user says and sees on one platform, for users who are all alike; and Side, what several share."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Final

import aiohttp

from tests.producers.table.observations import Shown

FAULTY: Final = 0.25
"""The part of a producer's calls that a platform does not answer as it should."""

TRY_S: Final = 30.0
"""Seconds after which a user gives up one try, to make another one."""


class Platform(ABC):
    """One platform.

    Parameters:
        url: where the producer listens.
        chance: everything random.
    """

    name: ClassVar[str]
    channel: ClassVar[str]
    sessions: ClassVar[str]
    """How the session ids of its users begin."""
    may_double: ClassVar[bool] = False
    """Neither the platform nor who receives it recognises a repeat, and nobody can be asked."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self.url = url
        self.chance = chance
        self.shown: list[Shown] = []
        self.strange: list[str] = []
        self.http: aiohttp.ClientSession

    async def open(self, stack: AsyncExitStack) -> None:
        """Begin; ends with the stack. Overridden by those that have servers of their own."""
        # A connection for each request: a client that uses one again may send into one that has just died.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        self.http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TRY_S))
        )

    @abstractmethod
    def settings(self) -> Mapping[str, str]:
        """Of the producer; what is JSON is merged with that of other platforms of the same process."""

    @abstractmethod
    async def send(self, conversation: int, number: int) -> bool:
        """One try of a user, or of the platform for it, to bring a message; whether it was accepted.

        It may be called again at any time for a message that was accepted before.
        """

    def session(self, conversation: int) -> str:
        """The session id of a conversation."""
        return f"{self.sessions}{conversation}"

    def mark(self, conversation: int, number: int) -> str:
        """What names a message."""
        return f"{self.name}.{conversation}.{number}"

    def visible(self) -> tuple[Shown, ...]:
        """What users see now, in order within each conversation."""
        return tuple(self.shown)

    def show(self, conversation: int | str, text: str) -> None:
        """A user sees an answer."""
        self.shown.append(Shown(str(conversation), text, time.monotonic()))

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        """A request to the producer: its status, and its body where it is JSON; 0 where there is no answer.

        A producer that dies gives no answer, one that cannot take it says 503; anything else but 2xx is strange.
        """
        try:
            async with self.http.post(self.url + path, data=body, headers=dict(headers)) as response:
                text = await response.text()
                if response.status >= 300 and response.status != 503:
                    self.strange.append(f"{path} was answered with {response.status}: {text[:200]}")
                is_json = response.content_type == "application/json"
                return response.status, await response.json() if is_json else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, None

    def faults(self, count: int, *kinds: Any, good: Any) -> list[Any]:
        """What becomes of the next calls of the producer: at random, mostly ``good``."""
        return [self.chance.choice(kinds) if self.chance.random() < FAULTY else good for _ in range(count)]


async def pause(seconds: float) -> None:
    """Users and platforms wait between two tries; there is nothing to wait for."""
    await asyncio.sleep(seconds)
