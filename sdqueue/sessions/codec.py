"""Session records as JSON: readable, stamped with a schema version, never pickled.

What comes back is what JSON can say: keys are strings, tuples lists, and objects with ``model_dump`` dicts.
Everything else that JSON cannot hold is refused when it is written. Text may hold lone surrogates.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sdqueue.agents import ChatContext, ChatMessage, FlowState, ToolCall
from sdqueue.errors import RecordCorrupt, RecordError, RecordTooNew
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.ring import TurnOutcome, TurnRing

SCHEMA: Final = 1
"""Version of the stored form. A reader refuses what is newer; what is older it must always read."""

_NUMBER: Final = (int, float)
_HEAD_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "version": (int,),
    "born": (str,),
    "created_at": _NUMBER,
    "last_turn_at": _NUMBER,
    "seq": (int,),
    "metadata": (dict,),
}
_OPTIONAL: Final = ("parked_by", "route")
"""Texts that are left out where there are none."""

_CALL_TYPES: Final[dict[str, tuple[type, ...]]] = {"id": (str,), "name": (str,), "arguments": (dict,)}
_FLOW_TYPES: Final[dict[str, tuple[type, ...]]] = {
    f.name: (str,) if f.name == "current_node_id" else (list,) if f.name == "transition_log" else (dict,)
    for f in dataclasses.fields(FlowState)
}


def encode(record: SessionRecord) -> str:
    """A whole record as one JSON text.

    Raises:
        RecordError: the record holds something that JSON cannot.
    """
    return _dumps(
        _head(record)
        | {
            "chat_ctx": [_message(m) for m in record.chat_ctx.items],
            "turns": [_outcome(o) for o in record.turns],
        }
    )


def decode(text: str | bytes) -> SessionRecord:
    """The record of :func:`encode`, marked as stored.

    Raises:
        RecordTooNew: a newer release wrote it.
        RecordCorrupt: it is no record.
    """
    fields = _open(text)
    with _damage():
        return _record(fields, fields["chat_ctx"], fields["turns"])


def encode_head(record: SessionRecord) -> str:
    """A record without its messages and turns, which :func:`encode_message` and :func:`encode_outcome` give.

    For stores that append these instead of writing the whole again with every turn.

    Raises:
        RecordError: the record holds something that JSON cannot.
    """
    return _dumps(_head(record))


def encode_message(message: ChatMessage) -> str:
    """One message of the conversation.

    Raises:
        RecordError: it holds something that JSON cannot.
    """
    return _dumps(_message(message))


def encode_outcome(outcome: TurnOutcome) -> str:
    """One outcome of a turn.

    Raises:
        RecordError: it holds something that JSON cannot.
    """
    return _dumps(_outcome(outcome))


def decode_outcome(text: str | bytes) -> TurnOutcome:
    """The outcome of :func:`encode_outcome`.

    Raises:
        RecordCorrupt: it is none.
    """
    with _damage():
        return _turn_outcome(_load(text))


def decode_parts(head: str | bytes, messages: Iterable[str | bytes], outcomes: Iterable[str | bytes]) -> SessionRecord:
    """The record of :func:`encode_head`, :func:`encode_message` and :func:`encode_outcome`, marked as stored.

    Raises:
        RecordTooNew: a newer release wrote it.
        RecordCorrupt: it is no record.
    """
    fields = _open(head)
    with _damage():
        return _record(fields, _load_all(list(messages)), _load_all(list(outcomes)))


@contextmanager
def naming(session_id: str) -> Iterator[None]:
    """Say in every :class:`~sdqueue.errors.RecordError` of the block which session it is about."""
    try:
        yield
    except RecordError as error:
        raise type(error)(f"session {session_id!r}: {error}") from error


def _head(record: SessionRecord) -> dict[str, Any]:
    head = {
        "schema": SCHEMA,
        "version": record.version,
        "born": record.stored.born,
        "created_at": record.created_at,
        "last_turn_at": record.last_turn_at,
        "seq": record.seq,
        "metadata": record.metadata,
        "agent_state": record.agent_state,
        "flow_state": None,
    }
    head |= {name: value for name in _OPTIONAL if (value := getattr(record, name)) is not None}
    # What is written here must be readable again, so the same types are demanded in both directions.
    wrong = _wrong(head, _HEAD_TYPES) or _wrong_optional(head)
    flow = record.flow_state
    if flow is not None:
        head["flow_state"] = fields = {name: getattr(flow, name, None) for name in _FLOW_TYPES}
        wrong = wrong or _wrong(fields, _FLOW_TYPES)
    if wrong:
        raise RecordError(f"the session record cannot be saved: {wrong}")
    return head


def _message(message: ChatMessage) -> dict[str, Any]:
    try:
        role, content = message.role, message.content
    except AttributeError as error:
        raise RecordError(
            f"a {type(message).__name__} in chat_ctx is no message: {error}; use ChatMessage(role, content)"
        ) from error
    if not isinstance(role, str):
        raise RecordError(f"the role of a message is a {type(role).__name__}; use a string such as 'user'")
    fields: dict[str, Any] = {"role": role, "content": content}
    if type(message) is ChatMessage:  # one of superdialog's has no more than these
        if message.tool_calls:
            fields["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            fields["tool_call_id"] = message.tool_call_id
    return fields


def _tool_call(call: ToolCall) -> dict[str, Any]:
    fields = {"id": call.id, "name": call.name, "arguments": call.arguments}
    if wrong := _wrong(fields, _CALL_TYPES):
        raise RecordError(f"a tool call in chat_ctx cannot be saved: {wrong}")
    return fields


def _outcome(outcome: TurnOutcome) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": outcome.turn_id, "at": outcome.at}
    if outcome.replies is not None:
        fields["replies"] = outcome.replies
    if outcome.state != "completed":
        fields["state"] = outcome.state
    if outcome.by is not None:
        fields["by"] = outcome.by
    if outcome.replay:
        fields["replay"] = outcome.replay
    if wrong := _wrong_outcome(fields):
        raise RecordError(f"the outcome of a turn cannot be saved: {wrong}")
    return fields


def _record(fields: dict[str, Any], messages: Sequence[Any], turns: Sequence[Any]) -> SessionRecord:
    """The record of decoded JSON; damage raises TypeError, ValueError, KeyError or AttributeError."""
    flow = fields["flow_state"]
    fields = {"born": ""} | fields  # records of before lives had names
    wrong = _wrong(fields, _HEAD_TYPES) or _wrong_optional(fields)
    if flow is not None:
        if not isinstance(flow, dict):
            raise TypeError("flow_state is not an object")
        flow = {name: flow[name] for name in _FLOW_TYPES if name in flow}
        wrong = wrong or _wrong(flow, {name: _FLOW_TYPES[name] for name in flow})
    if wrong:
        raise TypeError(wrong)
    if not isinstance(messages, list) or not isinstance(turns, list):
        raise TypeError("chat_ctx and turns are not both lists")
    record = SessionRecord(
        chat_ctx=ChatContext([_chat_message(m) for m in messages]),
        flow_state=None if flow is None else FlowState(**flow),
        version=fields["version"],
        created_at=fields["created_at"],
        last_turn_at=fields["last_turn_at"],
        metadata=fields["metadata"],
        agent_state=fields["agent_state"],
        turns=_ring(turns),
        seq=fields["seq"],
        parked_by=fields.get("parked_by"),
        route=fields.get("route"),
    )
    record.mark_stored(Stored(record.version, len(messages), fields["born"]))
    return record


def _chat_message(fields: Any) -> ChatMessage:
    role = fields["role"]
    if type(role) is not str:
        raise TypeError("the role of a message is not a string")
    if "tool_calls" not in fields and "tool_call_id" not in fields:
        return ChatMessage(role, fields["content"])  # type: ignore[arg-type]  # a role of a newer release is kept
    calls, answered = fields.get("tool_calls", ()), fields.get("tool_call_id")
    if wrong := next((w for call in calls if (w := _wrong(call, _CALL_TYPES))), None):
        raise TypeError(wrong)
    if answered is not None and type(answered) is not str:
        raise TypeError("tool_call_id is not a string")
    calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in calls)
    return ChatMessage(role, fields["content"], calls, answered)  # type: ignore[arg-type]


def _ring(turns: list[Any]) -> TurnRing:
    ring = TurnRing()
    for turn in turns:
        outcome = _turn_outcome(turn)
        if outcome.replies is None:
            ring.ids[outcome.turn_id] = outcome.at
        else:
            ring.outcomes[outcome.turn_id] = outcome
    return ring


def _turn_outcome(fields: Any) -> TurnOutcome:
    if wrong := _wrong_outcome(fields):
        raise TypeError(wrong)
    replies = fields.get("replies")
    return TurnOutcome(
        fields["id"],
        fields["at"],
        None if replies is None else tuple(replies),
        fields.get("state", "completed"),
        fields.get("by"),
        fields.get("replay", 0),
    )


def _wrong(fields: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> str | None:
    """Which field has not one of its types, if any. Never names a value: records are private."""
    for name, allowed in types.items():
        value = fields[name]
        if not isinstance(value, allowed) or isinstance(value, bool):
            return f"{name} is a {type(value).__name__}, not a {allowed[-1].__name__}"
    return None


def _wrong_optional(fields: Mapping[str, Any]) -> str | None:
    given = {name: (str,) for name in _OPTIONAL if fields.get(name) is not None}
    return _wrong(fields, given)


def _wrong_outcome(fields: Mapping[str, Any]) -> str | None:
    wrong = _wrong(fields, {"id": (str,), "at": _NUMBER})
    if wrong is None:
        replies = fields.get("replies")
        if replies is not None and not (
            isinstance(replies, (list, tuple)) and all(isinstance(reply, str) for reply in replies)
        ):
            wrong = "replies are not JSON texts"
        elif not isinstance(fields.get("state", ""), str) or not isinstance(fields.get("by", ""), str):
            wrong = "state and by are not strings"
        elif type(fields.get("replay", 0)) is not int:
            wrong = "replay is not a whole number"
    return wrong


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_jsonable)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        # RuntimeError: nested too deeply, or changed by another thread meanwhile.
        raise RecordError(
            f"the session record holds something that JSON cannot: {error}; keep only JSON values in "
            "metadata, flow_state and what dump_state returns"
        ) from error


def _jsonable(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"a {type(value).__name__}")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


_JSON: Final = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _load(text: str | bytes) -> Any:
    return _JSON.decode(text.decode() if isinstance(text, bytes) else text)


def _load_all(parts: list[Any]) -> list[Any]:
    """Many JSON texts, parsed as one array: several times faster than one by one."""
    if not parts:
        return []
    if isinstance(parts[0], bytes):
        values = _load(b"[" + b",".join(parts) + b"]")
    else:
        values = _load("[" + ",".join(parts) + "]")
    if len(values) != len(parts):
        raise ValueError("a part is not one JSON value")
    result: list[Any] = values
    return result


def _open(text: str | bytes) -> dict[str, Any]:
    """The fields of a head, of a schema that this release reads."""
    try:
        fields = _load(text)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RecordCorrupt(f"the stored session record is not JSON: {error}") from error
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if type(schema) is not int or schema < 1:
        raise RecordCorrupt("the stored session record has no schema version; something else wrote it")
    if schema > SCHEMA:
        raise RecordTooNew(
            f"the session record has schema {schema}, this release reads up to {SCHEMA}; upgrade this process"
        )
    result: dict[str, Any] = fields
    return result


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise RecordCorrupt(f"the stored session record is damaged: {type(error).__name__}: {error}") from error
