"""Answering: the replies to a turn, made into a response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response

from sdqueue.client import Replies
from sdqueue.errors import BrokerError, ReplyTimeout
from sdqueue.messages import OutboundReply
from sdqueue_producers.openai.growing import Diverged, Growing
from sdqueue_producers.openai.sse import KEEPALIVE, EventStream
from sdqueue_producers.openai.trouble import Trouble, failure_of, unanswered


class Shape(Protocol):
    """How one of the endpoints writes an answer."""

    def whole(self, reply: OutboundReply) -> dict[str, Any]:
        """In one piece."""
        ...

    def begin(self) -> bytes:
        """What comes before the first piece."""
        ...

    def piece(self, text: str) -> bytes:
        """A piece of the text."""
        ...

    def end(self, reply: OutboundReply) -> bytes:
        """What comes after the last one."""
        ...

    def fail(self, trouble: Trouble) -> bytes:
        """What comes in its place."""
        ...


@dataclass(frozen=True)
class Patience:
    """How long is waited.

    Parameters:
        answer_s: for an answer, or for its next piece, in seconds.
        keepalive_s: until a stream says that it is alive.
    """

    answer_s: float
    keepalive_s: float


Keep = Callable[[OutboundReply], Awaitable[None]]
"""Told of the reply that ends the turn, before the client is."""


async def _keep_nothing(reply: OutboundReply) -> None:
    return None


class Answering:
    """Makes the replies to one turn into the response.

    Parameters:
        shape: how it is written.
        patience: how long is waited.
        headers: of the response.
        keep: told of the reply that ends the turn.
    """

    def __init__(self, shape: Shape, patience: Patience, headers: dict[str, str], keep: Keep = _keep_nothing) -> None:
        self._shape = shape
        self._patience = patience
        self._headers = headers
        self._keep = keep

    async def whole(self, replies: Replies) -> Response:
        """The answer in one piece, or what there is instead."""
        try:
            reply = await replies.last(timeout=self._patience.answer_s, raise_on_error=False)
        except (ReplyTimeout, BrokerError) as error:
            return unanswered(error).response
        await self._keep(reply)
        if (trouble := failure_of(reply)) is not None:
            return trouble.response
        return JSONResponse(self._shape.whole(reply), headers=self._headers)

    async def stream(self, replies: Replies) -> Response:
        """The answer as it is made.

        The response begins with the first reply, so that an error has a status of its own; where that takes longer
        than a connection may be silent, it begins without.
        """
        heard = _Heard(replies, self._patience.answer_s)
        try:
            first = await heard.next(self._patience.keepalive_s)
            trouble = failure_of(first) if first is not None and first.kind != "delta" else None
        except (ReplyTimeout, BrokerError) as error:
            trouble = unanswered(error)
        except BaseException:
            await heard.aclose()
            raise
        if trouble is not None:
            await heard.aclose()
            return trouble.response
        return EventStream(self._events(heard, first), self._headers)

    async def _events(self, heard: _Heard, reply: OutboundReply | None) -> AsyncGenerator[bytes, None]:
        shape, growing = self._shape, Growing()
        try:
            yield shape.begin()
            while reply is None or reply.kind == "delta":
                if reply is None:
                    yield KEEPALIVE
                elif text := growing.add(reply):
                    yield shape.piece(text)
                reply = await heard.next(self._patience.keepalive_s)
            await self._keep(reply)
            if (trouble := failure_of(reply)) is not None:
                yield shape.fail(trouble)
                return
            if text := growing.finish(reply.text):
                yield shape.piece(text)
            yield shape.end(reply)
        except (ReplyTimeout, BrokerError) as error:
            yield shape.fail(unanswered(error))
        except Diverged as error:
            yield shape.fail(Trouble(500, "answer_restarted", str(error)))
        finally:
            await heard.aclose()


class _Heard:
    """Replies with a patience that ends no waiting: the next one is waited for on and on beside it."""

    def __init__(self, replies: Replies, timeout: float) -> None:
        self._each = replies.each(timeout=timeout, raise_on_error=False)
        self._next: asyncio.Task[OutboundReply] | None = None

    async def next(self, patience_s: float) -> OutboundReply | None:
        """The next reply; ``None``: not yet, after so many seconds."""
        if self._next is None:
            self._next = asyncio.ensure_future(_anext(self._each))
        done, _ = await asyncio.wait({self._next}, timeout=patience_s)
        if not done:
            return None
        task, self._next = self._next, None
        return task.result()

    async def aclose(self) -> None:
        """Wait no longer."""
        if self._next is not None:
            self._next.cancel()
            with suppress(asyncio.CancelledError, ReplyTimeout, BrokerError):
                await self._next
            self._next = None
        await self._each.aclose()


async def _anext(replies: AsyncGenerator[OutboundReply, None]) -> OutboundReply:
    return await anext(replies)
