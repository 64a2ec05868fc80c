"""Door: one path of a channel, from the request to the response."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sdqueue.errors import BrokerError, SdqueueError, TurnFailed
from sdqueue_producers.channel import Channel
from sdqueue_producers.ingress.limits import Exchange, Refused, failed_response, read_query, refused_response
from sdqueue_producers.ingress.order import Arrivals, Place
from sdqueue_producers.ingress.publisher import Publisher
from sdqueue_producers.ingress.tracecontext import trace_headers
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.request import Answer, Receipt, Request

CONFIRM_PART: Final = 0.8
"""The part of a platform's deadline in which the broker must confirm; the rest is for the way."""

LEAST_PART: Final = 0.25
"""The part of it that the broker gets even where the request took long to arrive."""

DRAIN_S: Final = 1.0
"""Seconds in which the rest of a body that is too large is thrown away: most clients read only when all is sent."""

Keep = Callable[[Coroutine[Any, Any, None]], Awaitable[None]]


class Door:
    """Answers the requests of one path, as an ASGI application.

    Parameters:
        channel: reads them.
        publisher: takes their turns.
        arrivals: the channel's requests, in order.
        observer: hears how they were answered.
        keep: runs something to its end though its caller be cancelled.
    """

    def __init__(
        self, channel: Channel, publisher: Publisher, arrivals: Arrivals, observer: ProducerObserver, keep: Keep
    ) -> None:
        self._channel = channel
        self._publisher = publisher
        self._arrivals = arrivals
        self._observer = observer
        self._keep = keep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, publish, answer, in this order: no answer goes out before the broker has the turns."""
        exchange = Exchange(scope, receive, send)
        place: Place | None = None
        try:
            request = await _read(exchange)
            with self._arrivals.arrived() as arrival:
                receipt = await self._channel.receive(request)
                _check(receipt, self._channel)
                if receipt.turns or receipt.after is not None:
                    await arrival.first()
                    place = self._publisher.join(receipt)
        except ClientDisconnect:
            return
        except Refused as refused:
            await _refuse(exchange, refused, self._told(refused))
            self._answered(exchange, refused.reason)
            return
        except Exception as error:  # noqa: BLE001  # of any kind: the channel is somebody else's code
            await self._fail(exchange, "receive", error)
            return
        if place is None:
            await exchange.send(receipt.on_ok)
            self._answered(exchange, receipt.reason)
            return
        headers = trace_headers(request.headers)
        until = confirm_until(self._channel, exchange.seconds)
        if receipt.answer is None:
            await self._accept(
                exchange, receipt, self._publisher.publish(self._channel, receipt, place, headers, until)
            )
        else:
            await self._ask(exchange, receipt, receipt.answer, place, headers, until)

    async def _accept(self, exchange: Exchange, receipt: Receipt, publishing: Coroutine[Any, Any, None]) -> None:
        try:
            await self._keep(publishing)
        except SdqueueError:
            await exchange.send(receipt.on_fail)
            self._answered(exchange, "unconfirmed")
        except Exception as error:  # noqa: BLE001  # a defect of ours: not confirmed, so never the good answer
            await self._fail(exchange, "publish", error)
        else:
            await exchange.send(receipt.on_ok)
            self._answered(exchange, receipt.reason)

    async def _ask(
        self, exchange: Exchange, receipt: Receipt, answer: Answer, place: Place, headers: dict[str, str], until: float
    ) -> None:
        """Let the replies make the response. They come until it has been sent, or the client has gone away."""
        try:
            async with self._publisher.asked(self._channel, receipt, place, headers, until) as replies:
                response = await _unless_gone(answer(replies), exchange.receive)
                await exchange.send(response)
        except ClientDisconnect:
            return  # the turn goes on, and its reply is there when the client asks again
        except TurnFailed as error:
            await self._fail(exchange, "answer", error)  # to be told in the platform's own words
        except SdqueueError as error:
            reason = "cut" if exchange.status else "unconfirmed" if isinstance(error, BrokerError) else "unanswered"
            if not exchange.status:
                await exchange.send(receipt.on_fail)  # sent again, it gets the same turn's reply
            self._answered(exchange, reason)
        except Exception as error:  # noqa: BLE001  # of any kind: the channel is somebody else's code
            await self._fail(exchange, "answer", error)
        else:
            self._answered(exchange, "")

    async def _fail(self, exchange: Exchange, where: str, error: Exception) -> None:
        self._observer.channel_defect(
            channel=self._channel.name,
            error=f"{where}: {type(error).__name__}: {error}",
            trace="".join(traceback.format_exception(error)),
        )
        if exchange.status:
            return  # a response that has begun cannot be taken back: the server cuts the connection
        failed = failed_response()
        detail = "this is a defect here; it was logged"
        await exchange.send(self._channel.explain(failed.status_code, "internal-error", detail) or failed)
        self._answered(exchange, "internal-error")

    def _told(self, refused: Refused) -> Response:
        """A refusal, in the channel's own words where it has some."""
        usual = refused_response(refused)
        own = self._channel.explain(refused.status_code, refused.reason, refused.detail)
        if own is None:
            return usual
        own.headers.update(refused.headers or {})
        return own

    def _answered(self, exchange: Exchange, reason: str) -> None:
        self._observer.request_answered(
            channel=self._channel.name, status=exchange.status, reason=reason, seconds=exchange.seconds
        )


def confirm_until(channel: Channel, spent_s: float = 0.0) -> float:
    """When the broker must have confirmed, on the loop's clock.

    Parameters:
        channel: its platform has a deadline.
        spent_s: seconds of that deadline that are over.
    """
    deadline_s = channel.caps.ack_deadline_s
    return asyncio.get_running_loop().time() + max(CONFIRM_PART * deadline_s - spent_s, LEAST_PART * deadline_s)


def _check(receipt: Receipt, channel: Channel) -> None:
    for turn in receipt.turns:
        if turn.channel != channel.name:
            raise ValueError(f"turn {turn.id!r} is of channel {turn.channel!r}, so its replies would go elsewhere")


async def _read(exchange: Exchange) -> Request:
    """The request to its end.

    Raises:
        Refused: it is over the limits.
        ClientDisconnect: it does not come.
    """
    body = bytearray()
    more = True
    while more:
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
    scope = exchange.scope
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(
        method=scope["method"].upper(),
        path=scope["path"].removeprefix(scope.get("root_path", "")),
        headers=headers,
        query=read_query(scope["query_string"]),
        body=bytes(body),
        client=(scope.get("client") or ("",))[0],
    )


async def _refuse(exchange: Exchange, refused: Refused, response: Response) -> None:
    """Send a refusal; where more is on its way, throw that away for a moment, so that the client comes to read."""
    if refused.status_code != 413 or any(name == b"expect" for name, _ in exchange.scope["headers"]):
        await exchange.send(response)
        return
    await exchange.noted({"type": "http.response.start", "status": 413, "headers": response.raw_headers})
    await exchange.noted({"type": "http.response.body", "body": response.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            await exchange.drain()
    await exchange.noted({"type": "http.response.body", "body": b""})


async def _unless_gone(answer: Awaitable[Response], receive: Receive) -> Response:
    """What ``answer`` makes; where the client goes away meanwhile it is stopped.

    Raises:
        ClientDisconnect: the client has gone away.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    making, watching = asyncio.ensure_future(answer), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({making, watching}, return_when=asyncio.FIRST_COMPLETED)
        if making.done():
            return making.result()
        raise ClientDisconnect
    finally:
        making.cancel()
        watching.cancel()
        await asyncio.wait({making, watching})
