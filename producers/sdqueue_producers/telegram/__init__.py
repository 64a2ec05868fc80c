"""Telegram: bots that are told of messages by a webhook, or ask for them by long polling."""

from sdqueue_producers.telegram.channel import TelegramChannel, make_channel
from sdqueue_producers.telegram.settings import TelegramSettings

__all__ = ["TelegramChannel", "TelegramSettings", "make_channel"]
