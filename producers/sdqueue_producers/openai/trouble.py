"""Trouble: what a client is told in OpenAI's shape when there is no answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from sdqueue.errors import BrokerError, ReplyTimeout, SdqueueError
from sdqueue.messages import OutboundReply
from sdqueue_producers.request import Receipt


class Trouble(SdqueueError):
    """No answer, and why; raised where it is found.

    Parameters:
        status: of HTTP.
        code: a stable slug.
        message: what was wrong, with which value, and what to do.
        param: the field of the request that was wrong.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers

    @property
    def type(self) -> str:
        """OpenAI's word for the kind of it."""
        match self.status:
            case 401:
                return "authentication_error"
            case 429:
                return "rate_limit_error"
            case status if status >= 500:
                return "server_error"
            case _:
                return "invalid_request_error"

    @property
    def body(self) -> dict[str, Any]:
        """As JSON: ``{"error": {...}}``."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def response(self) -> Response:
        """As a response."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)

    @property
    def receipt(self) -> Receipt:
        """As a request without turns."""
        return Receipt(on_ok=self.response, reason=self.code)


_STATUS: Final = {
    "busy": 429,
    "backlog-full": 429,
    "superseded": 409,
    "cancelled": 409,
    "interrupted": 409,
    "invalid-field": 400,
    "text-too-long": 400,
    "timeout": 504,
}

FINAL: Final = {"x-should-retry": "false"}
"""Tells OpenAI's clients not to ask again: a repeat would get the same answer."""

LATER: Final = {"Retry-After": "5"}


def failure_of(reply: OutboundReply) -> Trouble | None:
    """What a reply that ends a turn says instead of an answer; ``None``: it is the answer."""
    if reply.kind == "error":
        reason = reply.metadata.get("reason")
        code = reason if isinstance(reason, str) else "failed"
        text = reply.text or "This message could not be answered."
        return Trouble(_STATUS.get(code, 500), code, text, headers=FINAL)
    if not reply.text and "superseded_by" in reply.metadata:
        text = "This message was answered together with a later one of its session."
        return Trouble(_STATUS["superseded"], "superseded", text, headers=FINAL)
    return None


def unanswered(error: ReplyTimeout | BrokerError) -> Trouble:
    """There is no answer yet; the turn stays queued."""
    again = "it stays queued: send the request again with the same Idempotency-Key to get its answer"
    if isinstance(error, ReplyTimeout):
        return Trouble(504, "timeout", f"there was no answer in time; {again}", headers={"Retry-After": "1"})
    return Trouble(503, "unavailable", f"the queue cannot be reached at present; {again}", headers=LATER)


def unconfirmed() -> Trouble:
    """The broker did not take it."""
    return Trouble(503, "not-accepted", "the queue did not confirm it; send the request again", headers=LATER)
