"""The web chat passes the suite of all channels; its platform is its feed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from sdqueue.errors import StoreUnavailable
from sdqueue_producers import Address, Channel, ChannelContext
from sdqueue_producers.testing import ChannelSuite, Platform, Sample, Trouble
from sdqueue_producers.webchat import WebchatChannel
from sdqueue_producers.webchat.feed import Draft, MemoryFeed
from tests.producers.webchat.stand import BACKEND, SECRET, settings_of


class TroubledFeed(MemoryFeed):
    """A feed that is away, cut off before or after it has done something, or silent, as Redis may be."""

    retry_after_s = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._trouble = Trouble.NONE

    @property
    def messages(self) -> Mapping[str, str]:
        bodies = {slot: json.loads(entry.body) for log in self._logs.values() for slot, entry in log.entries.items()}
        return {slot: body["text"] for slot, body in bodies.items() if "text" in body}

    async def set_trouble(self, trouble: Trouble) -> None:
        if trouble in (Trouble.TOO_MANY, Trouble.REFUSED):
            pytest.skip("a feed refuses nothing")
        self._trouble = trouble

    async def add(self, session_id: str, draft: Draft) -> bool:
        if self._trouble is Trouble.NONE:
            return await super().add(session_id, draft)
        if self._trouble is Trouble.CUT_AFTER:
            await super().add(session_id, draft)
        if self._trouble is Trouble.SILENT:
            await asyncio.sleep(1)  # Redis's link and SQLite give up by themselves
        raise StoreUnavailable("the feed cannot be reached")


class TestWebchat(ChannelSuite):
    secrets = (SECRET, BACKEND)

    @pytest.fixture
    def platform(self) -> TroubledFeed:
        return TroubledFeed()

    def make_channel(self, context: ChannelContext, platform: Platform) -> Channel:
        assert isinstance(platform, TroubledFeed)
        return WebchatChannel(settings_of(), context, platform)

    def samples(self, channel: Channel) -> Sequence[Sample]:
        return ()

    async def addresses(self, channel: Channel) -> Sequence[Address]:
        address: Any = {"session": "webchat:main:ann"}
        return [address]
