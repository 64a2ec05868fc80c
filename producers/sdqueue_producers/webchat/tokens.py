"""Visitor and Tokens: who somebody is, and the signed word for it.

A token is ``v1.<claims>.<signature>``: the claims as JSON, the HMAC-SHA256 over ``v1.<claims>``, both in URL-safe
base64 without padding. There is one algorithm, so none is named in the token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sdqueue.errors import SdqueueError

LONGEST: Final = 1024
"""Characters of a token at most: what is longer is not looked at."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9._@+-]{1,64}")
_CONVERSATION: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class TokenRefused(SdqueueError):
    """A token that is none of ours, or is good no more. The reason is a stable slug."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Visitor:
    """Somebody who uses the chat of a site.

    Parameters:
        site: a name of the settings' ``sites``.
        name: what the operator's backend calls them, or a random one; 1 to 256 characters.
        anonymous: whether nobody vouches for them.
    """

    site: str
    name: str
    anonymous: bool = False

    @classmethod
    def stranger(cls, site: str) -> Visitor:
        """A new one, whose name nobody guesses."""
        return cls(site, f"anon-{secrets.token_urlsafe(16)}", anonymous=True)

    def session_id(self, conversation: str = "") -> str:
        """The session of this visitor: ``webchat:<site>:<name>``, with ``:<conversation>`` where there are several.

        A name with other characters than ``A-Z a-z 0-9 . _ @ + -``, or with more than 64, is hashed behind ``~``, so
        that two visitors never meet in one session.

        Raises:
            ValueError: a conversation that is none.
        """
        if conversation and not _CONVERSATION.fullmatch(conversation):
            raise ValueError("a conversation is 1 to 64 letters, digits, _ and -")
        name = self.name
        if not _PLAIN.fullmatch(name):
            name = "~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return ":".join(part for part in ("webchat", self.site, name, conversation) if part)


class _Claims(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    aud: str = Field(min_length=1, max_length=32)
    sub: str = Field(min_length=1, max_length=256)
    iat: int
    exp: int
    anon: bool = False


@dataclass(frozen=True)
class Pass:
    """What a token says.

    Parameters:
        visitor: who.
        issued_at, expires_at: seconds since 1970.
    """

    visitor: Visitor
    issued_at: int
    expires_at: int


class Tokens:
    """Makes and reads visitor tokens.

    Parameters:
        secrets: the first signs, all are accepted.
        sites: whose visitors are accepted.
        clock: seconds since 1970.
    """

    def __init__(self, secrets: Sequence[bytes], sites: Sequence[str], clock: Callable[[], float]) -> None:
        self._secrets = tuple(secrets)
        self._sites = frozenset(sites)
        self._clock = clock

    def make(self, visitor: Visitor, ttl_s: float) -> tuple[str, Pass]:
        """A token that is good for so many seconds."""
        now = int(self._clock())
        claims = _Claims(aud=visitor.site, sub=visitor.name, iat=now, exp=now + int(ttl_s), anon=visitor.anonymous)
        signed = f"v1.{_encode(claims.model_dump_json(exclude_defaults=True).encode())}"
        return f"{signed}.{_encode(_sign(self._secrets[0], signed))}", Pass(visitor, claims.iat, claims.exp)

    def read(self, token: str) -> Pass:
        """What a token says.

        Raises:
            TokenRefused: it is not signed by us, expired, or of another site.
        """
        signed, dot, signature = token.rpartition(".")
        version, _, body = signed.partition(".")
        if not dot or version != "v1" or len(token) > LONGEST or not token.isascii():
            raise TokenRefused(
                "bad-token",
                "this is neither a visitor token, which POST /webchat/token gives out, nor a secret of the backend",
            )
        given = _decode(signature)
        # All secrets are tried whatever comes of the first, so that the time tells nothing.
        known = [hmac.compare_digest(_sign(secret, signed), given) for secret in self._secrets]
        # A last character with other unused bits decodes to the same bytes: only one spelling is ours.
        if not any(known) or _encode(given) != signature:
            raise TokenRefused("bad-token", "the signature of this visitor token is not ours; get another token")
        try:
            claims = _Claims.model_validate_json(_decode(body))
        except ValidationError:
            raise TokenRefused("bad-token", "this visitor token says nothing that is known here") from None
        if claims.aud not in self._sites:
            raise TokenRefused("foreign-token", "this visitor token is for a site that is not served here")
        if claims.exp <= self._clock():
            raise TokenRefused("expired-token", "this visitor token has expired; get another one")
        return Pass(Visitor(claims.aud, claims.sub, claims.anon), claims.iat, claims.exp)


def _sign(secret: bytes, text: str) -> bytes:
    return hmac.digest(secret, text.encode(), "sha256")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""
