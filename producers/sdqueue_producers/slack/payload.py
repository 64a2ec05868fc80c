"""Payload: what Slack has sent, read with the types that it documents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from sdqueue.errors import SdqueueError

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_TS: Final = re.compile(r"[0-9]{1,11}\.[0-9]{1,9}")


class UnreadablePayload(SdqueueError):
    """Something signed by Slack has not the documented shape.

    Parameters:
        detail: which field, and what was expected; never its value, which may be a secret.
    """

    reason = "payload-malformed"


def read_json(body: bytes | str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UnreadablePayload: it is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadablePayload("the body is not JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise UnreadablePayload("the body is JSON, but no object")
    return value


def optional(fields: Mapping[str, Any], name: str) -> str | None:
    """The id in a field; ``None`` where it is absent, null or empty."""
    value = fields.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise UnreadablePayload(f"{name}: must be an id of 1 to 40 letters, digits, _ and -")
    return value


def required(fields: Mapping[str, Any], name: str) -> str:
    """The id in a field."""
    value = optional(fields, name)
    if value is None:
        raise UnreadablePayload(f"{name}: is missing")
    return value


def timestamp(fields: Mapping[str, Any], name: str, *, needed: bool = True) -> str | None:
    """The timestamp in a field, which is the name of a message too, such as ``1700000000.000100``."""
    value = fields.get(name)
    if value is None and not needed:
        return None
    if not isinstance(value, str) or not _TS.fullmatch(value):
        raise UnreadablePayload(f"{name}: must be a timestamp such as 1700000000.000100")
    return value


def mapping(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object in a field; empty where it is absent or null."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnreadablePayload(f"{name}: must be an object")
    return value


def text_of(value: Any) -> str:
    """What somebody has written, without what no text can hold: NUL and halves of characters."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnreadablePayload("text: must be a string")
    return value.replace("\x00", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@dataclass(frozen=True)
class Envelope:
    """The outside of an event.

    Parameters:
        team: the workspace in which it happened.
        install: the installation that sees it, by the id of the workspace or organisation that has installed the app.
        bot: the user id of our bot there; empty where Slack did not say.
        event: the event itself.
        event_id: names the event; an event that is sent again has the same.
        event_time: when it happened, in seconds since 1970; 0 where Slack did not say.
    """

    team: str
    install: str
    bot: str = ""
    event: dict[str, Any] = field(default_factory=dict)
    event_id: str = ""
    event_time: float = 0.0

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> Self:
        """Read an ``event_callback``.

        A channel that is shared by Slack Connect belongs to several workspaces, so the installation is not that of the
        sender, but the one in ``authorizations``.

        Raises:
            UnreadablePayload: it has not the documented shape.
        """
        event = mapping(payload, "event")
        if not isinstance(event.get("type"), str):
            raise UnreadablePayload("event.type: is missing")
        authorizations = payload.get("authorizations") or []
        if not isinstance(authorizations, list) or not all(isinstance(one, dict) for one in authorizations):
            raise UnreadablePayload("authorizations: must be a list of objects")
        seen_by = authorizations[0] if authorizations else payload
        install = installation_id(
            optional(seen_by, "team_id"), optional(seen_by, "enterprise_id"), seen_by.get("is_enterprise_install")
        )
        bot = optional(seen_by, "user_id") if authorizations and seen_by.get("is_bot") else None
        event_time = payload.get("event_time")
        return cls(
            team=optional(payload, "team_id") or install,
            install=install,
            bot=bot or "",
            event=event,
            event_id=optional(payload, "event_id") or "",
            event_time=float(event_time) if isinstance(event_time, int) and 0 <= event_time < 2**40 else 0.0,
        )


def installation_id(team: str | None, enterprise: str | None, whole_organisation: Any) -> str:
    """What an installation is called: the workspace's id (``T…``), or the organisation's (``E…``).

    Parameters:
        team: the workspace; ``None`` where an organisation has installed the app.
        enterprise: the organisation, if the workspace belongs to one.
        whole_organisation: whether the app is installed in the organisation; ``"true"`` in forms.

    Raises:
        UnreadablePayload: there is neither.
    """
    if enterprise and (whole_organisation in (True, "true") or not team):
        return enterprise
    if not team:
        raise UnreadablePayload("team_id: is missing")
    return team
