"""Request and Receipt: what a platform has sent, and what a channel has read in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.responses import JSONResponse, Response

from sdqueue.client import Replies
from sdqueue.messages import InboundTurn


@dataclass(frozen=True)
class Request:
    """A request of the platform, read to its end within the limits.

    Parameters:
        method: in capital letters.
        path: below the root, without a query, such as ``/slack/events``.
        headers: by name in small letters; where one came several times, the values joined by ``", "``.
        query: the last value of each parameter.
        body: the raw bytes, over which signatures are made.
        client: the peer's address, as far as it is known.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    client: str = ""


def _ok() -> Response:
    return Response(status_code=200)


def unconfirmed_response() -> Response:
    """503, so that the platform sends it again."""
    return JSONResponse(
        {"error": "not-accepted", "detail": "the queue did not confirm it; send it again under the same id"},
        status_code=503,
        headers={"Retry-After": "5"},
    )


Answer = Callable[[Replies], Awaitable[Response]]
"""Makes the response out of the turn's replies, once the broker has the turn for good."""


@dataclass(frozen=True)
class Receipt:
    """What a request was: the turns in it, and the two answers, of which the core sends one.

    A request that is refused, or a challenge, is a receipt without turns, whose ``on_ok`` is sent at once.

    Parameters:
        turns: to be published in this order, each with an id that the platform gives again when it repeats the request.
        on_ok: sent when the broker has confirmed all of them.
        on_fail: sent when it has not; the platform is to try again.
        aliases: further ids of these turns: a request whose turns are all known under an id or alias is a repeat, and
            answered with ``on_ok`` without being published. Whoever answers with the replies is never such a repeat.
        answer: for one turn whose replies make the response, as with a held webhook; in place of ``on_ok``. It is run
            while the broker has the turn, and may hand the replies to a streaming response: they come until that has
            been sent, or the client has gone away.
        reason: a stable slug of why it is refused, or makes no turn, which is counted.
        after: what a channel remembers of it, run once the turns are confirmed or known and before ``on_ok`` is sent;
            if it raises, ``on_fail`` is sent. It may run more than once. Not together with ``answer``.
    """

    turns: tuple[InboundTurn, ...] = ()
    on_ok: Response = field(default_factory=_ok)
    on_fail: Response = field(default_factory=unconfirmed_response)
    aliases: tuple[str, ...] = ()
    answer: Answer | None = None
    reason: str = ""
    after: Callable[[], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        if self.answer is not None and len(self.turns) != 1:
            raise ValueError(f"the replies of exactly one turn can make the response, but there are {len(self.turns)}")
        if self.answer is not None and self.after is not None:
            raise ValueError("a receipt has either an answer or something to be done after it, since both end it")
        if any(turn.id is None for turn in self.turns):
            raise ValueError("a turn of a producer needs an id: without one a repeat of it is answered twice")


def refusal(status: int, reason: str, detail: str, **headers: str) -> Receipt:
    """A request that is not accepted: a 4xx with a reason, and no turn.

    Parameters:
        status: the HTTP status.
        reason: a stable slug, which is also counted.
        detail: what was wrong and what to do; never a secret nor the expected signature.
        headers: of the response, such as ``WWW_Authenticate="Bearer"``.
    """
    response = JSONResponse(
        {"error": reason, "detail": detail},
        status_code=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    return Receipt(on_ok=response, reason=reason)


Submit = Callable[[Receipt], Awaitable[None]]
"""Publishes the turns of a receipt as carefully as those of a request; returns when they are confirmed, or known.

Raises ``BrokerError``: not confirmed; do not acknowledge to the platform.
"""
