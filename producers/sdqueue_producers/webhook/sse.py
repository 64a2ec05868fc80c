"""Server-sent events: one event as text, and a response that keeps its connection alive between them.

Not sse-starlette: it replaces uvicorn's handling of signals for the whole process, which a producer has its own of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import StreamingResponse

from sdqueue_producers.jsonline import json_line


def event_text(kind: str, data: str, id_: str | None = None) -> str:
    """One event.

    Parameters:
        kind: its name.
        data: JSON.
        id_: what a client that comes back says in ``Last-Event-ID``.
    """
    named = "" if id_ is None else f"id: {id_}\n"
    return f"event: {kind}\n{named}data: {json_line(data)}\n\n"


def events_response(events: AsyncGenerator[str, None], *, ping_s: float) -> StreamingResponse:
    """A response out of events, with a comment after every ``ping_s`` seconds of silence.

    The first comment is sent at once, so that the client knows that it is connected.
    """
    return StreamingResponse(
        _with_pings(events, ping_s),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _with_pings(events: AsyncGenerator[str, None], ping_s: float) -> AsyncGenerator[str, None]:
    ready: asyncio.Queue[str | None] = asyncio.Queue(1)

    async def pump() -> None:  # in one task from its beginning to its end, as timeouts inside of it need
        try:
            async with aclosing(events):
                async for event in events:
                    await ready.put(event)
        finally:
            await ready.put(None)

    pumping = asyncio.create_task(pump(), name="event stream")
    try:
        yield ": connected\n\n"
        while True:
            try:
                event = await asyncio.wait_for(ready.get(), ping_s)
            except TimeoutError:
                yield ": ping\n\n"
                continue
            if event is None:
                break
            yield event
        await pumping
    finally:
        while not ready.empty():  # room for the last word of a pump that is stopped
            ready.get_nowait()
        pumping.cancel()
        await asyncio.wait({pumping})
