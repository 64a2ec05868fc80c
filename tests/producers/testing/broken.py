"""Channels that are broken in one way each, to show that the suite can fail; and a whole one that has everything."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from dataclasses import replace
from typing import Any, ClassVar

from sdqueue_producers import (
    Address,
    Ambiguous,
    Bucket,
    Caps,
    ChannelContext,
    Outgoing,
    Permanent,
    Receipt,
    Ref,
    Request,
    RetryAfter,
    Sent,
    refusal,
)
from starlette.responses import JSONResponse, Response

from sdqueue.messages import InboundTurn
from tests.producers.testing.chirp import SECRET, TOKEN, load, signed

Chirp: Any = load().Chirp


class Whole(Chirp):  # type: ignore[misc]
    """The example, with everything that a channel may have."""

    caps = replace(Chirp.caps, can_find=True, native_stream=True, typing_ttl_s=5.0)

    async def find(self, address: Address, outgoing: Outgoing) -> Sent | None:
        url = f"{self._api}/rooms/{address['room']}/messages?key={outgoing.key}"
        try:
            async with self._http.get(url, allow_redirects=False) as response:
                answer = await response.json()
        except Exception as error:
            raise RetryAfter(None, type(error).__name__) from None
        if response.status != 200:
            raise RetryAfter(None, str(response.status))
        return None if answer["id"] is None else Sent(answer["id"])

    async def stream(self, address: Address, outgoing: Outgoing) -> _Stream:
        return _Stream(self, address, outgoing, (await self.deliver(address, replace(outgoing, text=" "))).ref)


class _Stream:
    def __init__(self, channel: Any, address: Address, outgoing: Outgoing, ref: Ref) -> None:
        self.ref = ref
        self._text = ""
        self._channel, self._address, self._outgoing = channel, address, outgoing

    async def append(self, text: str) -> None:
        self._text += text
        await self._channel.edit(self._address, self.ref, replace(self._outgoing, text=self._text))

    async def finish(self, outgoing: Outgoing, appended: str) -> Sent:
        return await self._channel.edit(self._address, self.ref, outgoing)


class Broken(Whole):
    """Broken in the way of the subclass's name."""

    caught_by: ClassVar[str]

    async def receive(self, request: Request) -> Receipt:
        receipt: Receipt = await super().receive(request)
        return self.changed(request, receipt)

    def changed(self, request: Request, receipt: Receipt) -> Receipt:
        turns = tuple(InboundTurn.model_construct(**{**dict(turn), **self.fields(turn)}) for turn in receipt.turns)
        return replace(receipt, turns=turns)

    def fields(self, turn: InboundTurn) -> dict[str, Any]:
        return {}


# Receiving


class AnotherIdEachTime(Broken):
    caught_by = "test_a_repeat_is_known"

    def fields(self, turn: InboundTurn) -> dict[str, Any]:
        return {"id": uuid.uuid4().hex}


class AnotherSessionEachTime(Broken):
    caught_by = "test_a_repeat_is_known"

    def fields(self, turn: InboundTurn) -> dict[str, Any]:
        return {"session_id": uuid.uuid4().hex}


class OneIdForAll(Broken):
    caught_by = "test_different_messages_have_different_ids"

    def fields(self, turn: InboundTurn) -> dict[str, Any]:
        return {"id": "chirp"}


class OneAliasForAll(Broken):
    caught_by = "test_different_messages_have_different_ids"

    def changed(self, request: Request, receipt: Receipt) -> Receipt:
        return replace(receipt, aliases=("chirp",))


class AnswersElsewhere(Broken):
    caught_by = "test_a_message_is_its_turns"

    def fields(self, turn: InboundTurn) -> dict[str, Any]:
        return {"channel": "slack"}


class ControlCharacterInASession(Broken):
    caught_by = "test_a_message_is_its_turns"

    def fields(self, turn: InboundTurn) -> dict[str, Any]:
        return {"session_id": f"{turn.session_id}\n"}


class TokenInTheAddress(Broken):
    caught_by = "test_sessions_and_addresses_hold_no_secret"

    def fields(self, turn: InboundTurn) -> dict[str, Any]:
        return {"address": {**turn.address, "token": TOKEN}}


class AcknowledgesWhatIsNotConfirmed(Broken):
    caught_by = "test_the_platform_tries_again_what_was_not_confirmed"

    def changed(self, request: Request, receipt: Receipt) -> Receipt:
        return replace(receipt, on_fail=Response(status_code=200))


class RefusesWhatIsRight(Broken):
    caught_by = "test_a_message_is_its_turns"

    def changed(self, request: Request, receipt: Receipt) -> Receipt:
        return refusal(400, "no", "not in the mood")


