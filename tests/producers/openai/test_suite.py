"""The front door of OpenAI's API passes the suite of all channels. Replies are the responses: there is no platform."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp import web
from sdqueue_producers import Address, Channel, ChannelContext, Request
from sdqueue_producers.openai import OpenAIChannel
from sdqueue_producers.testing import ChannelSuite, FakePlatform, Platform, Sample
from sdqueue_producers.testing.platform import Call

from tests.producers.openai.front import ALICE, BOB, settings

HELLO = [{"role": "user", "content": "hello"}]


class Nobody(FakePlatform):
    """Is not called."""

    async def answer(self, call: Call) -> web.StreamResponse:
        raise AssertionError(f"{call.path} was called")


def ask(path: str, body: dict[str, Any], *, key: str = ALICE, **headers: str) -> Request:
    """A question with an id of its own, so that a repeat is known."""
    told = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("POST", path, headers=told, body=json.dumps(body).encode())


class TestOpenAI(ChannelSuite):
    secrets = (ALICE, BOB)

    @pytest.fixture
    async def platform(self) -> AsyncIterator[Nobody]:
        async with Nobody() as platform:
            yield platform

    def make_channel(self, context: ChannelContext, platform: Platform) -> Channel:
        return OpenAIChannel(settings(), context)

    def samples(self, channel: Channel) -> Sequence[Sample]:
        chat, responses = "/v1/chat/completions", "/v1/responses"
        question = {"model": "sdqueue", "messages": HELLO, "stream_options": {"include_usage": True}}
        typed = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}], "metadata": {"a": "b"}}
        return [
            Sample(ask(chat, question, x_session_id="s", idempotency_key="1")),
            Sample(ask(chat, question, x_session_id="s", idempotency_key="2")),
            Sample(ask(chat, question, key=BOB, x_session_id="s", idempotency_key="1")),
            Sample(ask(chat, {**question, "user": "ann", "stream": True}, idempotency_key="3")),
            Sample(ask(responses, {"input": "hello", "conversation": "c"}, idempotency_key="4")),
            Sample(ask(responses, {"input": "hello", "text": {"format": {"type": "text"}}}, idempotency_key="5")),
            Sample(ask(responses, {**typed, "conversation": {"id": "c"}, "stream": True}, idempotency_key="6")),
            Sample(ask(chat, question, key="sk-somebody-else-0123", idempotency_key="7"), refused=401),
            Sample(ask(chat, question, idempotency_key="8"), refused=400),
        ]

    async def addresses(self, channel: Channel) -> Sequence[Address]:
        return ()
