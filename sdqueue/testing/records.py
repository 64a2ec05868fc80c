"""Records and session ids for the tests of session stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sdqueue.agents import ChatContext, ChatMessage
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.ring import Retention, TurnOutcome

HOSTILE_IDS = [
    "../x",
    "/etc/x",
    "a/b",
    "..",
    ".",
    "a:b",
    "{x}",
    "}{",
    "{}",
    "}x",
    "x}",
    "%2e%2e",
    "*",
    "a b",
    "A",
    "a",
    "ünï",
    "u\u0308",
    "'; --",
    "\u202e\u2028",
    "🦊" * 256,
    "x" * 255 + "y",
    "x" * 256,
]
"""Session ids that a store which pastes them into paths, keys or queries takes for something else."""

UNJSON = [object(), b"bytes", {1, 2}, float("nan"), float("inf"), 1j]
"""Values that JSON cannot hold."""


def make_record(texts: Sequence[str] = (), **fields: Any) -> SessionRecord:
    """A new record in which the user said these."""
    return SessionRecord(chat_ctx=ChatContext([ChatMessage("user", text) for text in texts]), **fields)


def say(record: SessionRecord, *texts: str) -> None:
    """Go on with the conversation, as a turn does."""
    for text in texts:
        record.chat_ctx.append(ChatMessage("assistant", text))


def end(record: SessionRecord, turn_id: str, *replies: str, at: float = 1_000.0, keep: int = 64) -> None:
    """Put the outcome of a turn into the ring."""
    record.turns.add(TurnOutcome(turn_id, at, replies), Retention(replies=keep, ids_s=100.0))


@dataclass
class ForeignMessage:
    """A message as superdialog has it: not frozen."""

    role: str
    content: str


@dataclass
class ForeignContext:
    """A conversation as superdialog has it."""

    items: list[ForeignMessage] = field(default_factory=list)


@dataclass
class ForeignRecord:
    """A record as superdialog's own worker makes it anew for every save: no version to compare, no ring."""

    chat_ctx: ForeignContext = field(default_factory=ForeignContext)
    flow_state: Any = None
    version: int = 1
    created_at: float = 5.0
    last_turn_at: float = 6.0
    metadata: dict[str, Any] = field(default_factory=dict)
