"""SendingTests: how a channel must show replies, whatever its platform does."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest

from sdqueue_producers.channel import Bucket, Channel
from sdqueue_producers.errors import Ambiguous, DeliveryError, Permanent, RetryAfter
from sdqueue_producers.outgoing import Address, Ref, Sent
from sdqueue_producers.testing.channel_base import ChannelTests
from sdqueue_producers.testing.platform import Platform, Trouble

HELLO = "Hello there, how are you"
LONGEST = 100_000
"""Characters of a text for a channel that has no limit, which says so by a large ``max_chars``."""

EXPECTED: dict[Trouble, tuple[type[DeliveryError], ...]] = {
    Trouble.TOO_MANY: (RetryAfter,),
    Trouble.BROKEN: (RetryAfter, Ambiguous),  # a fault may have come before or after the message
    Trouble.REFUSED: (Permanent,),
    Trouble.CUT: (Ambiguous,),
    Trouble.CUT_AFTER: (Ambiguous,),
    Trouble.NONSENSE: (RetryAfter, Permanent, Ambiguous),
    Trouble.AWAY: (RetryAfter,),
}
"""What a channel may raise in each trouble. A channel whose calls may be repeated at will may raise RetryAfter as
well where it could not know."""


class SendingTests(ChannelTests):
    """A part of :class:`~sdqueue_producers.testing.ChannelSuite`."""

    async def test_a_message_is_shown(self, channel: Channel, platform: Platform) -> None:
        address = await self.address(channel)
        for text in (HELLO, "é ü 漢字 🤖", "two\nlines", "x"):
            before = set(platform.messages)
            sent = await channel.deliver(address, self.outgoing(channel, text))
            assert isinstance(sent, Sent)
            assert json.loads(json.dumps(sent.ref)) == sent.ref, "a ref is kept as JSON"
            (new,) = set(platform.messages) - before
            assert text in platform.messages[new]

    async def test_a_message_of_full_length_is_shown(self, channel: Channel, platform: Platform) -> None:
        """``caps.max_chars``, also of characters that are more than one elsewhere."""
        address = await self.address(channel)
        for character in ("w", "ü", "🤖"):
            text = character * min(channel.caps.max_chars, LONGEST)
            await channel.deliver(address, self.outgoing(channel, text))
            assert any(text in shown for shown in platform.messages.values())

    @pytest.mark.parametrize("trouble", EXPECTED, ids=lambda trouble: trouble.name.lower())
    async def test_a_delivery_in_trouble(self, trouble: Trouble, channel: Channel, platform: Platform) -> None:
        """The three errors say what the egress may do next; and afterwards the channel delivers again."""
        address = await self.address(channel)
        outgoing = self.outgoing(channel, HELLO)
        await platform.set_trouble(trouble)
        error = await self._error(lambda: channel.deliver(address, outgoing))
        self._check(error, trouble, channel, address, platform, repeatable=channel.caps.idempotent)
        await platform.set_trouble(Trouble.NONE)
        await channel.deliver(address, self.outgoing(channel, "afterwards"))
        assert any("afterwards" in shown for shown in platform.messages.values())

    async def test_a_delivery_that_is_cancelled_ends(self, channel: Channel, platform: Platform) -> None:
        address = await self.address(channel)
        await platform.set_trouble(Trouble.SILENT)
        delivering = asyncio.create_task(channel.deliver(address, self.outgoing(channel, HELLO)))
        await asyncio.wait({delivering}, timeout=0.2)
        before = time.monotonic()
        delivering.cancel()
        await asyncio.wait({delivering}, timeout=self.patience_s)
        assert delivering.done(), "it does not end"
        if not delivering.cancelled():
            pytest.fail(f"it made {delivering.exception()!r} of the cancellation")
        assert time.monotonic() - before < 2

    async def test_a_delivery_gives_up_a_platform_that_is_silent(self, channel: Channel, platform: Platform) -> None:
        """After the channel's own time limit, which is no longer than the suite's patience."""
        address = await self.address(channel)
        await platform.set_trouble(Trouble.SILENT)
        expected = (Ambiguous, RetryAfter) if channel.caps.idempotent else (Ambiguous,)
        async with asyncio.timeout(self.patience_s):
            error = await self._error(lambda: channel.deliver(address, self.outgoing(channel, HELLO)))
        assert isinstance(error, expected)

    async def test_a_repeat_is_shown_once_where_the_platform_knows_it(
        self, channel: Channel, platform: Platform
    ) -> None:
        if not channel.caps.idempotent:
            pytest.skip("caps.idempotent is not set")
        address = await self.address(channel)
        await platform.set_trouble(Trouble.CUT_AFTER)
        await self._error(lambda: channel.deliver(address, self.outgoing(channel, HELLO, name="once")))
        await platform.set_trouble(Trouble.NONE)
        await channel.deliver(address, self.outgoing(channel, HELLO, name="once", again=True))
        assert sum(HELLO in shown for shown in platform.messages.values()) == 1

    async def test_a_message_with_an_unknown_outcome_is_found(self, channel: Channel, platform: Platform) -> None:
        if not channel.caps.can_find:
            pytest.skip("caps.can_find is not set")
        address = await self.address(channel)
        outgoing, other = self.outgoing(channel, HELLO), self.outgoing(channel, HELLO)
        await channel.deliver(address, other)
        assert await channel.find(address, outgoing) is None
        await platform.set_trouble(Trouble.CUT_AFTER)
        await self._error(lambda: channel.deliver(address, outgoing))
        for trouble in (Trouble.TOO_MANY, Trouble.BROKEN, Trouble.CUT, Trouble.AWAY):
            await platform.set_trouble(trouble)
            await self._error(lambda: channel.find(address, outgoing))
        await platform.set_trouble(Trouble.NONE)
        assert isinstance(await channel.find(address, outgoing), Sent)

    async def test_a_message_is_edited(self, channel: Channel, platform: Platform) -> None:
        address, ref = await self._editable(channel)
        before = set(platform.messages)
        for text in ("another text", "w" * min(channel.caps.max_edit_chars or channel.caps.max_chars, LONGEST)):
            await channel.edit(address, ref, self.outgoing(channel, text))
            assert set(platform.messages) == before, "an edit is no new message"
            assert any(text in shown for shown in platform.messages.values())

    @pytest.mark.parametrize("trouble", EXPECTED, ids=lambda trouble: trouble.name.lower())
    async def test_an_edit_in_trouble(self, trouble: Trouble, channel: Channel, platform: Platform) -> None:
        """It may be repeated at will."""
        address, ref = await self._editable(channel)
        await platform.set_trouble(trouble)
        error = await self._error(lambda: channel.edit(address, ref, self.outgoing(channel, "another text")))
        self._check(error, trouble, channel, address, platform, repeatable=True)
        await platform.set_trouble(Trouble.NONE)
        await channel.edit(address, ref, self.outgoing(channel, "another text"))
        assert any("another text" in shown for shown in platform.messages.values())

    async def test_a_stream_grows_and_ends(self, channel: Channel, platform: Platform) -> None:
        if not channel.caps.native_stream:
            pytest.skip("caps.native_stream is not set")
        address = await self.address(channel)
        outgoing = self.outgoing(channel, HELLO)
        stream = await channel.stream(address, self.outgoing(channel, ""))
        if stream is None:
            pytest.skip("no stream for this address")
        assert json.loads(json.dumps(stream.ref)) == stream.ref
        await stream.append("Hello there")
        await stream.append(", how")
        sent = await stream.finish(outgoing, "Hello there, how")
        assert isinstance(sent, Sent)
        assert sum(HELLO in shown for shown in platform.messages.values()) == 1
        assert len(platform.messages) == 1

    async def test_typing_is_shown_and_taken_away(self, channel: Channel) -> None:
        address = await self.address(channel)
        await channel.typing(address, True)
        await channel.typing(address, False)

    async def test_its_rate_limits_can_be_kept(self, channel: Channel) -> None:
        for address in await self.addresses(channel):
            buckets = channel.buckets(address)
            assert all(isinstance(bucket, Bucket) for bucket in buckets)
            keys = [bucket.key for bucket in buckets]
            assert len(set(keys)) == len(keys), "a key names two limits"
            assert list(channel.buckets(json.loads(json.dumps(address)))) == list(buckets)
            self.check_no_secret(repr(keys), "the name of a rate limit")

    # Helpers

    async def _error(self, call: Callable[[], Awaitable[object]]) -> DeliveryError:
        """What a call raises, which is one of the three errors, without a secret in it."""
        try:
            result = await call()
        except (RetryAfter, Permanent, Ambiguous) as error:
            for one in (error, error.__cause__):
                self.check_no_secret(f"{one} {one!r}", "an error")
            return error
        pytest.fail(f"the platform is in trouble, but it returned {result!r}")

    def _check(
        self, error: DeliveryError, trouble: Trouble, channel: Channel, address: Address, platform: Platform,
        *, repeatable: bool,
    ) -> None:  # fmt: skip
        allowed = EXPECTED[trouble]
        if repeatable and Ambiguous in allowed:
            allowed += (RetryAfter,)
        assert isinstance(error, allowed), f"{trouble.value}: it raised {error!r}"
        if isinstance(error, RetryAfter):
            assert error.why
            assert error.seconds is None or error.seconds >= 0
            keys = [bucket.key for bucket in channel.buckets(address)]
            assert error.bucket is None or error.bucket in keys, f"no bucket of this address is called {error.bucket}"
            if trouble is Trouble.TOO_MANY:
                assert error.seconds is not None, "the platform said for how long"
                assert platform.retry_after_s <= error.seconds <= platform.retry_after_s + 5
        if isinstance(error, Permanent):
            assert error.reason
            assert " " not in error.reason
            assert error.detail

    async def _editable(self, channel: Channel) -> tuple[Address, Ref]:
        if not channel.caps.can_edit:
            pytest.skip("caps.can_edit is not set")
        address = await self.address(channel)
        sent = await channel.deliver(address, self.outgoing(channel, "the first text"))
        assert sent.ref is not None, "a message that can be edited has a ref"
        return address, json.loads(json.dumps(sent.ref))
