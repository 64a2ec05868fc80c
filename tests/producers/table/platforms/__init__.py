"""The platforms, by name, alone or those together that one producer can serve."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tests.producers.table.platforms.openai import OpenAIDoor
from tests.producers.table.platforms.platform import Platform
from tests.producers.table.platforms.slack import SlackHttp, SlackSocket, SlackStream, TimedSlack, slack_pair
from tests.producers.table.platforms.telegram import TelegramPolling, TelegramWebhook
from tests.producers.table.platforms.webchat import WebChat
from tests.producers.table.platforms.webhook import WebhookCallback, WebhookHold

Make = Callable[[str, random.Random], Sequence[Platform]]
"""Makes platforms for one producer, whose address is given."""

ALONE: Final[Mapping[str, Make]] = {
    "slack-http": lambda url, chance: [SlackHttp(url, chance, TimedSlack())],
    "slack-stream": lambda url, chance: [SlackStream(url, chance, TimedSlack())],
    "slack-socket": lambda url, chance: [SlackSocket(url, chance, TimedSlack())],
    "webhook-hold": lambda url, chance: [WebhookHold(url, chance)],
    "webhook-callback": lambda url, chance: [WebhookCallback(url, chance)],
    "openai": lambda url, chance: [OpenAIDoor(url, chance)],
    "telegram-webhook": lambda url, chance: [TelegramWebhook(url, chance)],
    "telegram-polling": lambda url, chance: [TelegramPolling(url, chance)],
    "webchat": lambda url, chance: [WebChat(url, chance)],
}


def together(url: str, chance: random.Random) -> Sequence[Platform]:
    """All that one producer can serve at once."""
    return [
        *slack_pair(url, chance),
        WebhookHold(url, chance),
        WebhookCallback(url, chance),
        OpenAIDoor(url, chance),
        TelegramWebhook(url, chance),
        WebChat(url, chance),
    ]


def otherwise(url: str, chance: random.Random) -> Sequence[Platform]:
    """Those that a producer has in place of others: Telegram's long polling, and streams in Slack."""
    return [TelegramPolling(url, chance), SlackStream(url, chance, TimedSlack())]


__all__ = ["ALONE", "Make", "Platform", "otherwise", "together"]
