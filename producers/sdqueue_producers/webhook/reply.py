"""The reply as a sender of webhooks sees it: one JSON body for every way that it goes."""

from __future__ import annotations

import json
from typing import Any, Final

from sdqueue.messages import OutboundReply
from sdqueue_producers.webhook.ids import TurnAddress

_INSIDE: Final = frozenset({"consumer"})
"""What consumers add for those who run them: the name of a machine is no business of other companies."""


def reply_body(reply: OutboundReply, address: TurnAddress) -> dict[str, Any]:
    """The body, with turn and session in the sender's own words.

    ``type`` and ``timestamp`` are what Standard Webhooks recommends that a payload has.
    """
    fields = reply.model_dump(mode="json")
    return {
        "type": f"reply.{reply.kind}",
        "timestamp": fields["created_at"],
        "id": reply.id,
        "turn_id": address.id,
        "session_id": address.session,
        "seq": reply.seq,
        "kind": reply.kind,
        "text": reply.text,
        "tool_calls": fields["tool_calls"],
        "metadata": {name: value for name, value in fields["metadata"].items() if name not in _INSIDE},
    }


def to_text(body: dict[str, Any]) -> str:
    """As JSON text, the same each time."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
