"""Reading a turn out of a request that has been let in."""

from __future__ import annotations

from typing import Any, Final

from pydantic_core import from_json, to_json

from sdqueue.errors import InvalidTurn
from sdqueue.messages import MAX_SESSION_ID, InboundTurn
from sdqueue_producers.request import Receipt, Request, refusal
from sdqueue_producers.webhook.ids import CHANNEL, ID_FORM, TurnAddress, is_id, session_id, turn_id

FIELDS: Final = ("session_id", "text", "sender", "metadata", "kind", "stream", "deadline_s")
"""What a sender may say of a turn. Where its reply goes is not among them."""

MAX_METADATA_BYTES: Final = 16 * 1024
"""Longest ``metadata``, as JSON. It travels with every piece of a streamed answer, and is kept with the session's last
replies: a megabyte would become gigabytes."""

MAX_SENDER: Final = 256
"""Longest ``sender``, in characters."""


class RefusedError(Exception):
    """A request that becomes no turn.

    Parameters:
        receipt: the refusal.
    """

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.receipt: Receipt = refusal(status, reason, detail)


def read_id(request: Request) -> str:
    """The sender's name of the turn: ``webhook-id``, or ``Idempotency-Key``, which may have quotes around it.

    Raises:
        RefusedError: there is none, or it is written wrong.
    """
    id_ = request.headers.get("webhook-id")
    if id_ is None:
        id_ = request.headers.get("idempotency-key")
        if id_ is not None and len(id_) >= 2 and id_[0] == id_[-1] == '"':
            id_ = id_[1:-1]
    if id_ is None:
        raise RefusedError(
            400,
            "no-id",
            "a header webhook-id or Idempotency-Key is needed: the same one with each repeat of a message, so that it "
            "is answered once",
        )
    if not is_id(id_):
        raise RefusedError(400, "bad-id", f"webhook-id, or Idempotency-Key, must be {ID_FORM}")
    return id_


def read_turn(
    request: Request, endpoint: str, *, held: bool, streamed: bool, max_text_bytes: int
) -> tuple[InboundTurn, TurnAddress]:
    """The turn in a request, and where its reply goes.

    Parameters:
        request: let in already.
        endpoint: its name.
        held: somebody will wait for the reply on the request itself.
        streamed: deltas are wanted, whatever the body says.
        max_text_bytes: limit of ``text`` in bytes of UTF-8.

    Raises:
        RefusedError: it is no turn.
    """
    id_ = read_id(request)
    fields = _object(request)
    unknown = sorted(fields.keys() - set(FIELDS))
    if unknown:
        named = ", ".join(name[:40].encode("ascii", "backslashreplace").decode() for name in unknown[:5])
        raise RefusedError(400, "unknown-field", f"body: there is no {named}; there are {', '.join(FIELDS)}")
    session = fields.get("session_id")
    if isinstance(session, str) and len(session) > MAX_SESSION_ID:
        raise RefusedError(
            400, "invalid-field", f"session_id: has {len(session)} characters, at most {MAX_SESSION_ID} are accepted"
        )
    sender = fields.get("sender")
    if isinstance(sender, str) and len(sender) > MAX_SENDER:
        raise RefusedError(
            400, "invalid-field", f"sender: has {len(sender)} characters, at most {MAX_SENDER} are accepted"
        )
    # First as it was given, so that what is said of it is said in the sender's words.
    turn = _make(fields, max_text_bytes)
    size = len(to_json(turn.metadata))
    if size > MAX_METADATA_BYTES:
        raise RefusedError(
            413, "metadata-too-long", f"metadata: has {size} bytes as JSON, at most {MAX_METADATA_BYTES} are accepted"
        )
    address = TurnAddress(endpoint, id_, turn.session_id, held)
    return turn.model_copy(
        update={
            "id": turn_id(endpoint, id_),
            "session_id": session_id(endpoint, turn.session_id),
            "channel": CHANNEL,
            "address": address.to_json(),
            "stream": turn.stream or streamed,
        }
    ), address


def _object(request: Request) -> dict[str, Any]:
    content_type = request.headers.get("content-type", "")
    media, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charsets = [p.split("=", 1)[1].strip(' "') for p in parameters if p.startswith("charset=")]
    if media != "application/json" or any(charset not in ("utf-8", "utf8") for charset in charsets):
        raise RefusedError(415, "content-type", "the body must be application/json, in UTF-8")
    if not request.body:
        raise RefusedError(400, "empty-body", "body: is empty, a JSON object with session_id and text is expected")
    try:
        fields = from_json(request.body, allow_inf_nan=False)
    except ValueError as error:
        raise RefusedError(400, "not-json", f"body: is not JSON in UTF-8 ({error})") from None
    if not isinstance(fields, dict):
        raise RefusedError(400, "not-json", f"body: is a JSON {type(fields).__name__}, an object is expected")
    return fields


def _make(fields: dict[str, Any], max_text_bytes: int) -> InboundTurn:
    try:
        return InboundTurn.make(fields, max_text_bytes=max_text_bytes)
    except InvalidTurn as error:
        status = 413 if error.reason == "text-too-long" else 400
        raise RefusedError(status, error.reason, error.detail) from None
