"""FakePlatform: a chat platform on 127.0.0.1 that has every trouble that a test wants."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol, Self

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

PORTS: Final = range(20_000, 32_000)
"""Where platforms listen: below the ports that systems give to connections, since one of those could be taken by
somebody else while the platform is away."""


class Trouble(Enum):
    """What is wrong with a platform; :attr:`NONE`: nothing."""

    NONE = "none"
    TOO_MANY = "too many"
    """It takes nothing for a while, and says for how long (429)."""
    BROKEN = "broken"
    """It has a fault of its own (500)."""
    REFUSED = "refused"
    """It will never take this (4xx)."""
    CUT = "cut"
    """It cuts the connection after the request has arrived whole, and has done nothing."""
    CUT_AFTER = "cut after"
    """It does what it was asked for, and cuts the connection instead of an answer."""
    NONSENSE = "nonsense"
    """Something in front of it answers 200 with a page for people."""
    SILENT = "silent"
    """It takes the request and never answers."""
    AWAY = "away"
    """Nothing listens there."""


class Platform(Protocol):
    """What :class:`ChannelSuite` needs of a platform that it has its channel talk to."""

    retry_after_s: float
    """What it says in :attr:`Trouble.TOO_MANY`."""
    messages: Mapping[str, str]
    """What users see: the texts of our messages by what the platform calls each."""

    async def set_trouble(self, trouble: Trouble) -> None:
        """Be in this trouble from now on."""
        ...


@dataclass(frozen=True)
class Call:
    """A request that a channel has made."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str] = field(default_factory=dict)


class FakePlatform:
    """An HTTP server of a platform, on a free port; used as ``async with platform``.

    Derive from it: :meth:`answer` does what the platform does with a call, and puts what it shows into ``messages``.
    A platform that says 429, 500 or 4xx in its own way overrides :meth:`refuse` as well.
    """

    retry_after_s: float = 7.0

    def __init__(self) -> None:
        self.messages: MutableMapping[str, str] = {}
        self.calls: list[Call] = []
        self.port = 0
        self._trouble = Trouble.NONE
        self._runner: web.ServerRunner | None = None
        self._silence = asyncio.Event()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, call: Call) -> web.StreamResponse:
        """Do what is asked for."""
        raise NotImplementedError

    async def refuse(self, trouble: Trouble, call: Call) -> web.StreamResponse:
        """Say 429, 500, 4xx or nonsense."""
        match trouble:
            case Trouble.TOO_MANY:
                return web.json_response({}, status=429, headers={"Retry-After": f"{self.retry_after_s:g}"})
            case Trouble.BROKEN:
                return web.json_response({}, status=500)
            case Trouble.NONSENSE:
                return web.Response(text="<html>Please log in", content_type="text/html")
        return web.json_response({}, status=404)

    async def set_trouble(self, trouble: Trouble) -> None:
        """See :class:`Platform`."""
        was, self._trouble = self._trouble, trouble
        if trouble is Trouble.AWAY:
            await self._stop()
        elif was is Trouble.AWAY:
            await self._start()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _start(self) -> None:
        self._silence = asyncio.Event()
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=1)
        await self._runner.setup()
        while True:
            port = self.port or random.choice(PORTS)
            try:
                await web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True).start()
            except OSError:
                if self.port:
                    raise
            else:
                self.port = port
                return

    async def _stop(self) -> None:
        self._silence.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            for _ in range(3):  # clients in this process hear that their connections have ended
                await asyncio.sleep(0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(request.method, request.path, headers, body, dict(request.query))
        self.calls.append(call)
        trouble = self._trouble
        if trouble is Trouble.NONE:
            return await self.answer(call)
        if trouble in (Trouble.CUT, Trouble.CUT_AFTER):
            if trouble is Trouble.CUT_AFTER:
                await self.answer(call)
            return _cut(request)
        if trouble is Trouble.SILENT:
            with suppress(asyncio.CancelledError):  # the client has gone away
                await self._silence.wait()
            return _cut(request)
        return await self.refuse(trouble, call)


def _cut(request: web.BaseRequest) -> web.StreamResponse:
    protocol: RequestHandler | None = request.protocol
    if protocol is not None and protocol.transport is not None:
        protocol.transport.abort()
    return web.Response()
