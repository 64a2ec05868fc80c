"""The wire contract: what travels over the broker, as frozen pydantic models.

Two bodies, both JSON in UTF-8: :class:`InboundTurn` on the turns exchange and :class:`OutboundReply` on the
replies exchange. Their JSON Schemas are committed beside this module (``sdqueue/schemas/``; ``sdqueue topology
schema`` prints them). :class:`DeadTurn` travels in the headers of a dead letter.

Unknown fields are ignored, so that a newer producer can talk to an older consumer.
"""

from __future__ import annotations

import math
import unicodedata
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, WithJsonSchema
from pydantic_core import from_json

from sdqueue.errors import InvalidTurn

MAX_SESSION_ID: Final = 256
"""Longest session id, in characters (design: a string of 1 to 256 characters, no control characters)."""

MAX_TEXT_BYTES: Final = 256 * 1024
"""Default limit of a turn's text, in bytes of UTF-8."""

TurnKind = Literal["message", "assist", "reset", "cancel"]
ReplyKind = Literal["final", "delta", "error"]


def partition_of(session_id: str, partitions: int) -> int:
    """The partition of a session: ``crc32(session_id as UTF-8) % partitions``.

    For 64 partitions ``user-42`` is 51 and ``a`` is 3; any language with a CRC-32 can compute it.
    """
    return zlib.crc32(session_id.encode()) % partitions


def routing_key(partition: int) -> str:
    """A partition as the turns exchange wants it: four decimal digits."""
    return f"{partition:04d}"


def _printable(value: str) -> str:
    for char in value:
        if unicodedata.category(char) in ("Cc", "Cs"):
            raise ValueError(f"must not contain the control character U+{ord(char):04X}")
    return value


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL (U+0000)")
    _no_surrogate(value)
    return value


