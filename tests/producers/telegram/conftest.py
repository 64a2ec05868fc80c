"""A channel and the Bot API that it talks to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr
from sdqueue_producers import ChannelContext, MemoryState, Outgoing, Request
from sdqueue_producers.telegram import TelegramChannel, TelegramSettings

from sdqueue.brokers import MemoryBroker, MemoryServer, Topology
from sdqueue.client import Client
from sdqueue.messages import OutboundReply
from sdqueue.settings import Settings
from tests.producers.telegram.server import TOKEN, FakeTelegram

SECRET = "secret-of-the-tests-01"


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram() as server:
        yield server


def made(telegram: FakeTelegram, state: MemoryState | None = None, **settings: Any) -> TelegramChannel:
    """A channel that calls the tests' Bot API."""
    settings = {"token": SecretStr(TOKEN), "secret_token": SecretStr(SECRET), "call_timeout_s": 30.0} | settings
    public_url = settings.pop("public_url", "")
    client = Client(MemoryBroker(Topology("telegram", partitions=4), MemoryServer()))
    context = ChannelContext(Settings(public_url=public_url), state or MemoryState(), client)
    return TelegramChannel(TelegramSettings(api_url=telegram.url, **settings), context)


@pytest.fixture
async def channel(telegram: FakeTelegram) -> AsyncIterator[TelegramChannel]:
    async with made(telegram) as channel:
        yield channel


def post(body: Any, *, bot: str = "bot", secret: str | None = SECRET, **headers: str) -> Request:
    """A post of Telegram's."""
    given = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if secret is not None:
        given["x-telegram-bot-api-secret-token"] = secret
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request("POST", f"/telegram/{bot}", headers=given, body=raw)


def address(chat: int = 7, kind: str = "private", topic: int | None = None) -> dict[str, Any]:
    """Where a reply goes."""
    return {"bot": "bot", "chat": chat, "type": kind, "topic": topic, "message": 101}


def outgoing(text: str, *, kind: Any = "final", part: int = 0) -> Outgoing:
    """A reply on its way out."""
    reply = OutboundReply(id="t:0", turn_id="t", session_id="s", seq=1, kind=kind, text=text, channel="telegram")
    return Outgoing(reply, text, part=part)
