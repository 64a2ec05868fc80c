"""Access: which pages may use the chat, who shows a token, and what is read of a request before that is known."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, HTTPConnection, Request

from sdqueue_producers.webchat.problem import Problem
from sdqueue_producers.webchat.settings import WebchatSettings
from sdqueue_producers.webchat.tokens import Pass, TokenRefused, Tokens

PREFLIGHT_S: Final = 600
"""Seconds that a browser may remember what it is allowed."""

M = TypeVar("M", bound=BaseModel)


class Access:
    """Checks origins and tokens.

    Parameters:
        settings: which origins there are, and the backend's secrets.
        tokens: reads visitor tokens.
        public_url: under which address browsers reach us, where a proxy changes the ``Host`` header.
    """

    def __init__(self, settings: WebchatSettings, tokens: Tokens, public_url: str) -> None:
        self._origins = frozenset(settings.origins)
        self._backend = settings.backend
        self._tokens = tokens
        self._public = "/".join(public_url.lower().split("/")[:3])

    def check_origin(self, connection: HTTPConnection) -> str | None:
        """The origin of the page that asks, ``None`` where no browser does: a program needs a token all the same.

        Raises:
            Problem: a page of another origin.
        """
        origin = connection.headers.get("origin")
        if origin is None or "*" in self._origins:
            return origin
        own = {f"{scheme}://{connection.headers.get('host', '').lower()}" for scheme in ("http", "https")}
        if origin.lower() in own | {self._public} | self._origins:
            return origin
        raise Problem(
            403, "foreign-origin", "pages of this origin may not use the chat; its operator names those that may"
        )

    def visitor(self, connection: HTTPConnection) -> Pass:
        """Who asks, by the bearer token.

        Raises:
            Problem: there is no token, or a bad one.
        """
        return self.read(bearer(connection))

    def read(self, token: str) -> Pass:
        """Who shows a token.

        Raises:
            Problem: it is a bad one.
        """
        try:
            return self._tokens.read(token)
        except TokenRefused as error:
            raise Problem(401, error.reason, error.detail) from None

    def is_backend(self, token: str) -> bool:
        """Whether this is a secret of the operator's backend."""
        given = token.encode("utf-8", "surrogateescape")
        known = [hmac.compare_digest(secret, given) for secret in self._backend]
        return any(known)


def bearer(connection: HTTPConnection) -> str:
    """The bearer token of a request.

    Raises:
        Problem: there is none.
    """
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Problem(401, "no-token", "send the header Authorization: Bearer with a token")
    return token.strip()


def cors(origin: str | None) -> Mapping[str, str]:
    """The headers by which a browser lets a page of an accepted origin read the answer."""
    if origin is None:
        return {"Vary": "Origin"}
    return {"Vary": "Origin", "Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "Retry-After"}


def preflight(methods: str) -> Mapping[str, str]:
    """What a browser is told when it asks first."""
    return {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID",
        "Access-Control-Max-Age": str(PREFLIGHT_S),
    }


async def read_json(request: Request, model: type[M], *, limit: int, timeout_s: float) -> M:
    """A small JSON body.

    Parameters:
        request: its body is not read yet.
        model: what it must be.
        limit: bytes at most.
        timeout_s: seconds that it may take to arrive.

    Raises:
        Problem: it is something else, too large or too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "content-type", "send JSON with the header Content-Type: application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise Problem(413, "too-large", f"the body may have {limit} bytes")
    except TimeoutError:
        raise Problem(408, "too-slow", f"the body did not arrive within {timeout_s:g} s") from None
    except ClientDisconnect:
        raise Problem(400, "cut", "the connection was cut within the body") from None
    return parse(bytes(body), model)


def parse(data: bytes | str, model: type[M]) -> M:
    """JSON as what it must be.

    Raises:
        Problem: it is something else.
    """
    try:
        fields: Any = from_json(data, allow_inf_nan=False)
    except ValueError:
        raise Problem(400, "not-json", "this is not JSON in UTF-8") from None
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"][:3]) or "the body"
        raise Problem(400, "bad-field", f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