def _writable(value: Any) -> Any:
    """JSON has no infinity and no half characters: ``1e999`` is read as one, and could never be written again."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError("must not contain a number too large for JSON")
        if isinstance(item, str) and not item.isascii():
            _no_surrogate(item)
        if isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return value


def _no_surrogate(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"must be valid Unicode, but has the lone surrogate U+{ord(value[error.start]):04X}") from None


SessionId = Annotated[str, Field(min_length=1, max_length=MAX_SESSION_ID), AfterValidator(_printable)]
TurnId = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_printable)]
ChannelName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
Text = Annotated[str, AfterValidator(_no_nul)]
_DATE_SCHEMA: Final = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}]}
Json = Annotated[JsonValue, AfterValidator(_writable)]
JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_writable)]


class WireModel(BaseModel):
    """A frozen body: unknown fields are ignored, types are not coerced."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """The body as JSON in UTF-8."""
        return self.model_dump_json().encode()


class InboundTurn(WireModel):
    """One inbound message of a session. The least that is accepted is ``session_id`` and ``text``."""

    session_id: SessionId = Field(description="The conversation this turn belongs to; decides its partition.")
    text: Text = Field(description="What was said. Must be present; may be empty for reset and cancel.")
    id: TurnId | None = Field(
        default=None,
        description="Names the turn for good: a repeat is answered from memory. Default: the AMQP message_id.",
    )
    channel: ChannelName = Field(
        default="default", description="Where the reply goes: the first word of its routing key."
    )
    address: Json = Field(default=None, description="What the channel needs to deliver the reply; carried untouched.")
    sender: Text | None = Field(default=None, description="Who said it, in the platform's own words.")
    kind: TurnKind = Field(default="message", description="What to do: answer, take a note, forget, or stop.")
    metadata: JsonObject = Field(default_factory=dict, description="The producer's own data, copied to the reply.")
    created_at: Annotated[datetime, Field(strict=False), WithJsonSchema(_DATE_SCHEMA)] | None = Field(
        default=None, description="When it was said: RFC 3339, or seconds since 1970."
    )
    stream: bool = Field(default=False, description="Whether delta replies are wanted before the final one.")
    deadline_s: float | None = Field(
        default=None,
        gt=0,
        le=86_400,
        description="Seconds that the agent may take, all attempts together; never more than the consumer's limit.",
    )

    @classmethod
    def make(cls, fields: Mapping[str, Any], *, max_text_bytes: int = MAX_TEXT_BYTES) -> Self:
        """A turn from its fields.

        Parameters:
            fields: by name; unknown ones are ignored.
            max_text_bytes: limit of ``text`` in bytes of UTF-8.

        Raises:
            InvalidTurn: with a reason that a person understands.
        """
        try:
            turn = cls.model_validate(fields)
        except ValidationError as error:
            raise InvalidTurn("invalid-field", _explain(error)) from None
        size = len(turn.text) if turn.text.isascii() else len(turn.text.encode())
        if size > max_text_bytes:
            raise InvalidTurn(
                "text-too-long", f"text: has {size} bytes of UTF-8, at most {max_text_bytes} are accepted"
            )
        return turn

    @classmethod
    def decode(
        cls,
        body: bytes,
        *,
        message_id: str | None = None,
        content_type: str | None = None,
        max_text_bytes: int = MAX_TEXT_BYTES,
    ) -> Self:
        """Read a turn from a message.

        Parameters:
            body: the raw bytes.
            message_id: the AMQP property, which names the turn where the body has no ``id``.
            content_type: the AMQP property; absent is taken as JSON.
            max_text_bytes: limit of ``text`` in bytes of UTF-8. A body may have eight times that, since JSON
                escapes one byte with up to six, and the other fields need room.

        Raises:
            InvalidTurn: with a reason that a person understands.
        """
        fields = _json_object(body, content_type, max_body_bytes=8 * max_text_bytes)
        if fields.get("id") is None and message_id:
            fields["id"] = message_id
        return cls.make(fields, max_text_bytes=max_text_bytes)


class ToolCallBody(WireModel):
    """A tool that the agent called, as a reply carries it."""

    id: str
    name: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class StreamPosition(WireModel):
    """Where a delta stands in the stream of its turn's answer; travels as ``metadata.stream``."""

    attempt: int = Field(
        ge=1,
        description="Counts the starts of the agent on this turn from 1, whichever process they were in. Only the "
        "deltas of the greatest one are the answer; later ones of a smaller one are to be dropped.",
    )
    index: int = Field(ge=0, description="Counts the deltas of the attempt from 0; the final reply has all of them.")
    restart: bool = Field(
        default=False,
        description="Whether the answer starts over here: what earlier attempts have said is to be cleared.",
    )
    offset: str = Field(description="Names the place for a client that reads on from here; opaque.")