class Remembers(Broken):
    caught_by = "test_receiving_changes_nothing"
    context: ChannelContext

    async def receive(self, request: Request) -> Receipt:
        receipt = await super().receive(request)
        for turn in receipt.turns:
            await self.context.state.add(f"chirp:seen:{turn.id}", "1", ttl_s=60)
        return receipt


class AsksForNoSignature(Broken):
    caught_by = "test_what_is_refused_is_refused_with_a_reason"

    async def receive(self, request: Request) -> Receipt:
        return await super().receive(signed(request))


class SignsWithoutTheBody(Broken):
    """Whoever has seen one request can make others."""

    caught_by = "test_without_its_signature_nothing_is_a_turn"
    seen: ClassVar[set[str]] = set()

    async def receive(self, request: Request) -> Receipt:
        signature = request.headers.get("chirp-signature", "")
        receipt = await super().receive(request)
        if receipt.turns:
            self.seen.add(signature)
        return await super().receive(signed(request)) if signature in self.seen else receipt


class ShowsTheSignature(Broken):
    caught_by = "test_what_is_refused_is_refused_with_a_reason"

    def changed(self, request: Request, receipt: Receipt) -> Receipt:
        if receipt.turns or receipt.on_ok.status_code != 401:
            return receipt
        at = request.headers.get("chirp-at", "0")
        right = signed(request, at=int(at) if at.isdecimal() else 0).headers["chirp-signature"]
        return refusal(401, "signature", f"expected {signed(request).headers['chirp-signature']} or {right}")


class ShowsTheSecret(Broken):
    caught_by = "test_what_is_refused_is_refused_with_a_reason"

    def changed(self, request: Request, receipt: Receipt) -> Receipt:
        return receipt if receipt.turns else refusal(receipt.on_ok.status_code, "no", f"check {SECRET}")


class LogsTheSecret(Broken):
    caught_by = "test_a_message_is_its_turns"

    def changed(self, request: Request, receipt: Receipt) -> Receipt:
        logging.getLogger("chirp").debug("checked with %s", SECRET)
        return receipt


class ServerErrorForABadBody(Broken):
    caught_by = "test_nasty_bodies_are_refused_or_ignored"

    def changed(self, request: Request, receipt: Receipt) -> Receipt:
        return Receipt(on_ok=JSONResponse({}, 500)) if receipt.on_ok.status_code == 400 else receipt


class FailsOnABadBody(Broken):
    caught_by = "test_nasty_bodies_are_refused_or_ignored"

    def changed(self, request: Request, receipt: Receipt) -> Receipt:
        json.loads(request.body)
        return receipt


class FailsOnAMissingField(Broken):
    caught_by = "test_nasty_fields_are_refused_or_ignored"

    def changed(self, request: Request, receipt: Receipt) -> Receipt:
        if request.body.startswith(b'{"'):
            json.loads(request.body)["user"]
        return receipt


class FailsOnAStrangeNumber(Broken):
    """``isdigit`` is not ``isdecimal``."""

    caught_by = "test_nasty_headers_are_refused_or_make_no_difference"

    async def receive(self, request: Request) -> Receipt:
        if request.headers.get("chirp-at", "").isdigit() and time.time() - int(request.headers["chirp-at"]) > 300:
            return refusal(401, "old", "this is old")
        return await super().receive(request)


class FailsWithoutHeaders(Broken):
    caught_by = "test_what_a_stranger_sends_is_no_turn"

    async def receive(self, request: Request) -> Receipt:
        request.headers["chirp-at"]
        return await super().receive(request)


class ThanksStrangers(Broken):
    caught_by = "test_what_a_stranger_sends_is_no_turn"

    def changed(self, request: Request, receipt: Receipt) -> Receipt:
        return Receipt() if receipt.on_ok.status_code == 405 else receipt


class ListensForEver(Broken):
    caught_by = "test_it_stops_to_listen_when_it_is_told_to"

    async def listen(self, submit: Any) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise RuntimeError("not now") from None


class LeavesOnce(Broken):
    caught_by = "test_leaving_it_twice_is_fine"

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        del self._http


class SaysWhatItHasNot(Chirp):  # type: ignore[misc]
    caught_by = "test_it_has_what_its_caps_say"
    caps = Whole.caps


# Sending


class CutsTexts(Broken):
    caught_by = "test_a_message_of_full_length_is_shown"

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        return await super().deliver(address, replace(outgoing, text=outgoing.text[:1999]))


class ShowsItTwice(Broken):
    caught_by = "test_a_message_is_shown"

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        await super().deliver(address, replace(outgoing, part=1, parts=2))
        return await super().deliver(address, outgoing)


