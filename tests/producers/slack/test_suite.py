"""Slack passes the suite of all channels."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from sdqueue_producers import Channel, ChannelContext, Request
from sdqueue_producers.slack import SlackChannel, SlackSettings
from sdqueue_producers.testing import ChannelSuite, FakePlatform, Platform, Sample, Trouble
from sdqueue_producers.testing.platform import Call

from tests.producers.slack import payloads as p
from tests.producers.testing.limited import Limited

TOKEN = "xoxb-token-of-the-tests"


class WebApi(FakePlatform):
    """As much of Slack's Web API as the channel calls."""

    def __init__(self) -> None:
        super().__init__()
        self.metadata: dict[str, Any] = {}

    async def answer(self, call: Call) -> web.StreamResponse:
        fields = _fields(call)
        match call.path.rpartition("/")[2]:
            case "chat.postMessage" | "chat.startStream":
                ts = f"1700001000.{len(self.messages):06d}"
                self._show(ts, fields)
            case "chat.update":
                ts = fields["ts"]
                self._show(ts, fields)
            case "chat.appendStream" | "chat.stopStream":
                ts = fields["ts"]
                self._show(ts, fields, self.messages[ts])
            case "conversations.replies" | "conversations.history":
                shown = [{"ts": ts, "text": text, "metadata": self.metadata[ts]} for ts, text in self.messages.items()]
                return web.json_response({"ok": True, "messages": shown, "has_more": False})
            case _:
                return web.json_response({"ok": True})
        return web.json_response({"ok": True, "channel": fields["channel"], "ts": ts})

    def _show(self, ts: str, fields: dict[str, Any], before: str = "") -> None:
        self.messages[ts] = before + fields.get("markdown_text", "")
        metadata = fields.get("metadata")
        self.metadata[ts] = json.loads(metadata) if isinstance(metadata, str) else metadata

    async def refuse(self, trouble: Trouble, call: Call) -> web.StreamResponse:
        match trouble:
            case Trouble.TOO_MANY:
                told = {"Retry-After": f"{self.retry_after_s:g}"}
                return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers=told)
            case Trouble.REFUSED:
                return web.json_response({"ok": False, "error": "channel_not_found"})
        return await super().refuse(trouble, call)


def _fields(call: Call) -> dict[str, Any]:
    if call.headers.get("content-type", "").startswith("application/json"):
        fields: dict[str, Any] = json.loads(call.body)
        return fields
    return dict(parse_qsl(call.body.decode())) | dict(call.query)


class TestSlack(Limited, ChannelSuite):
    secrets = (p.SECRET, TOKEN, "secret-response", "verification-token")

    @pytest.fixture
    async def platform(self) -> AsyncIterator[WebApi]:
        async with WebApi() as platform:
            yield platform

    def make_channel(self, context: ChannelContext, platform: Platform) -> Channel:
        assert isinstance(platform, WebApi)
        told = {
            "signing_secret": p.SECRET,
            "bot_token": TOKEN,
            "api_url": f"{platform.url}/api/",
            "api_timeout_s": self.limit_s,
        }
        return SlackChannel(SlackSettings.load(**told), context.state)

    def samples(self, channel: Channel) -> Sequence[Sample]:
        both = p.message(f"<@{p.BOT}> hello")
        command = p.form_request(p.command())
        return [
            Sample(p.event_request(p.app_mention()), repeats=[p.event_request(both, x_slack_retry_num="1")]),
            Sample(p.event_request(p.direct(ts="1700000002.000100", client_msg_id="22222222-2222-4333-8444-5"))),
            Sample(p.event_request(p.file_share(ts="1700000003.000100", client_msg_id="33333333-2222-4333-8444-5"))),
            Sample(p.event_request(p.shared_channel(ts="1700000004.000100", client_msg_id="44444444-2222"))),
            Sample(command),
            Sample(p.event_request(p.url_verification()), turns=0),
            Sample(p.event_request(p.bot_message()), turns=0),
            Sample(p.event_request(p.message_changed()), turns=0),
            Sample(p.form_request(p.interaction(), "/slack/interactions"), turns=0),
            Sample(p.event_request(p.direct(), at=1_700_000_000), refused=401),
            Sample(p.signed(b"{}", secret="another"), refused=401),
        ]

    def signed(self, request: Request) -> Request:
        again = p.signed(request.body, path=request.path).headers
        kept = {name: value for name, value in again.items() if name != "content-type"}
        return replace(request, headers={**request.headers, **kept})
