"""Problem: why something of a client is not accepted, as it is told over HTTP and over the WebSocket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from sdqueue.errors import SdqueueError


class Problem(SdqueueError):
    """Something is not accepted.

    Parameters:
        status: the HTTP status.
        reason: a stable slug.
        detail: what was wrong and what to do; never a secret.
        retry_after_s: seconds after which the same may be accepted; ``None``: never.
    """

    def __init__(self, status: int, reason: str, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s

    def fields(self) -> dict[str, Any]:
        """For a client that is a program."""
        retry = None if self.retry_after_s is None else max(1, round(self.retry_after_s))
        return {"reason": self.reason, "detail": self.detail, "retry_after_s": retry}

    def response(self) -> Response:
        """As an answer over HTTP."""
        headers: Mapping[str, str] = {}
        if self.status == 401:
            headers = {"WWW-Authenticate": "Bearer"}
        elif self.retry_after_s is not None:
            headers = {"Retry-After": str(max(1, round(self.retry_after_s)))}
        return JSONResponse({"error": self.reason, **self.fields()}, status_code=self.status, headers=headers)


def unavailable(what: str) -> Problem:
    """Something of ours is away: the client is to try again."""
    return Problem(503, "unavailable", f"{what}; try again", retry_after_s=5)
