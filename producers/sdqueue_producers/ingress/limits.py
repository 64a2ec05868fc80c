"""What a stranger may send: how much, how long it may take, and how it is written."""

from __future__ import annotations

import asyncio
import re
import traceback
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdqueue_producers.ingress.options import IngressOptions
from sdqueue_producers.observer import ProducerObserver

MAX_HEADER_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 200
MAX_PATH_BYTES: Final = 4096
MAX_QUERY_BYTES: Final = 16 * 1024
MAX_QUERY_FIELDS: Final = 200

_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class Refused(HTTPException):
    """A request that is not accepted.

    Parameters:
        status: 4xx.
        reason: a stable slug.
        detail: what was wrong and what to do.
    """

    def __init__(self, status: int, reason: str, detail: str) -> None:
        # What is left of the request is not read, so nothing else can come on this connection.
        super().__init__(status, detail, headers={"Connection": "close"})
        self.reason = reason


class Limits:
    """Lets requests through that are written well, and bounds what can be read of them.

    An application behind it gets :class:`Refused` out of its ``receive``; it needs no limits of its own. What it raises
    is a defect, logged and answered with 500.

    Parameters:
        app: is behind it.
        options: the limits.
        observer: hears of refusals and defects.
    """

    def __init__(self, app: ASGIApp, *, options: IngressOptions, observer: ProducerObserver) -> None:
        self._app = app
        self._options = options
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check what has come, and watch over what comes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, Bounded(scope, receive, self._options), send)
        try:
            check_written(scope)
            await self._app(scope, exchange.receive, exchange.noted)
        except ClientDisconnect:
            return  # as a client may at any time
        except Refused as refused:
            await exchange.send(refused_response(refused))
            self._observer.request_answered(
                channel="", status=exchange.status, reason=refused.reason, seconds=exchange.seconds
            )
        except Exception as error:  # noqa: BLE001  # of any kind: routes of channels are somebody else's code
            where = f"{scope['method']} {scope['path']}"
            self._observer.channel_defect(channel="", error=f"{where}: {error!r}", trace=traceback.format_exc())
            if not exchange.status:
                await exchange.send(failed_response())


def refused_response(refused: HTTPException) -> Response:
    """What a client is told that was refused."""
    reason = refused.reason if isinstance(refused, Refused) else _REASONS.get(refused.status_code, "refused")
    return JSONResponse({"error": reason, "detail": refused.detail}, refused.status_code, refused.headers)


def failed_response() -> Response:
    """500, which says nothing of what is inside."""
    return JSONResponse({"error": "internal-error", "detail": "this is a defect here; it was logged"}, 500)


_REASONS: Final = {404: "not-found", 405: "method-not-allowed"}


class Exchange:
    """A request and its response, of which it notes the status.

    Parameters:
        scope, receive, send: ASGI's.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.status = 0
        self._send = send
        self._began = asyncio.get_running_loop().time()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return asyncio.get_running_loop().time() - self._began

    async def send(self, response: Response) -> None:
        """Send a response to its end."""
        await response(self.scope, self.receive, self.noted)

    async def drain(self) -> None:
        """Throw away what still comes of the request."""
        receive = self.receive.raw if isinstance(self.receive, Bounded) else self.receive
        while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
            pass

    async def noted(self, message: Message) -> None:
        """ASGI's ``send``."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class Bounded:
    """Receives a body of limited size in limited time."""

    def __init__(self, scope: Scope, receive: Receive, options: IngressOptions) -> None:
        self.raw = receive
        self._max_bytes = options.max_body_bytes
        self._timeout_s = options.request_timeout_s
        self._until = asyncio.get_running_loop().time() + options.request_timeout_s
        self._read = 0
        self._whole = False
        self._told = next((value for name, value in scope["headers"] if name == b"content-length"), b"")

    async def __call__(self) -> Message:
        """ASGI's ``receive``; raises :class:`Refused` over the limits."""
        if self._whole:
            return await self.raw()
        if self._told.isdigit() and len(self._told) < 20 and int(self._told) > self._max_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self.raw()
        except TimeoutError:
            raise Refused(
                408, "request-timeout", f"the request did not arrive whole within {self._timeout_s:g} s; send it again"
            ) from None
        if message["type"] == "http.disconnect":
            return message
        self._read += len(message.get("body", b""))
        if self._read > self._max_bytes:
            raise self._too_large()
        self._whole = not message.get("more_body", False)
        return message

    def _too_large(self) -> Refused:
        return Refused(
            413, "body-too-large", f"the body has more than {self._max_bytes} bytes, which is the most that is accepted"
        )


def check_written(scope: Scope) -> None:
    """See whether path, query and headers can be read and are not too long.

    Raises:
        Refused: they are not.
    """
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    path = path.partition(b"?")[0]
    query: bytes = scope["query_string"]
    if len(path) > MAX_PATH_BYTES or len(query) > MAX_QUERY_BYTES:
        raise Refused(414, "address-too-long", f"a path has at most {MAX_PATH_BYTES} bytes, a query {MAX_QUERY_BYTES}")
    try:
        text = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise Refused(400, "bad-path", "the path is not percent-encoded UTF-8") from None
    if _BAD_PERCENT.search(path) or _CONTROL.search(text):
        raise Refused(400, "bad-path", "the path has a % without two hexadecimal digits, or a control character")
    read_query(query)
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size > MAX_HEADER_BYTES or len(scope["headers"]) > MAX_HEADERS:
        raise Refused(
            431,
            "headers-too-large",
            f"a request has at most {MAX_HEADERS} headers with {MAX_HEADER_BYTES} bytes together",
        )


def read_query(query: bytes) -> dict[str, str]:
    """The last value of each parameter.

    Raises:
        Refused: it is not percent-encoded UTF-8, or has too many fields.
    """
    try:
        return dict(parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS))
    except UnicodeDecodeError:
        raise Refused(400, "bad-query", "the query is not percent-encoded UTF-8") from None
    except ValueError:
        raise Refused(400, "bad-query", f"the query has more than {MAX_QUERY_FIELDS} fields") from None
