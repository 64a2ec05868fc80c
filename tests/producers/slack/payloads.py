"""Payloads in the shapes that Slack documents for its Events API, slash commands and Socket Mode; and their signature.

One function a kind. ``**more`` replaces or adds fields of the event; ``envelope`` does so outside of it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any
from urllib.parse import urlencode

from sdqueue_producers.request import Request

SECRET = "signing-secret-1"
BOT = "UBOT1"

Payload = dict[str, Any]


def event_callback(event: Payload, **envelope: Any) -> Payload:
    return {
        "token": "verification-token",
        "team_id": "T1",
        "context_team_id": "T1",
        "context_enterprise_id": None,
        "api_app_id": "A1",
        "event": event,
        "type": "event_callback",
        "event_id": "Ev1",
        "event_time": 1700000000,
        "authorizations": [
            {"enterprise_id": None, "team_id": "T1", "user_id": BOT, "is_bot": True, "is_enterprise_install": False}
        ],
        "is_ext_shared_channel": False,
        "event_context": "4-abc",
    } | envelope


def app_mention(text: str = f"<@{BOT}> hello", envelope: Payload | None = None, **more: Any) -> Payload:
    event = {
        "type": "app_mention",
        "user": "U1",
        "text": text,
        "ts": "1700000000.000100",
        "client_msg_id": "11111111-2222-4333-8444-555555555555",
        "team": "T1",
        "blocks": [],
        "channel": "C1",
        "event_ts": "1700000000.000100",
    }
    return event_callback(event | more, **envelope or {})


def message(text: str = "hello", envelope: Payload | None = None, **more: Any) -> Payload:
    event = {
        "type": "message",
        "channel": "C1",
        "user": "U1",
        "text": text,
        "ts": "1700000000.000100",
        "client_msg_id": "11111111-2222-4333-8444-555555555555",
        "team": "T1",
        "blocks": [],
        "event_ts": "1700000000.000100",
        "channel_type": "channel",
    }
    return event_callback(event | more, **envelope or {})


def direct(text: str = "hello", **more: Any) -> Payload:
    return message(text, **{"channel": "D1", "channel_type": "im"} | more)


def group_direct(text: str = "hello", **more: Any) -> Payload:
    return message(text, **{"channel": "G1", "channel_type": "mpim"} | more)


def file_share(**more: Any) -> Payload:
    file = {
        "id": "F1",
        "created": 1700000000,
        "name": "report.pdf",
        "title": "Report",
        "mimetype": "application/pdf",
        "filetype": "pdf",
        "size": 12345,
        "mode": "hosted",
        "url_private": "https://files.slack.com/files-pri/T1-F1/report.pdf",
        "url_private_download": "https://files.slack.com/files-pri/T1-F1/download/report.pdf",
        "permalink_public": "https://slack-files.com/T1-F1-publicsecret",
    }
    return direct(**{"text": "see this", "subtype": "file_share", "files": [file], "upload": False} | more)


def connect_file() -> Payload:
    """A file of a Slack Connect channel, of which an app is told nothing but the id."""
    return app_mention(files=[{"id": "F2", "mode": "file_access", "file_access": "check_file_info"}])


def thread_broadcast(**more: Any) -> Payload:
    root = {
        "user": "U2",
        "type": "message",
        "ts": "1699999999.000100",
        "text": "root",
        "thread_ts": "1699999999.000100",
    }
    return message(
        **{
            "text": f"<@{BOT}> to all",
            "subtype": "thread_broadcast",
            "thread_ts": "1699999999.000100",
            "root": root,
        }
        | more
    )


def thread_reply(text: str = "and then?", **more: Any) -> Payload:
    return message(text, **{"thread_ts": "1699999999.000100", "parent_user_id": "U2", "ts": "1700000001.000100"} | more)


def bot_message(**more: Any) -> Payload:
    """An integration's, without a user."""
    payload = message("deployed", subtype="bot_message", bot_id="B9", username="ci", **more)
    del payload["event"]["user"]
    return payload


def own_message(**more: Any) -> Payload:
    """What the bot itself has posted comes back as an event."""
    profile = {"id": "B1", "name": "Assistant", "app_id": "A1", "team_id": "T1"}
    return direct("my answer", user=BOT, bot_id="B1", app_id="A1", bot_profile=profile, **more)


def message_changed() -> Payload:
    edited = {
        "type": "message",
        "user": "U1",
        "text": "hello, edited",
        "ts": "1700000000.000100",
        "edited": {"user": "U1"},
    }
    payload = direct(subtype="message_changed", message=edited, previous_message=edited, hidden=True)
    del payload["event"]["user"], payload["event"]["text"]
    return payload


