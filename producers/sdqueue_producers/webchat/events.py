"""The event stream: what the visitor sees, for clients that have no WebSocket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sdqueue.errors import StoreUnavailable
from sdqueue_producers.jsonline import json_line
from sdqueue_producers.webchat.access import Access
from sdqueue_producers.webchat.feed import Feed
from sdqueue_producers.webchat.presence import Presence
from sdqueue_producers.webchat.problem import Problem
from sdqueue_producers.webchat.settings import WebchatSettings
from sdqueue_producers.webchat.tail import Tail
from sdqueue_producers.webchat.tokens import Pass

LIFE_S: Final = 25.0
"""Seconds after which a stream ends and its client comes back: a server that stops waits for streams, and its grace
period is 30 s."""

RETRY_MS: Final = 2000
"""Milliseconds after which a client that was cut off comes back."""


class EventsDoor:
    """Serves event streams.

    Parameters:
        settings: limits.
        access: who may.
        feed: what visitors see.
        presence: how many there are.
    """

    def __init__(self, settings: WebchatSettings, access: Access, feed: Feed, presence: Presence) -> None:
        self._settings = settings
        self._access = access
        self._feed = feed
        self._presence = presence

    async def serve(self, request: Request) -> Response:
        """``GET /webchat/events``, with a bearer token; ``Last-Event-ID`` or ``?after=`` says what was seen last.

        Raises:
            Problem: it is not accepted.
        """
        known = self._access.visitor(request)
        try:
            session_id = known.visitor.session_id(request.query_params.get("conversation", ""))
        except ValueError as error:
            raise Problem(400, "bad-field", f"conversation: {error}") from None
        after = request.headers.get("last-event-id") or request.query_params.get("after") or None
        with ExitStack() as stack:
            stack.enter_context(self._presence.connection())
            stack.enter_context(self._presence.of(session_id))
            tail = Tail(self._feed, session_id, after)
            return _EventStream(self._settings, self._feed, session_id, tail, known, stack.pop_all())


class _EventStream(Response):
    """Sends events until the client leaves, is too slow, or its token has expired."""

    media_type = "text/event-stream"

    def __init__(
        self,
        settings: WebchatSettings,
        feed: Feed,
        session_id: str,
        tail: Tail,
        known: Pass,
        place: ExitStack,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._settings = settings
        self._feed = feed
        self._session_id = session_id
        self._tail = tail
        self._known = known
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream, on an ASGI connection."""
        with self._place:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sending = asyncio.create_task(self._send(send))
            leaving = asyncio.create_task(_left(receive))
            try:
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                sending.cancel()
                await asyncio.wait({sending, leaving})
            if not sending.cancelled():
                sending.result()

    async def _send(self, send: Send) -> None:
        async def put(text: str, *, more: bool = True) -> None:
            async with asyncio.timeout(self._settings.send_timeout_s):
                await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        try:
            await put(f"retry: {RETRY_MS}\n\n")
            end = await self._each(put)
            await put(f"event: end\ndata: {json.dumps(end.fields())}\n\n", more=False)
        except TimeoutError:
            return  # too slow: what it has missed is in the feed when it comes back

    async def _each(self, put: Any) -> Problem:
        """Send event after event; answers why there are no more."""
        until = time.time() + LIFE_S
        with self._feed.watch(self._session_id) as wake:
            while True:
                try:
                    events = await self._tail.next()
                except StoreUnavailable:
                    return Problem(503, "unavailable", "what was said cannot be read; come back", retry_after_s=2)
                for event in events:
                    await put(_written(event))
                left = self._known.expires_at - time.time()
                if left <= 0:
                    return Problem(401, "expired-token", "the visitor token has expired; come back with another one")
                if time.time() >= until:
                    return Problem(200, "come-back", "come back: streams end after a while", retry_after_s=1)
                if not events and not await wake.wait(min(self._settings.heartbeat_s, left, until - time.time())):
                    await put(": still here\n\n")


def _written(event: Mapping[str, Any]) -> str:
    data = json_line(json.dumps(event, ensure_ascii=False, separators=(",", ":")))
    place = f"id: {event['id']}\n" if "id" in event else ""
    return f"{place}data: {data}\n\n"


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
