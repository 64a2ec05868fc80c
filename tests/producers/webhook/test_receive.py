"""What becomes of a request: who is let in, what is a turn, and how its reply is to go back."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sdqueue_producers import MemoryState, Receipt, Request
from sdqueue_producers.webhook import WebhookChannel

from sdqueue import Settings, StoreUnavailable
from tests.producers.webhook.tools import (
    LEAST,
    OTHER_SECRET,
    SECRET,
    THIRD_SECRET,
    TOKEN,
    make_channel,
    outgoing_reply,
    question,
    signed,
    signed_headers,
)

ENDPOINTS: dict[str, Any] = {
    "crm": {"secrets": [OTHER_SECRET, SECRET]},
    "shop": {"tokens": ["another-token-of-length", "sha256:" + hashlib.sha256(TOKEN.encode()).hexdigest()]},
    "both": {"secrets": [SECRET], "tokens": [TOKEN]},
    "open": {"open": True},
    "back": {
        "secrets": [SECRET],
        "callback_url": "https://crm.example.com/replies",
        "callback_secrets": [OTHER_SECRET],
    },
    "live": {"secrets": [SECRET], "mode": "stream"},
    "asked": {"secrets": [SECRET], "mode": "status"},
}


@pytest.fixture
def channel() -> WebhookChannel:
    return make_channel(endpoints=ENDPOINTS)


def said(receipt: Receipt) -> tuple[int, str]:
    """The status and reason of a refusal; it has no turn and says no secret."""
    assert receipt.turns == ()
    body = bytes(receipt.on_ok.body)
    fields = json.loads(body)
    assert fields["detail"]
    for secret in (SECRET, OTHER_SECRET, TOKEN, SECRET[6:], OTHER_SECRET[6:]):
        assert secret.encode() not in body
    return receipt.on_ok.status_code, fields["error"]


def bearer(fields: Any = LEAST, *, endpoint: str = "shop", **headers: str) -> Request:
    base = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}", "webhook-id": "evt_1"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: value for name, value in (base | named).items() if value}
    return Request("POST", f"/webhook/{endpoint}", kept, {}, json.dumps(fields).encode())


def changed(request: Request, headers: Mapping[str, str | None], **fields: Any) -> Request:
    kept = {name: value for name, value in (dict(request.headers) | dict(headers)).items() if value is not None}
    return replace(request, headers=kept, **fields)


async def test_a_signed_message_is_a_turn_of_its_endpoint(channel: WebhookChannel) -> None:
    body = {
        "session_id": "user-42", "text": "hello", "sender": "Ada", "metadata": {"plan": "gold"}, "kind": "assist",
        "deadline_s": 20,
    }  # fmt: skip
    receipt = await channel.receive(signed(body, id_="evt_1"))
    (turn,) = receipt.turns
    assert turn.id == "webhook:crm:evt_1"
    assert turn.session_id == "webhook:crm:user-42"
    assert turn.channel == "webhook"
    assert (turn.text, turn.sender, turn.kind, turn.metadata, turn.deadline_s) == (
        "hello", "Ada", "assist", {"plan": "gold"}, 20,
    )  # fmt: skip
    assert turn.address == {"endpoint": "crm", "id": "evt_1", "session": "user-42", "held": True}
    assert receipt.answer is not None


async def test_any_of_the_secrets_and_any_of_several_signatures_will_do(channel: WebhookChannel) -> None:
    for secret in (SECRET, OTHER_SECRET):
        assert (await channel.receive(signed(secret=secret))).turns
    wrong, right = signed(secret=THIRD_SECRET), signed(secret=SECRET)
    both = f"{wrong.headers['webhook-signature']} v1a,AAAA {right.headers['webhook-signature']}"
    assert (await channel.receive(changed(right, {"webhook-signature": both}))).turns


async def test_endpoints_cannot_reach_each_others_sessions(channel: WebhookChannel) -> None:
    (one,) = (await channel.receive(signed(endpoint="crm"))).turns
    (other,) = (await channel.receive(bearer(endpoint="shop"))).turns
    assert one.session_id != other.session_id
    assert one.id != other.id


async def test_a_session_id_that_gets_too_long_is_hashed_and_the_sender_does_not_notice(
    channel: WebhookChannel,
) -> None:
    (turn,) = (await channel.receive(signed(LEAST | {"session_id": "x" * 256}))).turns
    assert turn.session_id.startswith("webhook:crm:sha256-")
    assert turn.address["session"] == "x" * 256
    (other,) = (await channel.receive(signed(LEAST | {"session_id": "x" * 255 + "y"}, id_="evt_2"))).turns
    assert other.session_id != turn.session_id


GARBAGE = [
    "v1", "v1,", "v1,!!!", "v1,a", "v1,AAAA", "v2,AAAA", "v1,AAAA v1", ",", " ", "v1,äöü", "v1,\u2603", "v1,AAAA,BBBB",
    "v1," + "A" * 30_000, "v1,AAAA " * 2_000,
]  # fmt: skip


@pytest.mark.parametrize("signature", GARBAGE)
async def test_a_malformed_signature_is_401(channel: WebhookChannel, signature: str) -> None:
    assert said(await channel.receive(changed(signed(), {"webhook-signature": signature}))) == (401, "bad-signature")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"webhook-signature": None}, "not-signed"),
        ({"webhook-id": None}, "not-signed"),
        ({"webhook-timestamp": None}, "not-signed"),
        ({"webhook-id": ""}, "not-signed"),
        ({"webhook-id": "evt_2"}, "bad-signature"),
        ({"webhook-timestamp": "soon"}, "bad-timestamp"),
        ({"webhook-timestamp": "nan"}, "bad-timestamp"),
        ({"webhook-timestamp": "1e99"}, "bad-timestamp"),
        ({"webhook-timestamp": "9" * 12}, "bad-timestamp"),
        ({"webhook-timestamp": "9" * 400}, "bad-timestamp"),
        ({"webhook-timestamp": "-1"}, "bad-timestamp"),
        ({"webhook-timestamp": "\u0661\u0662"}, "bad-timestamp"),
        ({"webhook-timestamp": "0"}, "bad-timestamp"),
        ({"authorization": f"Bearer {TOKEN}", "webhook-signature": None}, "not-signed"),
    ],
)
async def test_wrong_headers_of_a_signature_are_401(
    channel: WebhookChannel, headers: Mapping[str, str | None], reason: str
) -> None:
    assert said(await channel.receive(changed(signed(), headers))) == (401, reason)


@pytest.mark.parametrize("seconds", [-301, 301, -86_400])
async def test_a_timestamp_more_than_five_minutes_away_is_401(channel: WebhookChannel, seconds: int) -> None:
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    assert said(await channel.receive(signed(at=at))) == (401, "bad-timestamp")


@pytest.mark.parametrize("seconds", [-290, 290])
async def test_a_timestamp_within_five_minutes_will_do(channel: WebhookChannel, seconds: int) -> None:
    assert (await channel.receive(signed(at=datetime.now(UTC) + timedelta(seconds=seconds)))).turns


async def test_another_secret_another_body_and_no_utf8_are_401(channel: WebhookChannel) -> None:
    assert said(await channel.receive(signed(secret=THIRD_SECRET))) == (401, "bad-signature")
    assert said(await channel.receive(replace(signed(), body=b"{}"))) == (401, "bad-signature")
    assert said(await channel.receive(replace(signed(), body=b"\xff\xfe"))) == (401, "bad-signature")
    assert said(await channel.receive(replace(signed(), body=b""))) == (401, "bad-signature")


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", "no-token"),
        ("Bearer", "no-token"),
        ("Bearer ", "no-token"),
        ("Basic " + TOKEN, "no-token"),
        ("Bearer ä", "no-token"),
        (f"Bearer {TOKEN} {TOKEN}", "no-token"),
        (f"Bearer {TOKEN}x", "bad-token"),
        (f"Bearer {TOKEN[:-1]}", "bad-token"),
        ("Bearer sha256:" + hashlib.sha256(TOKEN.encode()).hexdigest(), "bad-token"),
    ],
)
async def test_a_wrong_token_is_401(channel: WebhookChannel, authorization: str, reason: str) -> None:
    receipt = await channel.receive(bearer(authorization=authorization))
    assert said(receipt) == (401, reason)
    assert receipt.on_ok.headers["www-authenticate"].startswith("Bearer")


async def test_tokens_plain_and_hashed(channel: WebhookChannel) -> None:
    for token in (TOKEN, "another-token-of-length"):
        assert (await channel.receive(bearer(authorization=f"bearer {token}"))).turns


async def test_an_endpoint_with_both_takes_either_but_no_wrong_signature(channel: WebhookChannel) -> None:
    assert (await channel.receive(signed(endpoint="both"))).turns
    assert (await channel.receive(bearer(endpoint="both"))).turns
    request = changed(bearer(endpoint="both"), {"webhook-signature": "v1,AAAA", "webhook-timestamp": "1"})
    assert said(await channel.receive(request)) == (401, "bad-timestamp")


async def test_an_open_endpoint_takes_anybody(channel: WebhookChannel) -> None:
    assert (await channel.receive(bearer(endpoint="open", authorization=""))).turns


@pytest.mark.parametrize("header", ["webhook-id", "idempotency-key"])
async def test_without_a_signature_an_id_is_needed(channel: WebhookChannel, header: str) -> None:
    assert said(await channel.receive(bearer(webhook_id=""))) == (400, "no-id")
    receipt = await channel.receive(bearer(webhook_id="", **{header: "msg_7"}))
    assert receipt.turns[0].id == "webhook:shop:msg_7"


async def test_an_idempotency_key_may_be_quoted(channel: WebhookChannel) -> None:
    receipt = await channel.receive(bearer(webhook_id="", idempotency_key='"msg_7"'))
    assert receipt.turns[0].id == "webhook:shop:msg_7"


@pytest.mark.parametrize("id_", ["a.b", "a/b", "a b", "x" * 161, "ä", '"', "a, a", "a\n", "%2f", "a?"])
async def test_ids_that_are_refused(channel: WebhookChannel, id_: str) -> None:
    assert said(await channel.receive(bearer(webhook_id=id_))) == (400, "bad-id")


async def test_a_signed_id_with_a_dot_is_refused_since_dots_join_what_is_signed(channel: WebhookChannel) -> None:
    assert said(await channel.receive(signed(id_="evt.1"))) == (400, "bad-id")


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 0),
        ("Application/JSON; charset=UTF-8", 0),
        ('application/json;charset="utf-8"', 0),
        ("", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/jsonx", 415),
        ("application/json; charset=utf-16", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
async def test_content_types(channel: WebhookChannel, content_type: str, status: int) -> None:
    receipt = await channel.receive(changed(signed(), {"content-type": content_type}))
    if status:
        assert said(receipt) == (status, "content-type")
    else:
        assert receipt.turns


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "empty-body"),
        (b"{", 400, "not-json"),
        (b"[]", 400, "not-json"),
        (b"null", 400, "not-json"),
        (b'"x"', 400, "not-json"),
        (b"NaN", 400, "not-json"),
        (b"[" * 100_000, 400, "not-json"),
        (b'{"session_id": "a", "text": "\\ud800"}', 400, "not-json"),
        ({"text": "hello"}, 400, "invalid-field"),
        ({"session_id": "a"}, 400, "invalid-field"),
        ({"session_id": "", "text": "hello"}, 400, "invalid-field"),
        ({"session_id": 7, "text": "hello"}, 400, "invalid-field"),
        ({"session_id": ["a"], "text": "hello"}, 400, "invalid-field"),
        ({"session_id": "a\nb", "text": "hello"}, 400, "invalid-field"),
        ({"session_id": "x" * 257, "text": "hello"}, 400, "invalid-field"),
        ({"session_id": "a", "text": None}, 400, "invalid-field"),
        ({"session_id": "a", "text": "nul \0"}, 400, "invalid-field"),
        ({"session_id": "a", "text": "x" * 300_000}, 413, "text-too-long"),
        (LEAST | {"kind": "shout"}, 400, "invalid-field"),
        (LEAST | {"sender": "x" * 257}, 400, "invalid-field"),
        (LEAST | {"metadata": {"a": "ü" * 8_200}}, 413, "metadata-too-long"),
        (LEAST | {"stream": "yes"}, 400, "invalid-field"),
        (LEAST | {"deadline_s": -1}, 400, "invalid-field"),
        (LEAST | {"metadata": []}, 400, "invalid-field"),
        (b'{"session_id": "a", "text": "b", "metadata": {"x": 1e999}}', 400, "not-json"),
        (LEAST | {"channel": "slack"}, 400, "unknown-field"),
        (LEAST | {"address": {"endpoint": "shop"}}, 400, "unknown-field"),
        (LEAST | {"id": "other"}, 400, "unknown-field"),
        (LEAST | {"callback_url": "https://evil.example.com"}, 400, "unknown-field"),
        (LEAST | {"\u2603" * 100: 1}, 400, "unknown-field"),
    ],
)
async def test_bodies_that_are_no_turn(channel: WebhookChannel, body: Any, status: int, reason: str) -> None:
    found = said(await channel.receive(signed(body)))
    assert found[0] == status
    assert found[1] == reason or (reason == "not-json" and found[1] == "invalid-field")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/webhook/nobody", 404),
        ("POST", "/webhook/CRM", 404),
        ("GET", "/webhook/crm", 405),
        ("DELETE", "/webhook/crm", 405),
        ("POST", "/webhook/crm/turns/evt_1", 405),
        ("HEAD", "/webhook/crm/turns/evt_1/events", 405),
        ("POST", "/webhook/crm/turns", 404),
        ("POST", "/webhook/crm/turns/a/b", 404),
        ("POST", "/webhook//x", 404),
    ],
)
async def test_other_paths_and_methods(channel: WebhookChannel, method: str, path: str, status: int) -> None:
    receipt = await channel.receive(replace(signed(), method=method, path=path))
    assert said(receipt)[0] == status
    assert ("allow" in receipt.on_ok.headers) == (status == 405)


# How the reply goes back


@pytest.mark.parametrize(
    ("endpoint", "headers", "held", "streamed"),
    [
        ("crm", {}, True, False),
        ("asked", {}, False, False),
        ("back", {}, False, False),
        ("live", {}, True, True),
        ("back", {"prefer": "wait=5"}, True, False),
        ("back", {"prefer": 'foo, respond-async, Wait = "5"; x=1'}, True, False),
        ("crm", {"prefer": "respond-async"}, False, False),
        ("crm", {"prefer": "wait=0"}, False, False),
        ("crm", {"prefer": "wait=soon"}, True, False),
        ("back", {"prefer": "wait=-1"}, False, False),
        ("crm", {"accept": "text/event-stream"}, True, True),
        ("back", {"accept": "application/json, Text/Event-Stream;q=0.5"}, True, True),
        ("crm", {"accept": "text/event-stream;q=0"}, True, False),
        ("live", {"prefer": "wait=5"}, True, False),
    ],
)
async def test_the_request_says_how_else_the_endpoint_does(
    channel: WebhookChannel, endpoint: str, headers: dict[str, str], held: bool, streamed: bool
) -> None:
    receipt = await channel.receive(changed(signed(endpoint=endpoint), headers))
    (turn,) = receipt.turns
    assert (turn.address["held"], turn.stream) == (held, streamed)
    if not held:
        assert receipt.answer is None
        assert receipt.on_ok.status_code == 202
        assert receipt.on_ok.headers["location"] == f"/webhook/{endpoint}/turns/evt_1"
        assert json.loads(bytes(receipt.on_ok.body))["turn_id"] == "evt_1"


async def test_the_location_has_the_public_address_where_that_is_known() -> None:
    settings = Settings(broker_url="memory://", store_url="memory://", public_url="https://bot.example.com/")
    channel = make_channel(settings=settings, endpoints=ENDPOINTS)
    receipt = await channel.receive(signed(endpoint="asked"))
    assert receipt.on_ok.headers["location"] == "https://bot.example.com/webhook/asked/turns/evt_1"


# The status address


async def test_a_turn_that_nobody_knows_is_404(channel: WebhookChannel) -> None:
    assert said(await channel.receive(question("evt_1"))) == (404, "unknown-turn")
    assert said(await channel.receive(question("evt_1", events=True))) == (404, "unknown-turn")


async def test_a_turn_that_runs_is_202_and_one_that_has_ended_200() -> None:
    state = MemoryState()
    channel = make_channel(state=state, endpoints=ENDPOINTS)
    await state.set({"webhook:seen:webhook:crm:evt_1": "1"}, ttl_s=60)
    receipt = await channel.receive(question("evt_1"))
    assert receipt.on_ok.status_code == 202
    assert receipt.on_ok.headers["retry-after"] == "1"
    out = outgoing_reply("hi there")
    await channel.deliver(out.reply.address, out)
    receipt = await channel.receive(question("evt_1"))
    assert receipt.on_ok.status_code == 200
    body = json.loads(bytes(receipt.on_ok.body))
    assert (body["type"], body["turn_id"], body["session_id"], body["text"]) == (
        "reply.final", "evt_1", "user-42", "hi there",
    )  # fmt: skip


async def test_the_status_address_asks_who_you_are_and_binds_the_signature_to_the_turn(channel: WebhookChannel) -> None:
    out = outgoing_reply()
    await channel.deliver(out.reply.address, out)
    path = "/webhook/crm/turns/evt_1"
    assert said(await channel.receive(Request("GET", path))) == (401, "not-signed")
    assert said(await channel.receive(question("evt_1", secret=THIRD_SECRET))) == (401, "bad-signature")
    other = Request("GET", path, signed_headers(b"", id_="evt_2"))
    assert said(await channel.receive(other)) == (400, "other-id")
    # Another endpoint of the same sender has not this turn.
    elsewhere = Request("GET", "/webhook/shop/turns/evt_1", {"authorization": f"Bearer {TOKEN}"})
    assert said(await channel.receive(elsewhere)) == (404, "unknown-turn")


async def test_an_id_names_one_message_for_good(channel: WebhookChannel) -> None:
    out = outgoing_reply()
    await channel.deliver(out.reply.address, out)
    assert (await channel.receive(signed())).turns
    assert said(await channel.receive(signed(LEAST | {"session_id": "user-43"}))) == (422, "id-used")


@pytest.mark.parametrize("after", ["x", "1-", "1-2-3", "-1", "1" * 20, "\u0661"])
async def test_an_offset_that_is_none_is_400(after: str) -> None:
    state = MemoryState()
    channel = make_channel(state=state, endpoints=ENDPOINTS)
    await state.set({"webhook:session:webhook:crm:evt_1": "user-42"}, ttl_s=60)
    receipt = await channel.receive(changed(question("evt_1", events=True), {"last-event-id": after}))
    assert said(receipt) == (400, "invalid-offset")


async def test_a_turn_without_a_stream_has_no_events() -> None:
    state = MemoryState()
    channel = make_channel(state=state, endpoints=ENDPOINTS)
    await state.set({"webhook:seen:webhook:crm:evt_1": "1"}, ttl_s=60)
    assert said(await channel.receive(question("evt_1", events=True))) == (409, "not-streamed")


class _Away(MemoryState):
    async def get(self, keys: Any) -> list[str | None]:
        raise StoreUnavailable("the state is away")


class _Silent(MemoryState):
    async def get(self, keys: Any) -> list[str | None]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_state_that_says_nothing_does_not_keep_messages_out() -> None:
    channel = make_channel(state=_Silent(), endpoints=ENDPOINTS)
    async with asyncio.timeout(30):
        assert (await channel.receive(signed())).turns


async def test_a_state_that_is_away_does_not_keep_messages_out_and_the_status_is_503() -> None:
    channel = make_channel(state=_Away(), endpoints=ENDPOINTS)
    assert (await channel.receive(signed())).turns
    assert (await channel.receive(question("evt_1"))).on_ok.status_code == 503
