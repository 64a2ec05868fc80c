"""Poller: one bot's messages by long polling, by one process at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn
from uuid import uuid4

from sdqueue.errors import SdqueueError
from sdqueue_producers.state import ProducerState
from sdqueue_producers.telegram.api import BotApi, Refused
from sdqueue_producers.telegram.delivering import LONGEST_WAIT_S
from sdqueue_producers.telegram.update import ALLOWED

log = logging.getLogger(__name__)

LEASE_S: Final = 15.0
"""Seconds after which another process may poll when the one that did says nothing more."""

RENEW_S: Final = 4.0
CONFLICT_WAIT_S: Final = 5.0
MAX_WAIT_S: Final = 30.0

Take = Callable[[Any], Awaitable[None]]
"""Publishes an update; returns when it is confirmed."""


class LeaseLost(SdqueueError):
    """Another process polls for this bot now."""


class Poller:
    """Asks for messages, publishes each with the broker's confirm, and only then lets Telegram forget it.

    That only one process asks is a matter of manners: Telegram ends the request of one of two with 409, and an update
    that both get is one turn by its id.

    Parameters:
        name: the bot's.
        api: its calls.
        state: where processes agree on who polls.
        take: publishes an update.
        wait_s: seconds that one request waits for messages.
    """

    def __init__(self, name: str, api: BotApi, state: ProducerState, take: Take, wait_s: int) -> None:
        self._name = name
        self._api = api
        self._state = state
        self._take = take
        self._wait_s = wait_s
        self._key = f"telegram:poller:{name}"
        self._me = uuid4().hex

    async def run(self) -> NoReturn:
        """Poll until cancelled, whatever happens."""
        failures = 0
        while True:
            try:
                if await self._state.add(self._key, self._me, ttl_s=LEASE_S):
                    await self._lead()
                await asyncio.sleep(RENEW_S)  # somebody else polls
            except SdqueueError as error:
                conflict = isinstance(error, Refused) and error.code == 409
                failures = 1 if conflict or isinstance(error, LeaseLost) else failures + 1
                wait_s = _wait_after(error, failures)
                log.warning("Telegram bot %s is asked again in %.1f s: %s", self._name, wait_s, error)
                await asyncio.sleep(wait_s)

    async def _lead(self) -> None:
        """Poll until something fails."""
        polling, renewing = asyncio.ensure_future(self._poll()), asyncio.ensure_future(self._renew())
        try:
            done, _ = await asyncio.wait({polling, renewing}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            polling.cancel()
            renewing.cancel()
            await asyncio.wait({polling, renewing})
            if renewing.cancelled():  # else it has just found out that somebody else leads, or nobody can tell
                await self._state.delete([self._key])

    async def _renew(self) -> NoReturn:
        while True:
            await asyncio.sleep(RENEW_S)
            (holder,) = await self._state.get([self._key])
            if holder not in (None, self._me):
                raise LeaseLost(f"another process polls for Telegram bot {self._name!r} by now")
            await self._state.set({self._key: self._me}, ttl_s=LEASE_S)

    async def _poll(self) -> NoReturn:
        await self._api.call("deleteWebhook", {})  # with a webhook there is no polling; what waits is kept
        offset: int | None = None
        while True:
            updates = await self._api.call(
                "getUpdates",
                {"offset": offset, "timeout": self._wait_s, "allowed_updates": ALLOWED},
                wait_s=self._wait_s,
            )
            for update in updates or ():
                await self._take(update)
                offset = max(offset or 0, update["update_id"] + 1)


def _wait_after(error: SdqueueError, failures: int) -> float:
    if isinstance(error, Refused) and error.code == 409:
        return CONFLICT_WAIT_S
    told = error.parameters.get("retry_after") if isinstance(error, Refused) else None
    if isinstance(told, int) and told > 0:
        return float(min(told, LONGEST_WAIT_S))
    return min(MAX_WAIT_S, 0.5 * float(2 ** min(failures, 10)))
