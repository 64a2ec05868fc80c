"""Server-sent events: how they are written, and a response that ends what makes them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sdqueue_producers.jsonline import json_line

KEEPALIVE: Final = b": waiting\n\n"
"""A comment, which every client skips."""


def event(data: Any, name: str | None = None) -> bytes:
    """One event."""
    head = f"event: {name}\n" if name else ""
    line = json_line(json.dumps(data, ensure_ascii=False, separators=(",", ":")))
    return f"{head}data: {line}\n\n".encode()


class EventStream(StreamingResponse):
    """A response of events; whatever ends it, its generator is closed before it is left."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"} | headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)
