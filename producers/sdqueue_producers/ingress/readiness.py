"""Readiness: whether turns can be handed over now."""

from __future__ import annotations

import asyncio
from typing import Final

from sdqueue.client import Client
from sdqueue.errors import SdqueueError

FRESH_S: Final = 1.0
"""Seconds that an answer holds, so that no stranger can load the broker with questions."""

ASK_S: Final = 2.0


class Readiness:
    """Asks the broker, at most once in :data:`FRESH_S`, whoever wants to know.

    Parameters:
        client: has the broker.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = asyncio.Lock()
        self._asked_at = float("-inf")
        self._error: str | None = None

    async def look(self) -> str | None:
        """Why turns cannot be handed over, ``None`` where they can."""
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if clock() - self._asked_at >= FRESH_S:
                try:
                    await self._client.check(timeout=ASK_S)
                except SdqueueError as error:
                    self._error = str(error)
                else:
                    self._error = None
                self._asked_at = clock()
            return self._error
