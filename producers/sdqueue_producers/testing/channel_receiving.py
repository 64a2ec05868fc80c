"""ReceivingTests: what a channel must make of requests, the platform's and strangers'."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdqueue.messages import InboundTurn
from sdqueue_producers.channel import BaseChannel, Channel
from sdqueue_producers.registry import ChannelContext
from sdqueue_producers.request import Receipt, Request
from sdqueue_producers.testing.channel_base import ChannelTests, WatchedState
from sdqueue_producers.testing.platform import Platform
from sdqueue_producers.testing.samples import NASTY_BODIES, Sample, with_nasty_fields, with_nasty_headers

_SETTINGS: Final = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
_PRINTABLE: Final = st.text(st.characters(max_codepoint=255), max_size=60)


class ReceivingTests(ChannelTests):
    """A part of :class:`~sdqueue_producers.testing.ChannelSuite`."""

    async def test_it_says_what_it_is(self, channel: Channel) -> None:
        assert re.fullmatch(r"[a-z0-9_-]{1,64}", channel.name)
        assert all(path.startswith("/") and "?" not in path for path in channel.paths)
        assert len(set(channel.paths)) == len(channel.paths)
        caps = channel.caps
        assert caps.max_chars >= 1
        assert 0 <= caps.max_edit_chars <= caps.max_chars
        assert caps.edit_every_s >= 0
        assert caps.ack_deadline_s > 0
        assert all(seconds >= 0 for seconds in caps.retry_s)
        assert caps.stream_max_s > 0
        assert caps.typing_ttl_s >= 0

    async def test_it_has_what_its_caps_say(self, channel: Channel) -> None:
        """A method of BaseChannel's does nothing."""
        kind, caps = type(channel), channel.caps
        for said, name in ((caps.can_edit, "edit"), (caps.can_find, "find"), (caps.native_stream, "stream")):
            assert not said or getattr(kind, name, None) is not getattr(BaseChannel, name), f"it has no {name}()"

    async def test_a_channel_with_paths_has_samples(self, channel: Channel) -> None:
        samples = self.samples(channel)
        if channel.paths:
            assert any(sample.turns for sample in samples), "samples() has no message"
            if self.signs:
                assert any(sample.refused == 401 for sample in samples), "samples() has no wrong signature"

    # What the platform sends

    async def test_a_message_is_its_turns(self, channel: Channel) -> None:
        for sample in self.samples(channel):
            receipt = await channel.receive(sample.request)
            assert len(receipt.turns) == (0 if sample.refused else sample.turns), _short(sample.request)
            if sample.refused is None:
                assert receipt.answer is not None or 200 <= receipt.on_ok.status_code < 300, receipt.on_ok.body
            for turn in receipt.turns:
                assert turn.channel == channel.name, "its replies would go elsewhere"
                assert InboundTurn.make(json.loads(turn.to_bytes())) == turn

    async def test_the_platform_tries_again_what_was_not_confirmed(self, channel: Channel) -> None:
        for receipt in await self.receipts(channel):
            assert receipt.on_fail.status_code >= 500

    async def test_a_repeat_is_known(self, channel: Channel, context: ChannelContext, platform: Platform) -> None:
        """In another process too, and where the platform tells of one message in several ways."""
        async with self.make_channel(context, platform) as other:
            for sample in self.samples(channel):
                first, again = await channel.receive(sample.request), await other.receive(sample.request)
                assert _ids(again) == _ids(first)
                assert [turn.session_id for turn in again.turns] == [turn.session_id for turn in first.turns]
                assert again.aliases == first.aliases
                known = {*_ids(first), *first.aliases}
                for request in sample.repeats:
                    repeat = await other.receive(request)
                    assert len(repeat.turns) == len(first.turns)
                    assert not first.turns or known & {*_ids(repeat), *repeat.aliases}, "it would be answered twice"

    async def test_different_messages_have_different_ids(self, channel: Channel) -> None:
        ids = [id_ for receipt in await self.receipts(channel) for id_ in {*_ids(receipt), *receipt.aliases}]
        assert len(set(ids)) == len(ids), "one of two messages would be taken for a repeat"

    async def test_sessions_and_addresses_hold_no_secret(self, channel: Channel) -> None:
        for receipt in await self.receipts(channel):
            for turn in receipt.turns:
                self.check_no_secret(turn.to_bytes(), "a turn, which is kept in the queue")
                assert json.loads(json.dumps(turn.address)) == turn.address
        self.check_no_secret(repr(channel) + repr(vars(channel).get("settings", "")), "what the channel calls itself")

    async def test_receiving_changes_nothing(self, channel: Channel, state: WatchedState, platform: Platform) -> None:
        """The turns are not published yet: what is remembered now would make the platform's next try a repeat."""
        before = state.changes
        for sample in self.samples(channel):
            for request in (sample.request, *sample.repeats):
                await channel.receive(request)
        assert state.changes == before
        assert platform.messages == {}

    # What is refused

    async def test_what_is_refused_is_refused_with_a_reason(self, channel: Channel) -> None:
        for sample in self.samples(channel):
            if sample.refused is None:
                continue
            receipt = await channel.receive(sample.request)
            assert receipt.on_ok.status_code == sample.refused, receipt.on_ok.body
            assert 400 <= sample.refused < 500
            assert len(receipt.on_ok.body) > 10, "it gives no reason"
            self._check_shown(sample.request, receipt)

    async def test_without_its_signature_nothing_is_a_turn(self, channel: Channel) -> None:
        """Each accepted request, once received, with its body cut off, changed, or exchanged, as it was signed."""
        if not self.signs:
            pytest.skip("the platform does not sign")
        for sample in self._messages(channel):
            request, body = sample.request, sample.request.body
            await channel.receive(request)
            changed = [replace(request, headers={"content-type": request.headers.get("content-type", "")})]
            other = self.signed(replace(request, body=b"x" + body))
            if body and self.signed(request).headers != other.headers:  # the signature is over the body
                changed += [replace(request, body=wrong) for wrong in (body[:-1], body + b" ", b"", *NASTY_BODIES)]
                changed += [replace(request, body=body.replace(b'"', b"'", 1)), replace(request, body=body.upper())]
            for one in changed:
                if one.body == body and one.headers == request.headers:
                    continue
                receipt = await channel.receive(one)
                self._check_refused(one, receipt)

    async def test_nasty_headers_are_refused_or_make_no_difference(self, channel: Channel) -> None:
        for sample in self._messages(channel):
            turns = (await channel.receive(sample.request)).turns
            for request in with_nasty_headers(sample.request):
                receipt = await self._receive(channel, request)
                if receipt.turns and _ids(receipt) == [turn.id for turn in turns]:
                    assert [turn.text for turn in receipt.turns] == [turn.text for turn in turns]

    async def test_nasty_fields_are_refused_or_ignored(self, channel: Channel) -> None:
        """Each field of each request, gone or something else, well signed: the platform may be wrong as well."""
        for sample in self._messages(channel):
            for request in with_nasty_fields(sample.request):
                await self._receive(channel, self.signed(request))

    async def test_nasty_bodies_are_refused_or_ignored(self, channel: Channel) -> None:
        for sample in self._messages(channel):
            for body in NASTY_BODIES:
                await self._receive(channel, self.signed(replace(sample.request, body=body)))

    @_SETTINGS
    @given(body=st.binary(max_size=200), headers=st.dictionaries(st.text("abc-", min_size=1), _PRINTABLE, max_size=3))
    async def test_what_a_stranger_sends_is_no_turn(
        self, channel: Channel, body: bytes, headers: dict[str, str]
    ) -> None:
        for path in channel.paths:
            for method in ("POST", "GET", "PUT", "HEAD", "OPTIONS", "X" * 99):
                request = Request(method, path, headers=headers, body=body)
                receipt = await self._receive(channel, request)
                if self.signs:
                    self._check_refused(request, receipt)

    @_SETTINGS
    @given(
        path=st.text(max_size=50).map(lambda text: "/" + text),
        query=st.dictionaries(_PRINTABLE, _PRINTABLE, max_size=3),
    )
    async def test_any_path_and_query_is_answered(self, channel: Channel, path: str, query: dict[str, str]) -> None:
        for sample in self._messages(channel)[:1]:
            await self._receive(channel, self.signed(replace(sample.request, path=path)))
            await self._receive(channel, replace(sample.request, query=query))

    async def test_it_stops_to_listen_when_it_is_told_to(self, channel: Channel) -> None:
        async def submit(receipt: Receipt) -> None:
            return None

        listening = asyncio.create_task(channel.listen(submit))
        await asyncio.wait({listening}, timeout=0.1)
        listening.cancel()
        done, _ = await asyncio.wait({listening}, timeout=self.patience_s)
        assert done, "it did not end"
        assert listening.cancelled() or listening.exception() is None

    async def test_leaving_it_twice_is_fine(self, context: ChannelContext, platform: Platform) -> None:
        channel = self.make_channel(context, platform)
        async with channel:
            pass
        await channel.__aexit__(None, None, None)

    # Helpers

    def _messages(self, channel: Channel) -> list[Sample]:
        return [sample for sample in self.samples(channel) if sample.refused is None]

    async def _receive(self, channel: Channel, request: Request) -> Receipt:
        """Any request, which must be answered, with no fault of ours, and readable turns."""
        try:
            receipt = await channel.receive(request)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it would be answered with 500
            failure = f"{type(error).__name__}: {error}"
        else:
            failure = ""
        if failure:
            pytest.fail(f"receive() raised {failure[:200]} for {_short(request)}")
        assert isinstance(receipt, Receipt)
        if receipt.answer is None:
            assert 200 <= receipt.on_ok.status_code < 500, _short(request)
        for turn in receipt.turns:
            assert InboundTurn.make(json.loads(turn.to_bytes())) == turn
        self._check_shown(request, receipt)
        return receipt

    def _check_refused(self, request: Request, receipt: Receipt) -> None:
        assert receipt.turns == (), f"a stranger's request is a turn: {_short(request)}"
        status = receipt.on_ok.status_code
        assert 400 <= status < 500, f"a stranger's request is answered with {status}: {_short(request)}"
        self._check_shown(request, receipt)

    def _check_shown(self, request: Request, receipt: Receipt) -> None:
        """An answer shows no secret, nor the signature that the request should have had."""
        shown = bytes(receipt.on_ok.body).decode(errors="replace") + repr(receipt.on_ok.headers.items())
        self.check_no_secret(shown, "an answer")
        for name, value in self.signed(request).headers.items():
            for piece in re.split(r"[=, ]", value):
                if len(piece) >= 20 and piece not in request.headers.get(name, ""):
                    assert piece not in shown, "the expected signature is shown"


def _ids(receipt: Receipt) -> list[str | None]:
    return [turn.id for turn in receipt.turns]


def _short(request: Request) -> str:
    """A request for people, with a body that may be long."""
    return f"{request.method} {request.path[:80]} {dict(request.headers)!r:.500} {request.body[:200]!r}"
