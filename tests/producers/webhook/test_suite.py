"""Webhooks pass the suite of all channels; their platform is the receiver of callbacks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from aiohttp import web
from sdqueue_producers import Channel, ChannelContext, Request
from sdqueue_producers.testing import ChannelSuite, FakePlatform, Platform, Sample, Trouble
from sdqueue_producers.testing.platform import Call
from sdqueue_producers.webhook import WebhookChannel, WebhookSettings

from tests.producers.testing.limited import Limited
from tests.producers.webhook.tools import OTHER_SECRET, SECRET, TOKEN, question, signed, signed_headers


class Receiver(FakePlatform):
    """Knows a repeat by its ``webhook-id``, as receivers must."""

    async def answer(self, call: Call) -> web.StreamResponse:
        self.messages[call.headers["webhook-id"]] = json.loads(call.body)["text"]
        return web.Response(status=204)

    async def set_trouble(self, trouble: Trouble) -> None:
        if trouble is Trouble.REFUSED:
            pytest.skip("by the published schedule all but 410 is tried again, and after 410 nothing is sent")
        await super().set_trouble(trouble)

    async def refuse(self, trouble: Trouble, call: Call) -> web.StreamResponse:
        if trouble is Trouble.NONSENSE:  # any 2xx is a receiver's yes, whatever page it shows
            return web.Response(status=302, headers={"Location": "/login"})
        return await super().refuse(trouble, call)


class TestWebhook(Limited, ChannelSuite):
    secrets = (SECRET.removeprefix("whsec_"), OTHER_SECRET.removeprefix("whsec_"), TOKEN)

    @pytest.fixture
    async def platform(self) -> AsyncIterator[Receiver]:
        async with Receiver() as platform:
            yield platform

    def make_channel(self, context: ChannelContext, platform: Platform) -> Channel:
        assert isinstance(platform, Receiver)
        endpoint = {
            "secrets": [SECRET],
            "callback_url": platform.url,
            "callback_secrets": [OTHER_SECRET],
            "callback_timeout_s": self.limit_s,
            "allow_http": True,
            "allow_networks": ["127.0.0.0/8"],
        }
        return WebhookChannel(context, WebhookSettings.load(endpoints={"crm": endpoint}))

    def samples(self, channel: Channel) -> Sequence[Sample]:
        unsigned = signed(id_="evt_5")
        return [
            Sample(signed({"session_id": "a", "text": "hello"})),
            Sample(signed({"session_id": "a", "text": "x", "metadata": {"k": [1]}, "stream": True}, id_="evt_2")),
            Sample(signed({"session_id": "b", "text": "", "kind": "reset"}, id_="evt_3", prefer="wait=5")),
            Sample(signed({"session_id": "b", "text": "y"}, id_="evt_4", accept="text/event-stream")),
            Sample(signed(secret=OTHER_SECRET, id_="evt_5"), refused=401),
            Sample(replace(unsigned, headers={"content-type": "application/json"}), refused=401),
            Sample(question("evt_6"), refused=404),
        ]

    def signed(self, request: Request) -> Request:
        try:
            request.body.decode()
        except UnicodeDecodeError:
            return request
        again = signed_headers(request.body, id_=request.headers.get("webhook-id", "evt_1"))
        return replace(request, headers={**request.headers, **again, **_type(request)})


def _type(request: Request) -> dict[str, str]:
    return {"content-type": request.headers["content-type"]} if "content-type" in request.headers else {}
