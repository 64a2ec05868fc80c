"""ChannelTests: what the tests of a channel have in common, and what a subclass gives them."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from sdqueue.brokers import MemoryBroker, Topology
from sdqueue.client import Client
from sdqueue.messages import OutboundReply
from sdqueue.settings import Settings
from sdqueue_producers.channel import Channel
from sdqueue_producers.outgoing import Address, Outgoing
from sdqueue_producers.registry import ChannelContext
from sdqueue_producers.request import Receipt, Request
from sdqueue_producers.state import MemoryState
from sdqueue_producers.testing.platform import Platform
from sdqueue_producers.testing.samples import Sample


class WatchedState(MemoryState):
    """A memory that counts how often something was changed in it."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    async def set(self, values: Mapping[str, str], *, ttl_s: float | None) -> None:
        """See :class:`~sdqueue_producers.ProducerState`."""
        self.changes += 1
        await super().set(values, ttl_s=ttl_s)

    async def add(self, key: str, value: str, *, ttl_s: float | None) -> bool:
        """See :class:`~sdqueue_producers.ProducerState`."""
        self.changes += 1
        return await super().add(key, value, ttl_s=ttl_s)

    async def delete(self, keys: Sequence[str]) -> None:
        """See :class:`~sdqueue_producers.ProducerState`."""
        self.changes += 1
        await super().delete(keys)


class ChannelTests:
    """What a subclass of :class:`~sdqueue_producers.testing.ChannelSuite` gives, and what its tests use."""

    secrets: ClassVar[Sequence[str]] = ()
    """What must not be seen anywhere: signing secrets, tokens."""

    signs: ClassVar[bool] = True
    """The platform signs its requests, or sends a secret with them: without, no request is a turn."""

    patience_s: ClassVar[float] = 30.0
    """Seconds within which a channel gives up a platform that does not answer, or ends when it is cancelled."""

    def make_channel(self, context: ChannelContext, platform: Platform) -> Channel:
        """A channel that talks to this platform; called several times, as by several processes."""
        raise NotImplementedError

    def samples(self, channel: Channel) -> Sequence[Sample]:
        """Requests of the platform with different messages, also such that are refused. None: it takes no requests.

        Those with turns go first to :meth:`addresses`.
        """
        raise NotImplementedError

    def signed(self, request: Request) -> Request:
        """The request as the platform would sign it, so that the tests come past the signature with bad bodies.

        Default: as it is.
        """
        return request

    async def addresses(self, channel: Channel) -> Sequence[Address]:
        """Where replies go to. Default: the addresses of the samples' turns."""
        return [turn.address for receipt in await self.receipts(channel) for turn in receipt.turns]

    # What the tests use

    @pytest.fixture
    def platform(self) -> Platform:
        """The platform; to be overridden, which may be by a coroutine or a generator."""
        raise NotImplementedError("give the suite a fixture `platform`, such as a FakePlatform")

    @pytest.fixture
    def state(self) -> WatchedState:
        """What the channel may remember in."""
        return WatchedState()

    @pytest.fixture
    async def context(self, state: WatchedState) -> AsyncIterator[ChannelContext]:
        """What the channel is made with."""
        settings = Settings(broker_url="memory://", store_url="memory://", public_url="https://bot.example.com")
        async with MemoryBroker(Topology("suite", 4)) as broker, Client(broker) as client:
            yield ChannelContext(settings, state, client)

    @pytest.fixture
    async def channel(self, context: ChannelContext, platform: Platform) -> AsyncIterator[Channel]:
        """The channel, entered."""
        async with self.make_channel(context, platform) as channel:
            yield channel

    @pytest.fixture(autouse=True)
    def no_secret_in_a_log(self, caplog: pytest.LogCaptureFixture) -> Any:
        """Whatever a test does."""
        caplog.set_level(logging.DEBUG)
        yield
        shown = "".join(record.getMessage() + str(record.exc_info) for record in caplog.get_records("call"))
        self.check_no_secret(shown, "a log")

    def check_no_secret(self, shown: str | bytes, where: str) -> None:
        """Nothing of the suite's ``secrets`` is in a text."""
        text = shown.decode(errors="replace") if isinstance(shown, bytes) else shown
        for secret in self.secrets:
            assert secret not in text, f"a secret is shown in {where}"

    async def receipts(self, channel: Channel) -> list[Receipt]:
        """What the channel reads in the samples that it accepts."""
        accepted = [sample for sample in self.samples(channel) if sample.refused is None]
        return [await channel.receive(sample.request) for sample in accepted]

    async def address(self, channel: Channel) -> Address:
        """One that replies go to; the test is skipped where there is none."""
        found = await self.addresses(channel)
        if not found:
            pytest.skip("no address: neither samples() nor addresses() gives one")
        return json.loads(json.dumps(found[0]))  # as it comes back

    def outgoing(self, channel: Channel, text: str, *, again: bool = False, name: str = "") -> Outgoing:
        """A message to be shown, with an id of its own unless it has a name."""
        name = name or f"suite-{next(_NUMBERS)}"
        reply = OutboundReply(
            id=f"{name}:0", turn_id=name, session_id="suite", seq=1, kind="final", text=text, channel=channel.name
        )
        return Outgoing(reply, text, again=again)


_NUMBERS = itertools.count(1)