class OutboundReply(WireModel):
    """One reply to a turn.

    The id is a function of the turn's (``<turn id>:<n>``), so a repeat can be recognised anywhere. ``n`` is 0 for
    the reply that ends the turn, and counts how often the turn was replayed from the dead letters.
    Deltas are ``<turn id>:<n>.<attempt>-<random word>.<index>``.
    """

    id: str = Field(description="Names the reply for good; equal for every repeat of it.")
    turn_id: str = Field(description="The turn that this answers.")
    session_id: str = Field(
        description="The session of that turn; empty where a dead turn had none that could be read."
    )
    seq: int = Field(
        ge=0,
        description="Counts the session's final replies from 1. A delta has that of the final one to come, an error 0.",
    )
    kind: ReplyKind = Field(description="final ends a turn, delta is a piece of a streamed one, error says it failed.")
    text: str
    tool_calls: tuple[ToolCallBody, ...] = Field(default=(), strict=False)
    channel: str = Field(default="default", description="The turn's.")
    address: Json = Field(default=None, description="The turn's, untouched.")
    metadata: JsonObject = Field(
        default_factory=dict,
        description="The turn's, and what the agent added. A delta has its place in the answer under `stream`: "
        "`attempt` (starts of the agent, from 1), `index` (deltas of the attempt, from 0), `restart` (clear what "
        "earlier attempts have said) and `offset` (to read on from here).",
    )
    created_at: Annotated[datetime, Field(strict=False)] = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def stream(self) -> StreamPosition | None:
        """Where a delta stands (``metadata.stream``); ``None`` for other replies, and where it does not say."""
        if self.kind != "delta":
            return None  # a turn may bring metadata of this name
        try:
            return StreamPosition.model_validate(self.metadata.get("stream"))
        except ValidationError:
            return None

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read a reply from a message.

        Raises:
            ValueError: the body is no reply.
        """
        return cls.model_validate(from_json(body))


def _with_zone(value: datetime | None) -> datetime | None:
    return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class DeadTurn(WireModel):
    """What is known of a turn that could not be answered.

    A dead letter is the message as it came, byte for byte, with these fields in its headers (``sdqueue-reason`` and
    so on): nothing is lost on bad input, and publishing the body again replays the turn.
    """

    reason: str = Field(description="A stable slug: not-json, invalid-field, agent-failed, timeout, poison, …")
    error: str = Field(description="A sentence for people: what was wrong and what to do.")
    trace: str = Field(default="", description="The traceback: frames and exception types, without any values.")
    attempts: int = Field(default=0, ge=0, description="How often the agent was started on it.")
    reply_id: str = Field(default="", description="The reply that could not be delivered; empty: the turn itself died.")
    turn_id: str = ""
    session_id: str = Field(default="", description="Empty where none could be read.")
    channel: str = ""
    queue: str = Field(default="", description="Where it was waiting.")
    routing_key: str = Field(default="", description="What it was published under.")
    consumer: str = Field(default="", description="Who gave it up.")
    replay: int = Field(default=0, ge=0, description="How often it had been replayed from the dead letters.")
    died_at: Annotated[datetime | None, Field(strict=False), AfterValidator(_with_zone)] = Field(
        default_factory=lambda: datetime.now(UTC), description="When; absent where the letter does not say."
    )

    def headers(self) -> dict[str, str | int]:
        """The fields as message headers."""
        fields = self.model_dump(mode="json", exclude_none=True)
        return {SDQUEUE_HEADERS + name.replace("_", "-"): value for name, value in fields.items()}

    def replay_headers(self) -> dict[str, str | int]:
        """The headers by which consumers tell the next replay of this turn from a repeat of it."""
        headers: dict[str, str | int] = {REPLAY_HEADER: self.replay + 1}
        if self.died_at is not None:
            headers[REPLAY_OF_HEADER] = self.died_at.isoformat()
        return headers

    @classmethod
    def from_headers(cls, headers: Mapping[str, Any]) -> Self:
        """The fields of a dead letter.

        A letter without them was put away by the broker itself, which gives its reason in ``x-death``. What a
        producer has forged is not believed.
        """
        fields = {
            name: headers[key]
            for name in cls.model_fields
            if (key := SDQUEUE_HEADERS + name.replace("_", "-")) in headers
        }
        if "reason" not in fields:
            return cls._from_broker(headers)
        try:
            return cls.model_validate({"died_at": None} | fields)
        except ValidationError as error:
            return cls(
                reason="unreadable",
                error=f"the headers of this letter are not sdqueue's: {_explain(error)}",
                died_at=None,
            )

    @classmethod
    def _from_broker(cls, headers: Mapping[str, Any]) -> Self:
        """What the broker's own ``x-death`` tells, newest death first; anybody may have written that header too."""
        deaths = headers.get("x-death")
        death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping) else {}
        reason = death.get("reason")
        if not isinstance(reason, str):
            error = "neither a consumer nor the broker has said why it is here: somebody published it to this queue"
            return cls(reason="unknown", error=error, replay=replay_number(headers), died_at=None)
        told = {"queue": death.get("queue"), "routing_key": _first(death.get("routing-keys"))}
        fields: dict[str, Any] = {name: value for name, value in told.items() if isinstance(value, str)}
        fields |= {"reason": reason, "replay": replay_number(headers)}
        fields["error"] = f"put away by the broker itself ({reason}): look at the policies and limits of its queue"
        try:
            return cls.model_validate(fields | {"died_at": death.get("time")})
        except ValidationError:
            return cls.model_validate(fields | {"died_at": None})