def message_deleted() -> Payload:
    payload = direct(subtype="message_deleted", hidden=True, deleted_ts="1699999999.000100")
    del payload["event"]["user"], payload["event"]["text"]
    return payload


def happened(subtype: str) -> Payload:
    return message(f"<@U1> has done something ({subtype}) with <@{BOT}>", subtype=subtype)


HAPPENED = (
    "channel_join", "channel_leave", "channel_topic", "channel_purpose", "channel_name", "channel_archive",
    "group_join", "group_topic", "pinned_item", "bot_add", "reminder_add", "assistant_app_thread",
)  # fmt: skip


def assistant_thread(kind: str = "assistant_thread_started", context: Payload | None = None) -> Payload:
    event = {
        "type": kind,
        "assistant_thread": {
            "user_id": "U1",
            "context": {"channel_id": "C7", "team_id": "T1", "enterprise_id": None} if context is None else context,
            "channel_id": "D1",
            "thread_ts": "1699999000.000100",
        },
        "event_ts": "1699999000.000200",
    }
    payload = event_callback(event, authed_users=["U1"])
    del payload["authorizations"]
    return payload


def app_uninstalled(**envelope: Any) -> Payload:
    payload = event_callback({"type": "app_uninstalled"}, **envelope)
    del payload["authorizations"]
    return payload


def tokens_revoked(**tokens: list[str]) -> Payload:
    payload = event_callback({"type": "tokens_revoked", "tokens": tokens})
    del payload["authorizations"]
    return payload


def app_rate_limited() -> Payload:
    return {
        "token": "verification-token",
        "type": "app_rate_limited",
        "team_id": "T1",
        "minute_rate_limited": 1700000000,
        "api_app_id": "A1",
    }


def url_verification(challenge: str = "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P") -> Payload:
    return {"token": "verification-token", "challenge": challenge, "type": "url_verification"}


def shared_channel(**more: Any) -> Payload:
    """Slack Connect: somebody of workspace T2 writes in a channel that is shared with T1, which has the bot."""
    return app_mention(
        user="U2",
        team="T2",
        user_team="T2",
        source_team="T2",
        envelope={"team_id": "T2", "context_team_id": "T1", "is_ext_shared_channel": True},
        **more,
    )


def organisation(**more: Any) -> Payload:
    """The app is installed in all of an organisation."""
    seen_by = {"enterprise_id": "E1", "team_id": "T1", "user_id": BOT, "is_bot": True, "is_enterprise_install": True}
    return app_mention(envelope={"enterprise_id": "E1", "authorizations": [seen_by]}, **more)


def command(**more: str) -> dict[str, str]:
    return {
        "token": "verification-token",
        "team_id": "T1",
        "team_domain": "example",
        "channel_id": "C1",
        "channel_name": "general",
        "user_id": "U1",
        "user_name": "ann",
        "command": "/ask",
        "text": "what is <#C2|random> for &amp; why?",
        "api_app_id": "A1",
        "is_enterprise_install": "false",
        "response_url": "https://hooks.slack.com/commands/T1/1/secret-response",
        "trigger_id": "13345224609.738474920.8088930838d88f008e0",
    } | more


def interaction() -> dict[str, str]:
    payload = {"type": "block_actions", "user": {"id": "U1"}, "team": {"id": "T1"}, "actions": [{"action_id": "a"}]}
    return {"payload": json.dumps(payload)}


# Requests


def sign(body: bytes, timestamp: str, secret: str = SECRET) -> str:
    """As Slack's documentation describes it."""
    return "v0=" + hmac.new(secret.encode(), b"v0:" + timestamp.encode() + b":" + body, hashlib.sha256).hexdigest()


def signed(
    body: bytes,
    *,
    path: str = "/slack/events",
    content_type: str = "application/json",
    at: float | None = None,
    secret: str = SECRET,
    **headers: str,
) -> Request:
    """A request of Slack's."""
    timestamp = str(int(time.time() if at is None else at))
    told = {
        "content-type": content_type,
        "x-slack-request-timestamp": timestamp,
        "x-slack-signature": sign(body, timestamp, secret),
    }
    return Request(
        "POST", path, headers=told | {name.replace("_", "-"): value for name, value in headers.items()}, body=body
    )


def event_request(payload: Payload, *, at: float | None = None, **headers: str) -> Request:
    return signed(json.dumps(payload).encode(), at=at, **headers)


def form_request(form: dict[str, str], path: str = "/slack/commands", *, at: float | None = None) -> Request:
    return signed(urlencode(form).encode(), at=at, path=path, content_type="application/x-www-form-urlencoded")
