"""Gate: who may use an endpoint, by a signature or a bearer token."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from typing import Final

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from sdqueue_producers.request import Receipt, Request, refusal
from sdqueue_producers.webhook.settings import EndpointSettings

_BEARER: Final = re.compile(r"bearer +([!-~]+) *", re.IGNORECASE)
_SECONDS: Final = re.compile(r"[0-9]{1,10}")


class Gate:
    """Lets those in who sign with one of the secrets, or show one of the tokens.

    Parameters:
        settings: of the endpoint.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self._open = settings.open
        self._keys = [Webhook(secret.get_secret_value()) for secret in settings.secrets]
        self._digests = [_digest_of(token.get_secret_value()) for token in settings.tokens]

    def check(self, request: Request) -> Receipt | None:
        """``None`` where the request may come in, else a refusal that does not say what would have been right."""
        if self._open:
            return None
        if self._keys and "webhook-signature" in request.headers:
            return self._check_signature(request)
        if self._digests:
            return self._check_token(request)
        return refusal(
            401,
            "not-signed",
            "the headers webhook-id, webhook-timestamp and webhook-signature of Standard Webhooks are needed",
        )

    def _check_signature(self, request: Request) -> Receipt | None:
        missing = [name for name in ("webhook-id", "webhook-timestamp") if not request.headers.get(name)]
        if missing:
            return refusal(401, "not-signed", f"a signed request needs the header {' and '.join(missing)} too")
        # The library reads everything that float() reads, and signs the number that it has read.
        if not _SECONDS.fullmatch(request.headers["webhook-timestamp"]):
            return refusal(401, "bad-timestamp", "webhook-timestamp is the time of sending in whole seconds since 1970")
        reasons = {_try(key, request) for key in self._keys}
        if None in reasons:
            return None
        if "Message timestamp too old" in reasons or "Message timestamp too new" in reasons:
            return refusal(
                401,
                "bad-timestamp",
                "webhook-timestamp is more than 5 minutes away from now: sign each attempt anew, and set the clock",
            )
        return refusal(401, "bad-signature", "webhook-signature does not fit the body, the id, the time and our secret")

    def _check_token(self, request: Request) -> Receipt | None:
        match = _BEARER.fullmatch(request.headers.get("authorization", ""))
        if match is None:
            signed = " or a signature of Standard Webhooks" if self._keys else ""
            return refusal(
                401, "no-token", f"a header Authorization: Bearer <token>{signed} is needed", WWW_Authenticate="Bearer"
            )
        given = hashlib.sha256(match[1].encode()).digest()
        # All are compared, so that the time taken does not tell which one was nearly right.
        if sum(hmac.compare_digest(given, digest) for digest in self._digests):
            return None
        return refusal(
            401, "bad-token", "this token is not one of the endpoint's", WWW_Authenticate='Bearer error="invalid_token"'
        )


def _try(key: Webhook, request: Request) -> str | None:
    """``None`` where the signature is right."""
    try:
        key.verify(request.body, dict(request.headers), json_parse=False)
    except (WebhookVerificationError, ValueError, binascii.Error) as error:  # Unicode errors are ValueErrors
        return str(error) if isinstance(error, WebhookVerificationError) else "malformed"
    return None


def _digest_of(token: str) -> bytes:
    if token.startswith("sha256:"):
        return bytes.fromhex(token.removeprefix("sha256:"))
    return hashlib.sha256(token.encode()).digest()
