"""Telegram by webhook, and by long polling."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Final

from tests.producers.table.observations import Shown
from tests.producers.table.platforms.platform import Platform, pause
from tests.producers.telegram.server import TOKEN, FakeTelegram, Refusal, message

SECRET: Final = "a-secret-of-the-webhook"
FAULTS: Final = (
    Refusal(429, "Too Many Requests", retry_after=1),
    Refusal(500),
    "cut before",
    "cut after",
    "fail after",
)


class TimedTelegram(FakeTelegram):
    """A Telegram that knows when a message came to be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen_at: list[float] = []

    async def _sendMessage(self, params: dict[str, Any]) -> Any:
        before = len(self.messages)
        result = await super()._sendMessage(params)
        if len(self.messages) > before:
            self.seen_at.append(time.monotonic())
        return result


class _Telegram(Platform):
    channel = "telegram"
    sessions = "telegram:bot:"
    may_double = True
    mode: ClassVar[str]

    def __init__(self, url: str, chance: random.Random) -> None:
        super().__init__(url, chance)
        self.telegram = TimedTelegram()
        self._updates: dict[str, dict[str, Any]] = {}
        # Unlike others of an earlier run on the same servers: a bot's updates have one sequence.
        self._numbers = itertools.count(int(time.time() * 10))

    async def open(self, stack: AsyncExitStack) -> None:
        await super().open(stack)
        await stack.enter_async_context(self.telegram)
        self.telegram.fail("sendMessage", *self.faults(5000, *FAULTS, good=None))

    def settings(self) -> Mapping[str, str]:
        return {
            "SDQUEUE_TELEGRAM_TOKEN": TOKEN,
            "SDQUEUE_TELEGRAM_MODE": self.mode,
            "SDQUEUE_TELEGRAM_API_URL": self.telegram.url,
            "SDQUEUE_TELEGRAM_STREAM": "false",
            "SDQUEUE_TELEGRAM_SECRET_TOKEN": SECRET,
            "SDQUEUE_TELEGRAM_POLL_TIMEOUT_S": "1",
        }

    def update(self, conversation: int, number: int) -> dict[str, Any]:
        """The update of a message, with the same number however often it comes."""
        mark = self.mark(conversation, number)
        if mark not in self._updates:
            self._updates[mark] = message(next(self._numbers), f"say {mark}", chat=conversation)
        return self._updates[mark]

    def visible(self) -> tuple[Shown, ...]:
        shown = zip(self.telegram.messages.values(), self.telegram.seen_at, strict=True)
        return tuple(Shown(str(one.chat), one.text, at) for one, at in shown)


class TelegramWebhook(_Telegram):
    """Telegram posts until it is answered with 200."""

    name = "telegram-webhook"
    mode = "webhook"

    async def send(self, conversation: int, number: int) -> bool:
        body = json.dumps(self.update(conversation, number)).encode()
        headers = {"content-type": "application/json", "x-telegram-bot-api-secret-token": SECRET}
        return (await self.post("/telegram/bot", body, headers))[0] == 200


class TelegramPolling(_Telegram):
    """An update waits until it is confirmed by the offset of a later request."""

    name = "telegram-polling"
    mode = "polling"

    async def send(self, conversation: int, number: int) -> bool:
        update = self.update(conversation, number)
        await self.telegram.tell(update)
        while update["update_id"] in self.telegram.waiting:
            await pause(0.02)
        return True
