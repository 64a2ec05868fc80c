"""The signature of a request: made by Slack with the app's signing secret, over the raw body and a timestamp."""

from __future__ import annotations

import time
from collections.abc import Callable

from slack_sdk.signature import Clock, SignatureVerifier

from sdqueue_producers.request import Receipt, Request, refusal


class SignatureCheck:
    """Tells whether requests are Slack's, and not older than the five minutes that Slack's documentation gives.

    Parameters:
        secret: the app's signing secret.
        clock: seconds since 1970.
    """

    def __init__(self, secret: str, *, clock: Callable[[], float] = time.time) -> None:
        self._verifier = SignatureVerifier(secret, clock=_Clock(clock))

    def refusal(self, request: Request) -> Receipt | None:
        """``None`` where the request is Slack's, else a 401 with the reason."""
        timestamp = request.headers.get("x-slack-request-timestamp")
        signature = request.headers.get("x-slack-signature")
        if not timestamp or not signature:
            return refusal(
                401, "signature-missing", "the headers X-Slack-Request-Timestamp and X-Slack-Signature are needed"
            )
        try:
            valid = self._verifier.is_valid(request.body, timestamp, signature)
        except (ValueError, TypeError, OverflowError):
            # A timestamp that is no number, a body that is not UTF-8, a signature that is not ASCII.
            return refusal(401, "signature-malformed", "the timestamp, the signature or the body cannot be read")
        if not valid:
            return refusal(
                401,
                "signature-wrong",
                "the signature does not fit the body, or the timestamp is more than five minutes away; is "
                "SDQUEUE_SLACK_SIGNING_SECRET that of this app, and the clock right?",
            )
        return None


class _Clock(Clock):
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock()
