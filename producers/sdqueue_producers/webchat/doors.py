"""The HTTP doors of the web chat: tokens, messages, events and the page, each behind the check of its origin."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sdqueue.errors import StoreUnavailable
from sdqueue_producers.channel import Bucket
from sdqueue_producers.state import ProducerState
from sdqueue_producers.webchat.access import Access, bearer, cors, preflight, read_json
from sdqueue_producers.webchat.intake import CHANNEL, Conversation, Intake, Said, largest
from sdqueue_producers.webchat.problem import Problem, unavailable
from sdqueue_producers.webchat.settings import WebchatSettings
from sdqueue_producers.webchat.tokens import Tokens, Visitor

Door = Callable[[Request], Awaitable[Response]]

NO_STORE: Final = {"Cache-Control": "no-store"}


class Wanted(BaseModel):
    """What a token is asked for: by the backend with ``visitor``, by a page without."""

    model_config = ConfigDict(strict=True, extra="forbid")

    site: str | None = Field(default=None, max_length=32)
    visitor: str | None = Field(default=None, min_length=1, max_length=256)
    ttl_s: float | None = Field(default=None, ge=1)


class _Message(Said):
    conversation: Conversation = ""


class TokenDoor:
    """``POST /webchat/token``: tokens of named visitors for the backend, of strangers for anybody, where they may come.

    Parameters:
        settings: who may have one, and for how long.
        access: knows the backend.
        tokens: makes them.
        state: counts the anonymous ones, for all processes.
        timeout_s: seconds that a request may take to arrive.
    """

    def __init__(
        self, settings: WebchatSettings, access: Access, tokens: Tokens, state: ProducerState, timeout_s: float
    ) -> None:
        self._settings = settings
        self._access = access
        self._tokens = tokens
        self._state = state
        self._timeout_s = timeout_s

    async def serve(self, request: Request) -> Response:
        """A token, or a renewed one for an anonymous visitor who shows one that is still good.

        Raises:
            Problem: there is none.
        """
        shown = bearer(request) if "authorization" in request.headers else None
        if shown is None and not self._settings.anonymous:
            raise Problem(401, "no-token", "only the operator's backend gets tokens here, with its bearer secret")
        trusted = shown is not None and self._access.is_backend(shown)
        # Whoever shows something wrong is refused before anything else of the request is looked at.
        known = None if shown is None or trusted else self._access.read(shown)
        if not trusted:
            await self._limit(request)
        wanted = await read_json(request, Wanted, limit=4096, timeout_s=self._timeout_s)
        site = wanted.site if wanted.site is not None else self._settings.sites[0]
        if site not in self._settings.sites:
            raise Problem(400, "no-such-site", "site: is none that is served here; see SDQUEUE_WEBCHAT_SITES")
        if not trusted and wanted.visitor is not None:
            raise Problem(403, "not-the-backend", "visitor: only the operator's backend names visitors")
        if known is not None:
            visitor = known.visitor
            if not (visitor.anonymous and self._settings.anonymous and visitor.site == site):
                raise Problem(403, "not-renewable", "only the operator's backend renews the token of this visitor")
        elif wanted.visitor is not None:
            visitor = Visitor(site, wanted.visitor)
        else:
            visitor = Visitor.stranger(site)
        longest = self._settings.anonymous_ttl_s if visitor.anonymous else self._settings.token_ttl_s
        token, made = self._tokens.make(visitor, min(longest, wanted.ttl_s or longest))
        return JSONResponse(
            {
                "token": token,
                "visitor": visitor.name,
                "site": site,
                "expires_in_s": round(made.expires_at - time.time()),
            },
            headers=NO_STORE,
        )

    async def _limit(self, request: Request) -> None:
        client = _network(request.client.host if request.client is not None else "unknown")
        count = self._settings.anonymous_per_minute
        try:
            wait_s = await self._state.take(CHANNEL, [Bucket(f"token:{client}", count, 60.0)])
        except StoreUnavailable:
            raise unavailable("what producers remember cannot be reached") from None
        if wait_s > 0:
            raise Problem(429, "too-many", f"an address gets {count} tokens a minute", retry_after_s=wait_s)


def _network(address: str) -> str:
    """Whom an address stands for: one who has an IPv6 address has 2**64 of them."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else found
    return str(mapped) if mapped is not None else str(ip_network((address, 64), strict=False).network_address)


class MessageDoor:
    """``POST /webchat/messages``: a message of a visitor, answered when the broker has it for good.

    Parameters:
        settings: how long it may be.
        access: who may.
        intake: takes it.
        timeout_s: seconds that a request may take to arrive.
    """

    def __init__(self, settings: WebchatSettings, access: Access, intake: Intake, timeout_s: float) -> None:
        self._settings = settings
        self._access = access
        self._intake = intake
        self._timeout_s = timeout_s

    async def serve(self, request: Request) -> Response:
        """Take it.

        Raises:
            Problem: it is not accepted, or not known to be.
        """
        known = self._access.visitor(request)
        said = await read_json(request, _Message, limit=largest(self._settings), timeout_s=self._timeout_s)
        await self._intake.take(known.visitor, said.conversation, said)
        return JSONResponse({"type": "ack", "message": said.id}, headers=NO_STORE)


def guarded(path: str, access: Access, doors: Mapping[str, Door]) -> Sequence[BaseRoute]:
    """Routes that check the origin, answer a browser that asks first, and tell a problem with its status.

    Parameters:
        path: of all.
        access: knows the origins.
        doors: by method.
    """
    methods = ", ".join(doors)

    async def serve(request: Request) -> Response:
        origin: str | None = None
        try:
            origin = access.check_origin(request)
            if request.method == "OPTIONS":
                response = Response(status_code=204, headers=preflight(methods))
            elif request.method not in doors:  # HEAD, which Starlette takes wherever it takes GET
                response = Problem(405, "method-not-allowed", f"only {methods} is accepted here").response()
            else:
                response = await doors[request.method](request)
        except Problem as problem:
            response = problem.response()
        response.headers.update(cors(origin))
        return response

    return [Route(path, serve, methods=[*doors, "OPTIONS"])]
