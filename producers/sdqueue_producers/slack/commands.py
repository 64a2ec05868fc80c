"""Slash commands: ``/ask what is up`` is the turn ``what is up`` of the channel's session."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from sdqueue.errors import InvalidTurn
from sdqueue.messages import InboundTurn
from sdqueue_producers.request import Receipt, refusal
from sdqueue_producers.slack.payload import UnreadablePayload, installation_id, optional, required, text_of
from sdqueue_producers.slack.plain import plain_text

MAX_FIELDS: Final = 100
"""Fields of a form; Slack sends less than twenty."""


def read_form(body: bytes) -> dict[str, str]:
    """The fields of an ``application/x-www-form-urlencoded`` body.

    Raises:
        UnreadablePayload: it is none.
    """
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
    except ValueError:
        raise UnreadablePayload(f"the body is not a form in UTF-8 with at most {MAX_FIELDS} fields") from None


def read_command(form: Mapping[str, Any], *, stream: bool, now: float) -> Receipt:
    """The turn in a slash command. It is answered with an empty 200, so that nothing but the reply is shown.

    The session is the channel, or the direct message, in which the command was given, and the reply goes there, for all
    to see: a command is in no thread. ``response_url`` would show a reply to one person, but it is a secret, and lasts
    half an hour, so it is not used.

    Parameters:
        form: the fields, over HTTP or Socket Mode.
        stream: whether delta replies are wanted.
        now: in seconds since 1970.
    """
    try:
        return Receipt(turns=(_turn(form, stream, now),))
    except UnreadablePayload as error:
        return refusal(400, error.reason, f"{error}")
    except InvalidTurn as error:
        return refusal(400, "turn-invalid", f"{error}")


def _turn(form: Mapping[str, Any], stream: bool, now: float) -> InboundTurn:
    trigger = form.get("trigger_id")
    if not isinstance(trigger, str) or not 0 < len(trigger) <= 256:
        raise UnreadablePayload("trigger_id: is missing, or longer than 256 characters")
    command = form.get("command")
    if not isinstance(command, str) or not command.startswith("/"):
        raise UnreadablePayload("command: must begin with /")
    team = optional(form, "team_id")
    install = installation_id(team, optional(form, "enterprise_id"), form.get("is_enterprise_install"))
    channel, user = required(form, "channel_id"), required(form, "user_id")
    team = team or install
    return InboundTurn.make(
        {
            # Hashed: whoever has a trigger can open a window at the user's for some seconds.
            "id": f"slack:{team}:command:{hashlib.sha256(text_of(trigger).encode()).hexdigest()[:40]}",
            "session_id": f"slack:{install}:{channel}",
            "text": plain_text(text_of(form.get("text"))),
            "channel": "slack",
            "address": {
                "install": install,
                "channel": channel,
                "thread_ts": None,
                "ts": None,
                "assistant": False,
                "user": user,
                "recipient_team": team,
            },
            "sender": f"{team}:{user}",
            "metadata": {
                "slack": {
                    "team": team,
                    "install": install,
                    "channel": channel,
                    "user": user,
                    "user_team": team,
                    "event": "slash_command",
                    "command": text_of(command)[:256],
                }
            },
            "created_at": datetime.fromtimestamp(now, UTC),
            "stream": stream,
        }
    )
