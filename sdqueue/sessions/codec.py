"""Session records as JSON: readable, stamped with a schema version, never pickled."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, Final

from sdqueue.agents import ChatContext, ChatMessage, FlowState
from sdqueue.errors import RecordCorrupt, RecordError, RecordTooNew
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.ring import TurnOutcome, TurnRing

SCHEMA: Final = 1
"""Version of the stored form. A reader refuses what is newer; what is older it must always be able to read."""


def encode(record: SessionRecord) -> str:
    """A whole record as one JSON text.

    Raises:
        RecordError: the record holds something that JSON cannot.
    """
    return _dumps(
        _head(record)
        | {"chat_ctx": [_message(m) for m in record.chat_ctx.items], "turns": [_outcome(o) for o in record.turns]}
    )


def decode(text: str | bytes) -> SessionRecord:
    """The record of :func:`encode`, marked as stored.

    Raises:
        RecordTooNew: a newer release wrote it.
        RecordCorrupt: it is no record.
    """
    fields = _loads(text)
    try:
        return _record(fields, fields["chat_ctx"], fields["turns"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordCorrupt(f"the stored session record is damaged: {type(error).__name__} at {error}") from error


def encode_head(record: SessionRecord) -> str:
    """A record without its messages and turns, which :func:`encode_message` and :func:`encode_outcome` give.

    For stores that append these instead of writing the whole again with every turn.

    Raises:
        RecordError: the record holds something that JSON cannot.
    """
    return _dumps(_head(record))


def encode_message(message: ChatMessage) -> str:
    """One message of the conversation."""
    return _dumps(_message(message))


def encode_outcome(outcome: TurnOutcome) -> str:
    """One outcome of a turn."""
    return _dumps(_outcome(outcome))


def decode_parts(head: str | bytes, messages: Iterable[str | bytes], outcomes: Iterable[str | bytes]) -> SessionRecord:
    """The record of :func:`encode_head`, :func:`encode_message` and :func:`encode_outcome`, marked as stored.

    Raises:
        RecordTooNew: a newer release wrote it.
        RecordCorrupt: it is no record.
    """
    fields = _loads(head)
    try:
        return _record(fields, map(json.loads, messages), map(json.loads, outcomes))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordCorrupt(f"the stored session record is damaged: {type(error).__name__} at {error}") from error


def _head(record: SessionRecord) -> dict[str, Any]:
    flow = record.flow_state
    return {
        "schema": SCHEMA,
        "version": record.version,
        "created_at": record.created_at,
        "last_turn_at": record.last_turn_at,
        "seq": record.seq,
        "metadata": record.metadata,
        "agent_state": record.agent_state,
        "flow_state": None if flow is None else {f: getattr(flow, f) for f in _FLOW_FIELDS},
    }


_FLOW_FIELDS: Final = tuple(f.name for f in dataclasses.fields(FlowState))


def _message(message: ChatMessage) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _outcome(outcome: TurnOutcome) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": outcome.turn_id, "at": outcome.at}
    if outcome.replies is not None:
        fields["replies"] = outcome.replies
    if outcome.state != "completed":
        fields["state"] = outcome.state
    if outcome.by is not None:
        fields["by"] = outcome.by
    return fields


def _record(fields: dict[str, Any], messages: Iterable[dict[str, Any]], turns: Iterable[dict[str, Any]]) -> SessionRecord:
    ring = TurnRing()
    for turn in turns:
        if turn.get("replies") is None:
            ring.ids[turn["id"]] = turn["at"]
        else:
            ring.outcomes[turn["id"]] = TurnOutcome(
                turn["id"], turn["at"], tuple(turn["replies"]), turn.get("state", "completed"), turn.get("by")
            )
    flow = fields["flow_state"]
    record = SessionRecord(
        chat_ctx=ChatContext([ChatMessage(m["role"], m["content"]) for m in messages]),
        flow_state=None if flow is None else FlowState(**{f: flow[f] for f in _FLOW_FIELDS if f in flow}),
        version=fields["version"],
        created_at=fields["created_at"],
        last_turn_at=fields["last_turn_at"],
        metadata=fields["metadata"],
        agent_state=fields["agent_state"],
        turns=ring,
        seq=fields["seq"],
    )
    record.mark_stored()
    return record


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_jsonable)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(
            f"the session record holds something that JSON cannot: {error}; keep only JSON values in metadata, "
            "flow_state and what dump_state returns"
        ) from error


def _jsonable(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} {str(value)[:60]!r}")


def _loads(text: str | bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise RecordCorrupt(f"the stored session record is not JSON: {error}") from error
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if not isinstance(schema, int):
        raise RecordCorrupt("the stored session record has no schema version; something else wrote it")
    if schema > SCHEMA:
        raise RecordTooNew(
            f"the session record has schema {schema}, this release reads up to {SCHEMA}; upgrade this process"
        )
    result: dict[str, Any] = fields
    return result