class RaisesWhatItGets(Broken):
    caught_by = "test_a_delivery_in_trouble[cut]"

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        try:
            return await super().deliver(address, outgoing)
        except Ambiguous as error:
            raise OSError from error


class TakesACutForAFault(Broken):
    """And would show it twice."""

    caught_by = "test_a_delivery_in_trouble[cut_after]"
    caps = replace(Whole.caps, idempotent=False)

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        try:
            return await super().deliver(address, outgoing)
        except Ambiguous:
            raise RetryAfter(None, "cut") from None


class TakesAFaultForSuccess(Broken):
    caught_by = "test_a_delivery_in_trouble[nonsense]"

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        try:
            return await super().deliver(address, outgoing)
        except Ambiguous:
            return Sent()


class TakesAFaultForTheEnd(Broken):
    caught_by = "test_a_delivery_in_trouble[broken]"

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        try:
            return await super().deliver(address, outgoing)
        except RetryAfter:
            raise Permanent("failed", "it failed") from None


class TriesForEver(Broken):
    caught_by = "test_a_delivery_in_trouble[refused]"

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        try:
            return await super().deliver(address, outgoing)
        except Permanent:
            raise RetryAfter(None, "it failed") from None


class DoesNotSayWhen(Broken):
    caught_by = "test_a_delivery_in_trouble[too_many]"

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        try:
            return await super().deliver(address, outgoing)
        except RetryAfter:
            raise RetryAfter(None, "429") from None


class BlocksABucketThatIsNone(Broken):
    caught_by = "test_an_edit_in_trouble[too_many]"

    def buckets(self, address: Address) -> tuple[Bucket, ...]:
        return (Bucket("all", 5, 5.0),)


class TellsTheToken(Broken):
    caught_by = "test_a_delivery_in_trouble[away]"

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        try:
            return await super().deliver(address, outgoing)
        except RetryAfter:
            raise RetryAfter(None, f"tried with {TOKEN}") from None


class SwallowsACancellation(Broken):
    caught_by = "test_a_delivery_that_is_cancelled_ends"

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        try:
            return await super().deliver(address, outgoing)
        except asyncio.CancelledError:
            raise RetryAfter(None, "cancelled") from None


class ForgetsTheKey(Broken):
    caught_by = "test_a_repeat_is_shown_once_where_the_platform_knows_it"

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        return await super().deliver(address, replace(outgoing, part=time.monotonic_ns(), parts=2))


class FindsNothing(Broken):
    caught_by = "test_a_message_with_an_unknown_outcome_is_found"

    async def find(self, address: Address, outgoing: Outgoing) -> Sent | None:
        await super().find(address, outgoing)
        return None


class FindsAnything(Broken):
    caught_by = "test_a_message_with_an_unknown_outcome_is_found"

    async def find(self, address: Address, outgoing: Outgoing) -> Sent | None:
        return await super().find(address, outgoing) or Sent("m0")


class FindsNothingInTrouble(Broken):
    """And lets it be shown twice."""

    caught_by = "test_a_message_with_an_unknown_outcome_is_found"

    async def find(self, address: Address, outgoing: Outgoing) -> Sent | None:
        try:
            return await super().find(address, outgoing)
        except RetryAfter:
            return None


class EditsByANewMessage(Broken):
    caught_by = "test_a_message_is_edited"

    async def edit(self, address: Address, ref: Ref, outgoing: Outgoing) -> Sent:
        return await self.deliver(address, outgoing)


class GivesNoRef(Broken):
    caught_by = "test_a_message_is_edited"

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        await super().deliver(address, outgoing)
        return Sent()


class LosesTheEndOfAStream(Broken):
    caught_by = "test_a_stream_grows_and_ends"

    async def stream(self, address: Address, outgoing: Outgoing) -> Any:
        stream = await super().stream(address, outgoing)

        async def finish(outgoing: Outgoing, appended: str) -> Sent:
            return Sent(stream.ref)

        stream.finish = finish  # type: ignore[method-assign]
        return stream


class CannotType(Broken):
    caught_by = "test_typing_is_shown_and_taken_away"

    async def typing(self, address: Address, on: bool) -> None:
        raise NotImplementedError


class NamesALimitTwice(Broken):
    caught_by = "test_its_rate_limits_can_be_kept"

    def buckets(self, address: Address) -> tuple[Bucket, ...]:
        return (Bucket("all", 5, 5.0), Bucket("all", 20, 60.0))


class HasNoLength(Broken):
    caught_by = "test_it_says_what_it_is"
    caps: ClassVar[Caps] = Caps(max_chars=0)


BROKEN: list[Any] = [kind for kind in list(globals().values()) if isinstance(kind, type) and "caught_by" in vars(kind)]
