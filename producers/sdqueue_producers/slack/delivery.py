"""A stand-in until delivering is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

from slack_sdk.web.async_client import AsyncWebClient

from sdqueue_producers.channel import BaseChannel, Caps


class SlackDelivery(BaseChannel):
    """Delivers nothing."""

    caps: ClassVar[Caps] = Caps()  # type: ignore[misc]

    def __init__(self, clients: Callable[[str], Awaitable[AsyncWebClient]]) -> None:
        self.clients = clients
