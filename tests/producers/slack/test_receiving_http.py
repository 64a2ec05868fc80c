"""Requests to the Slack channel: what is Slack's, and what a stranger may send."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sdqueue_producers import MemoryState, Receipt, Request
from sdqueue_producers.slack import SlackChannel, SlackSettings
from sdqueue_producers.slack.channel import STATE_S

from sdqueue.errors import StoreUnavailable
from tests.producers.slack import payloads as p

NOW = 1_700_000_100.0


def channel_of(**given: object) -> SlackChannel:
    told = {"signing_secret": p.SECRET, "bot_token": "xoxb-1"} | given
    return SlackChannel(SlackSettings.load(**told), MemoryState(), clock=lambda: NOW)


@pytest.fixture
async def slack() -> AsyncIterator[SlackChannel]:
    async with channel_of() as channel:
        yield channel


def refused(receipt: Receipt, status: int, reason: str) -> bool:
    body = bytes(receipt.on_ok.body).decode()
    return (
        receipt.turns == ()
        and receipt.after is None
        and receipt.on_ok.status_code == status
        and receipt.reason == reason
        and json.loads(body)["error"] == reason
        and p.SECRET not in body
        and "v0=" not in body
    )


async def test_the_signature_is_the_one_that_slack_documents() -> None:
    # Given the example of Slack's page on verifying requests: secret, time, body and signature are from there
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
        b"&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack"
        b".com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a"
        b"0bc887a14d10d2c447fce8b6703c"
    )
    settings = SlackSettings.load(signing_secret="8f742231b10e8888abcd99yyyzzz85a5", bot_token="xoxb-1")
    slack = SlackChannel(settings, MemoryState(), clock=lambda: 1_531_420_618.0)
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "x-slack-request-timestamp": "1531420618",
        "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    }
    # When it comes
    [turn] = (await slack.receive(Request("POST", "/slack/commands", headers=headers, body=body))).turns
    # Then it is taken
    assert turn.session_id == "slack:T1DC2JH3J:G8PSS9T3V"


async def test_an_event_is_a_turn(slack: SlackChannel) -> None:
    receipt = await slack.receive(p.event_request(p.app_mention(), at=NOW))
    assert [turn.text for turn in receipt.turns] == ["hello"]
    assert receipt.on_ok.status_code == 200
    assert receipt.on_fail.status_code == 503


async def test_an_event_that_is_sent_again_is_the_same_turn_and_never_dropped_by_its_number(
    slack: SlackChannel,
) -> None:
    first = await slack.receive(p.event_request(p.direct(), at=NOW))
    again = await slack.receive(
        p.event_request(p.direct(), at=NOW, x_slack_retry_num="3", x_slack_retry_reason="http_timeout")
    )
    assert again.turns == first.turns != ()


async def test_a_replayed_request_is_the_same_turn_and_later_none(slack: SlackChannel) -> None:
    request = p.event_request(p.direct(), at=NOW - 299)
    assert (await slack.receive(request)).turns == (await slack.receive(request)).turns
    assert refused(await slack.receive(p.event_request(p.direct(), at=NOW - 302)), 401, "signature-wrong")


async def test_the_address_is_verified_by_its_challenge(slack: SlackChannel) -> None:
    receipt = await slack.receive(p.event_request(p.url_verification("challenge-1"), at=NOW))
    assert (receipt.turns, receipt.on_ok.status_code, bytes(receipt.on_ok.body)) == ((), 200, b"challenge-1")
    unsigned = replace(p.event_request(p.url_verification(), at=NOW), headers={"content-type": "application/json"})
    assert refused(await slack.receive(unsigned), 401, "signature-missing")


@pytest.mark.parametrize("challenge", [None, 5, "", "x" * 2000, "é", {"a": 1}])
async def test_a_wrong_challenge_is_not_echoed(slack: SlackChannel, challenge: object) -> None:
    payload = p.url_verification() | {"challenge": challenge}
    assert refused(await slack.receive(p.event_request(payload, at=NOW)), 400, "payload-malformed")


@pytest.mark.parametrize("path", ["/slack/commands", "/slack/events", "/slack/interactions"])
async def test_the_certificate_check_is_answered(slack: SlackChannel, path: str) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    receipt = await slack.receive(Request("POST", path, headers=headers, body=b"ssl_check=1&token=abc"))
    assert (receipt.turns, receipt.on_ok.status_code, receipt.reason) == ((), 200, "ssl-check")
    signed = p.form_request({"token": "abc", "ssl_check": "1"}, at=NOW)
    assert (await slack.receive(signed)).reason == "ssl-check"


GOOD = json.dumps(p.app_mention()).encode()


def headers_with(timestamp: str | None, signature: str | None) -> dict[str, str]:
    told = {"content-type": "application/json"}
    told |= {} if timestamp is None else {"x-slack-request-timestamp": timestamp}
    return told | ({} if signature is None else {"x-slack-signature": signature})


@pytest.mark.parametrize(
    ("timestamp", "signature", "reason"),
    [
        (None, None, "signature-missing"),
        ("1700000100", None, "signature-missing"),
        (None, p.sign(GOOD, "1700000100"), "signature-missing"),
        ("", "", "signature-missing"),
        ("1700000100", "v0=" + "0" * 64, "signature-wrong"),
        ("1700000100", "v0=", "signature-wrong"),
        ("1700000100", "garbage", "signature-wrong"),
        ("1700000100", p.sign(GOOD, "1700000100")[3:], "signature-wrong"),
        ("1700000100", p.sign(GOOD, "1700000100").upper(), "signature-wrong"),
        ("1700000100", p.sign(GOOD, "1700000100", "other-secret"), "signature-wrong"),
        ("1700000100", p.sign(GOOD + b" ", "1700000100"), "signature-wrong"),
        ("1700000101", p.sign(GOOD, "1700000100"), "signature-wrong"),
        ("1699999799", p.sign(GOOD, "1699999799"), "signature-wrong"),  # 301 s old
        ("1700000401", p.sign(GOOD, "1700000401"), "signature-wrong"),  # 301 s to come
        ("-1700000100", p.sign(GOOD, "-1700000100"), "signature-wrong"),
        ("9" * 400, p.sign(GOOD, "9" * 400), "signature-malformed"),
        ("9" * 5000, p.sign(GOOD, "9" * 5000), "signature-malformed"),
        ("yesterday", p.sign(GOOD, "yesterday"), "signature-malformed"),
        ("1700000100.5", p.sign(GOOD, "1700000100.5"), "signature-malformed"),
        ("1700000100", "v0=é", "signature-malformed"),
        ("1700000100", "\udcff", "signature-malformed"),
    ],
)
async def test_what_is_not_slacks_is_refused(
    slack: SlackChannel, timestamp: str | None, signature: str | None, reason: str
) -> None:
    request = Request("POST", "/slack/events", headers=headers_with(timestamp, signature), body=GOOD)
    assert refused(await slack.receive(request), 401, reason)


async def test_a_signed_body_that_is_not_utf_8_is_refused(slack: SlackChannel) -> None:
    assert refused(await slack.receive(p.signed(b'{"type": "\xff"}', at=NOW)), 401, "signature-malformed")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "payload-malformed"),
        (b"{", "payload-malformed"),
        (b"[]", "payload-malformed"),
        (b"5", "payload-malformed"),
        (b"null", "payload-malformed"),
        (b'"text"', "payload-malformed"),
        (b"[" * 100_000, "payload-malformed"),
        (b'{"type": "event_callback"}', "payload-malformed"),
        (b'{"type": "event_callback", "event": 5}', "payload-malformed"),
        (b'{"type": "url_verification"}', "payload-malformed"),
        (b'{"a": ' + b"9" * 5000 + b"}", "payload-malformed"),
    ],
)
async def test_signed_nonsense_is_refused(slack: SlackChannel, body: bytes, reason: str) -> None:
    assert refused(await slack.receive(p.signed(body, at=NOW)), 400, reason)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_events_are_json(slack: SlackChannel, content_type: str) -> None:
    assert refused(await slack.receive(p.signed(GOOD, at=NOW, content_type=content_type)), 415, "content-type-wrong")


async def test_a_content_type_may_say_more(slack: SlackChannel) -> None:
    assert (await slack.receive(p.signed(GOOD, at=NOW, content_type="Application/JSON; charset=utf-8"))).turns


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_slack_posts(slack: SlackChannel, method: str) -> None:
    receipt = await slack.receive(replace(p.signed(GOOD, at=NOW), method=method))
    assert refused(receipt, 405, "method-not-allowed")
    assert receipt.on_ok.headers["allow"] == "POST"


async def test_without_a_signing_secret_nothing_is_received_over_http() -> None:
    slack = channel_of(signing_secret="", app_token="xapp-1")
    assert slack.paths == ()
    assert refused(await slack.receive(p.signed(GOOD, at=NOW, secret="x")), 404, "not-found")


async def test_a_state_that_is_away_lets_slack_send_again() -> None:
    class Away(MemoryState):
        async def get(self, keys: object) -> list[str | None]:
            raise StoreUnavailable("redis://user:password@host is away")

    slack = SlackChannel(SlackSettings.load(signing_secret=p.SECRET, bot_token="x"), Away(), clock=lambda: NOW)
    receipt = await slack.receive(p.event_request(p.thread_reply(), at=NOW))
    assert refused(receipt, 503, "state-unavailable")
    assert "password" not in bytes(receipt.on_ok.body).decode()


async def test_a_state_that_says_nothing_is_given_up_before_slack_gives_up_us() -> None:
    class Silent(MemoryState):
        async def get(self, keys: object) -> list[str | None]:
            await asyncio.Event().wait()
            raise AssertionError

    slack = SlackChannel(SlackSettings.load(signing_secret=p.SECRET, bot_token="x"), Silent(), clock=lambda: NOW)
    assert slack.caps.ack_deadline_s - 2 >= STATE_S
    receipt = await slack.receive(p.event_request(p.thread_reply(), at=NOW))
    assert refused(receipt, 503, "state-unavailable")


# Slash commands


async def test_a_command_is_a_turn_of_its_channel(slack: SlackChannel) -> None:
    # Given /ask in a channel
    receipt = await slack.receive(p.form_request(p.command(), at=NOW))
    # Then it is a turn whose answer goes to the channel, and nothing is shown at once
    [turn] = receipt.turns
    assert turn.text == "what is #random for & why?"
    assert turn.session_id == "slack:T1:C1"
    assert turn.sender == "T1:U1"
    assert turn.address == {
        "install": "T1", "channel": "C1", "thread_ts": None, "ts": None,
        "assistant": False, "user": "U1", "recipient_team": "T1",
    }  # fmt: skip
    assert turn.metadata["slack"]["command"] == "/ask"
    assert (receipt.on_ok.status_code, bytes(receipt.on_ok.body)) == (200, b"")
    # And its secrets are in no turn
    wire = turn.to_bytes().decode()
    assert "secret-response" not in wire
    assert p.command()["trigger_id"] not in wire
    # And it is named by its trigger
    assert (await slack.receive(p.form_request(p.command(), at=NOW))).turns[0].id == turn.id
    assert (await slack.receive(p.form_request(p.command(trigger_id="2"), at=NOW))).turns[0].id != turn.id


async def test_a_command_in_a_direct_message_goes_on_with_its_session(slack: SlackChannel) -> None:
    [command] = (await slack.receive(p.form_request(p.command(channel_id="D1"), at=NOW))).turns
    [said] = (await slack.receive(p.event_request(p.direct(), at=NOW))).turns
    assert command.session_id == said.session_id


async def test_a_command_in_an_organisation_goes_to_its_installation(slack: SlackChannel) -> None:
    form = p.command(enterprise_id="E1", is_enterprise_install="true")
    [turn] = (await slack.receive(p.form_request(form, at=NOW))).turns
    assert (turn.address["install"], turn.sender) == ("E1", "T1:U1")
    [turn] = (await slack.receive(p.form_request(form | {"is_enterprise_install": "false"}, at=NOW))).turns
    assert turn.address["install"] == "T1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"text=hello",
        urlencode(p.command(trigger_id="")).encode(),
        urlencode(p.command(trigger_id="x" * 300)).encode(),
        urlencode(p.command(command="ask")).encode(),
        urlencode(p.command(channel_id="")).encode(),
        urlencode(p.command(channel_id="C1\n")).encode(),
        urlencode(p.command(user_id="")).encode(),
        urlencode(p.command(team_id="")).encode(),
        urlencode(p.command(text="x" * 300_000)).encode(),
        urlencode(p.command()).encode() + b"&text=%ff",
        b"a=1&" * 200 + urlencode(p.command()).encode(),
    ],
)
async def test_wrong_commands_are_refused(slack: SlackChannel, body: bytes) -> None:
    request = p.signed(body, at=NOW, path="/slack/commands", content_type="application/x-www-form-urlencoded")
    receipt = await slack.receive(request)
    assert refused(receipt, 400, receipt.reason)
    assert receipt.reason in ("payload-malformed", "turn-invalid")


async def test_commands_need_a_signature_and_a_form(slack: SlackChannel) -> None:
    good = p.form_request(p.command(), at=NOW)
    unsigned = replace(good, headers={"content-type": "application/x-www-form-urlencoded"})
    assert refused(await slack.receive(unsigned), 401, "signature-missing")
    as_json = p.signed(json.dumps(p.command()).encode(), at=NOW, path="/slack/commands")
    assert refused(await slack.receive(as_json), 415, "content-type-wrong")


async def test_buttons_are_answered_and_ignored(slack: SlackChannel) -> None:
    receipt = await slack.receive(p.form_request(p.interaction(), path="/slack/interactions", at=NOW))
    assert (receipt.turns, receipt.on_ok.status_code, receipt.reason) == ((), 200, "interaction")


# Anything


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
KINDS = [p.app_mention, p.message, p.direct, p.file_share, p.thread_reply, p.assistant_thread, p.app_uninstalled,
         p.shared_channel, p.organisation, p.app_rate_limited, p.url_verification]  # fmt: skip


@given(kind=st.sampled_from(KINDS), data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_signed_payload_raises(slack: SlackChannel, kind: object, data: st.DataObject) -> None:
    # Given a payload with some fields replaced by anything
    payload = kind()  # type: ignore[operator]
    for fields in (payload, payload.get("event")):
        if isinstance(fields, dict):
            for name in data.draw(st.lists(st.sampled_from(sorted(fields)), max_size=3)):
                fields[name] = data.draw(JSON)
    # When it comes
    receipt = await slack.receive(p.event_request(payload, at=NOW))
    # Then it is taken or refused, and never an error of ours
    assert receipt.on_ok.status_code in (200, 400)
    for turn in receipt.turns:
        assert turn.to_bytes()


@given(body=st.binary(max_size=200), timestamp=st.text(max_size=30), signature=st.text(max_size=80))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_nothing_that_a_stranger_sends_is_taken(
    slack: SlackChannel, body: bytes, timestamp: str, signature: str
) -> None:
    headers = headers_with(timestamp, signature)
    receipt = await slack.receive(Request("POST", "/slack/events", headers=headers, body=body))
    assert (receipt.turns, receipt.on_ok.status_code) == ((), 401)


async def test_the_clock_is_the_machines_unless_told() -> None:
    slack = SlackChannel(SlackSettings.load(signing_secret=p.SECRET, bot_token="x"), MemoryState())
    assert (await slack.receive(p.event_request(p.direct()))).turns
    assert refused(await slack.receive(p.event_request(p.direct(), at=time.time() - 400)), 401, "signature-wrong")
