"""Telegram passes the suite of all channels."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr
from sdqueue_producers import Address, Channel, ChannelContext, Request
from sdqueue_producers.telegram import TelegramChannel, TelegramSettings
from sdqueue_producers.testing import ChannelSuite, FakePlatform, Platform, Sample, Trouble
from sdqueue_producers.testing.platform import Call

from tests.producers.telegram.conftest import SECRET, post
from tests.producers.telegram.server import TOKEN, USERNAME, message
from tests.producers.testing.limited import Limited


class BotApi(FakePlatform):
    """As much of the Bot API as the channel calls."""

    async def answer(self, call: Call) -> web.StreamResponse:
        method, params = call.path.rpartition("/")[2], json.loads(call.body)
        if method == "getMe":
            return _good({"id": 4242, "is_bot": True, "username": USERNAME})
        if method == "sendMessage":
            number = str(100 + len(self.messages))
        elif method == "editMessageText":
            number = str(params["message_id"])
        else:
            return _good(True)
        self.messages[number] = params["text"]
        return _good({"message_id": int(number)})

    async def refuse(self, trouble: Trouble, call: Call) -> web.StreamResponse:
        match trouble:
            case Trouble.TOO_MANY:
                told: dict[str, Any] = {"parameters": {"retry_after": int(self.retry_after_s)}}
                return web.json_response({"ok": False, "error_code": 429, "description": "Too Many"} | told, status=429)
            case Trouble.REFUSED:
                gone = {"ok": False, "error_code": 400, "description": "Bad Request: chat not found"}
                return web.json_response(gone, status=400)
        return await super().refuse(trouble, call)


def _good(result: Any) -> web.Response:
    return web.json_response({"ok": True, "result": result})


class TestTelegram(Limited, ChannelSuite):
    secrets = (SECRET, TOKEN)

    @pytest.fixture
    async def platform(self) -> AsyncIterator[BotApi]:
        async with BotApi() as platform:
            yield platform

    def make_channel(self, context: ChannelContext, platform: Platform) -> Channel:
        assert isinstance(platform, BotApi)
        settings = TelegramSettings(
            api_url=platform.url, token=SecretStr(TOKEN), secret_token=SecretStr(SECRET), call_timeout_s=self.limit_s
        )
        return TelegramChannel(settings, context)

    def samples(self, channel: Channel) -> Sequence[Sample]:
        mention = {"type": "mention", "offset": 0, "length": len(USERNAME) + 1}
        replied = {"message_id": 3, "from": {"id": 4242, "is_bot": True}, "chat": {"id": -9, "type": "group"}}
        return [
            Sample(post(message(1, "hello"))),
            Sample(post(message(2, f"@{USERNAME} hi", chat=-9, kind="group", entities=[mention]))),
            Sample(post(message(3, "and then?", chat=-9, kind="group", reply_to_message=replied))),
            Sample(post(message(4, None, photo=[{"file_id": "f", "file_size": 3}], caption="see"))),
            Sample(post(message(5, "among people", chat=-9, kind="group")), turns=0),
            Sample(post(message(6, "hello"), secret=SECRET[:-1]), refused=401),
            Sample(post(message(7, "hello"), secret=None), refused=401),
        ]

    async def addresses(self, channel: Channel) -> Sequence[Address]:
        found = [turn.address for receipt in await self.receipts(channel) for turn in receipt.turns]
        assert isinstance(found[0], dict)
        return found

    def signed(self, request: Request) -> Request:
        return request
