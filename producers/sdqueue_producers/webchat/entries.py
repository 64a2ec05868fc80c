"""What a visitor sees, as drafts for the feed; the bodies are what clients get, with the id of the entry."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any, Final

from sdqueue.messages import OutboundReply
from sdqueue_producers.outgoing import Outgoing
from sdqueue_producers.webchat.feed import Draft, Mode

TYPING_SLOT: Final = "typing"


def turn_id(session_id: str, message_id: str) -> str:
    """The id of a visitor's message as a turn: the client chooses its ids only among those of its own session."""
    digest = hashlib.sha256(f"{session_id}\0{message_id}".encode()).hexdigest()
    return f"webchat:{digest[:40]}"


def message(turn: str, message_id: str, text: str) -> Draft:
    """A message of the visitor, that the broker has for good."""
    return Draft(f"said:{turn}", _json(type="message", message=message_id, turn=turn, text=text, at=_now()))


def reply_slot(reply: OutboundReply, part: int) -> str:
    """What a reply is shown as: one slot for the deltas of an answer and its end, another for each further part."""
    number = reply.id.removeprefix(f"{reply.turn_id}:").partition(".")[0]
    return f"{reply.turn_id}:{number}" + (f"/{part}" if part else "")


def shown(outgoing: Outgoing, slot: str, mode: Mode) -> Draft:
    """A reply, or a part of one, as it stays."""
    kind = "error" if outgoing.reply.kind == "error" else "final"
    turn = outgoing.reply.turn_id
    # When the reply was made, not now: a repeat of it is the same to the last byte.
    at = outgoing.reply.created_at.timestamp()
    return Draft(slot, _json(type=kind, message=slot, turn=turn, text=outgoing.text, at=round(at, 3)), mode)


def growing(turn: str, slot: str, text: str) -> Draft:
    """A reply that is being made, as far as it is."""
    return Draft(slot, _json(type="partial", message=slot, turn=turn, text=text), Mode.GROW)


def typing(on: bool, ttl_s: float) -> Draft:
    """That an answer is being made, until a moment, or not."""
    return Draft(TYPING_SLOT, _json(type="typing", on=on, until=_now() + ttl_s * on), Mode.GROW)


def _now() -> float:
    return round(time.time(), 3)


def _json(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
