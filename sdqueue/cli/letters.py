"""Dead letters as people and scripts read them."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sdqueue.deadletters import DeadLetter
from sdqueue.errors import ConfigurationError
from sdqueue.messages import SDQUEUE_HEADERS

MAX_PADDING: Final = 40
"""A longer id moves the rest of its own line only."""

LEAST_OF_ERROR: Final = 40

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(option: str, text: str | None) -> datetime | None:
    """A point in time as people give it: a date, or how long ago.

    Raises:
        ConfigurationError: it is neither.
    """
    if text is None:
        return None
    try:
        if ago := re.fullmatch(r"(\d+)([smhd])", text):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{option}: {text!r} is no time; give a date and time such as 2026-03-01T12:00, or how long ago: 90s, 30m, "
            "2h or 7d"
        ) from None


def as_fields(letter: DeadLetter) -> dict[str, Any]:
    """A letter as JSON, without its message."""
    return {"name": letter.name, "fingerprint": letter.fingerprint} | letter.why.model_dump(mode="json")


def body_of(letter: DeadLetter) -> dict[str, Any]:
    """The message of a letter as JSON; a body that is no text is in base64."""
    message = letter.message
    fields = {
        "message_id": message.message_id,
        "correlation_id": message.correlation_id,
        "reply_to": message.reply_to,
        "content_type": message.content_type,
        "headers": _own_headers(letter),
    }
    try:
        fields["body"] = message.body.decode()
    except UnicodeDecodeError:
        fields["body_base64"] = base64.b64encode(message.body).decode()
    return {"message": fields}


def safe(text: str) -> str:
    """A text that does nothing to a terminal but to be shown: anybody may have written what a letter quotes."""
    return "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)


def print_table(letters: Iterable[DeadLetter]) -> None:
    """Letters as a table, one a line. Ids are whole, to be copied; the error is cut to what is left of the line."""
    rows = [["turn", "session", "channel", "reason", "attempts", "replays", "died at", "error"]]
    for letter in letters:
        why = letter.why
        counts = (str(why.attempts), str(why.replay))
        shown = (letter.name, why.session_id, why.channel, why.reason, *counts, _time(why.died_at), why.error)
        rows.append([safe(value).replace("\n", " ") for value in shown])
    widths = [min(MAX_PADDING, max(map(len, column))) for column in zip(*rows, strict=True)]
    for *cells, error in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        left = max(LEAST_OF_ERROR, shutil.get_terminal_size().columns - len(line) - 2)
        print(f"{line}  {error if len(error) <= left else error[: left - 1] + '…'}")


def print_details(letter: DeadLetter) -> None:
    """All of a letter."""
    why, message = letter.why, letter.message
    known = {
        **({"reply": why.reply_id} if letter.is_reply else {}),
        "turn": why.turn_id or f"{letter.name} (it has no id)",
        "session": why.session_id,
        "channel": why.channel,
        "reason": why.reason,
        "error": why.error,
        "attempts": str(why.attempts),
        "replays": str(why.replay),
        "died at": _time(why.died_at),
        "queue": why.queue,
        "routing key": why.routing_key,
        "consumer": why.consumer,
        "reply to": message.reply_to or "",
        "fingerprint": letter.fingerprint,
    }
    for name, value in known.items():
        print(safe(f"{name:<12} {value}".rstrip()))
    for title, text in (
        ("trace", why.trace),
        ("headers", json.dumps(_own_headers(letter), indent=2, ensure_ascii=False)),
        (f"body, {len(message.body)} bytes", _readable(message.body)),
    ):
        if text:
            print(f"{title}:")
            print("\n".join(f"  {safe(line)}" for line in text.splitlines()))
    print()


def _own_headers(letter: DeadLetter) -> dict[str, Any]:
    """Those that do not repeat what is known of its death."""
    return {name: value for name, value in letter.message.headers.items() if not name.startswith(SDQUEUE_HEADERS)}


def _readable(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return repr(body)
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _time(at: datetime | None) -> str:
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()