SDQUEUE_HEADERS: Final = "sdqueue-"
"""How the names of all headers begin that consumers add to a message."""

REPLAY_HEADER: Final = "sdqueue-replay"
"""How often a turn was put back from the dead letters. Absent on a turn that never died, and on every repeat of it by
its producer."""

REPLAY_OF_HEADER: Final = "sdqueue-replay-of"
"""When the turn died that is put back (RFC 3339). It names the death: a session that has kept only a turn's id and the
time of its end can still tell whether that death is the last that it knows of the turn."""

_MAX_REPLAYS: Final = 1_000_000


def replay_number(headers: Mapping[str, Any]) -> int:
    """Which replay of a dead turn a message is; 0 for one that is none, and for nonsense that somebody has forged."""
    number = headers.get(REPLAY_HEADER, 0)
    return number if type(number) is int and 0 <= number <= _MAX_REPLAYS else 0


def replayed_death(headers: Mapping[str, Any]) -> float | None:
    """When the turn died that a message puts back, in seconds since 1970; ``None`` where that is not said."""
    try:
        return datetime.fromisoformat(headers[REPLAY_OF_HEADER]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _first(values: object) -> object:
    return values[0] if isinstance(values, list) and values else None


def salvage(body: bytes, *, message_id: str | None = None) -> dict[str, Any]:
    """Those fields of an unreadable turn that are valid by themselves, to tell its sender that it failed.

    Returns:
        A dict with any of ``id``, ``session_id``, ``channel``, ``address``; empty where nothing can be read.
    """
    try:
        fields = _json_object(body, None, max_body_bytes=8 * MAX_TEXT_BYTES)
    except InvalidTurn:
        return {"id": message_id} if message_id else {}
    found: dict[str, Any] = {}
    for name in ("id", "session_id", "channel", "address"):
        value = fields.get(name) or (message_id if name == "id" else None)
        if value is None:
            continue
        probe = {"session_id": "-", "text": "", name: value}
        try:
            found[name] = getattr(InboundTurn.model_validate(probe), name)
        except ValidationError:
            continue
    return found


def _json_object(body: bytes, content_type: str | None, *, max_body_bytes: int) -> dict[str, Any]:
    if content_type and content_type.split(";", 1)[0].strip().lower() != "application/json":
        raise InvalidTurn("content-type", f"content type: is {content_type[:80]!r}, only application/json is accepted")
    if not body:
        raise InvalidTurn("empty-body", "body: is empty, a JSON object with session_id and text is expected")
    if len(body) > max_body_bytes:
        raise InvalidTurn("body-too-large", f"body: has {len(body)} bytes, at most {max_body_bytes} are accepted")
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        hint = "; a lone surrogate, one half of a pair, is no character" if "hex escape" in str(error) else ""
        raise InvalidTurn("not-json", f"body: is not JSON in UTF-8 ({error}{hint})") from None
    if not isinstance(fields, dict):
        raise InvalidTurn("not-json", f"body: is a JSON {type(fields).__name__}, an object is expected")
    return cast("dict[str, Any]", fields)


def _explain(error: ValidationError) -> str:
    """What is wrong with each field, with the value cut short; never the whole body."""
    problems = []
    for problem in error.errors(include_url=False)[:5]:
        name = ".".join(str(part) for part in problem["loc"][:3]) or "body"
        message = problem["msg"].removeprefix("Value error, ")
        problems.append(
            f"{name}: is missing"
            if problem["type"] == "missing"
            else f"{name}: {message}, got {_shorten(problem.get('input'))}"
        )
    return "; ".join(problems)


def _shorten(value: object) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "an array"
    text = repr(value[:41] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
