"""Ingress: the front side of a producer, as one ASGI application and the channels' listeners."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from sdqueue.client import Client
from sdqueue.errors import BrokerError, ConfigurationError, SdqueueError
from sdqueue.observe.health import Readiness
from sdqueue_producers.channel import Channel
from sdqueue_producers.ingress.door import Door, confirm_until
from sdqueue_producers.ingress.limits import Limits, refused_response
from sdqueue_producers.ingress.listening import keep_listening
from sdqueue_producers.ingress.options import IngressOptions
from sdqueue_producers.ingress.order import Arrivals
from sdqueue_producers.ingress.publisher import Publisher
from sdqueue_producers.ingress.readiness import Handover
from sdqueue_producers.ingress.typing_indicators import TypingIndicators
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.request import Receipt
from sdqueue_producers.state import ProducerState

OWN_PATHS: Final = ("/healthz", "/readyz")


class Ingress:
    """Takes what platforms send, and answers when the broker has it for good.

    ::

        async with channel, Ingress([channel], client, state) as ingress:
            ...  # serve ingress.app with any ASGI server; it may be mounted in another application

    Parameters:
        channels: entered by the caller.
        client: hands turns to the broker.
        state: knows which turns were published. Where it is away, turns are published all the same.
        options: limits.
        observer: hears what happens.
        readiness: what ``/readyz`` tells; default: whether turns can be handed over.

    Raises:
        ConfigurationError: two channels have the same name or path.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        client: Client,
        state: ProducerState,
        options: IngressOptions | None = None,
        observer: ProducerObserver | None = None,
        *,
        readiness: Readiness | None = None,
    ) -> None:
        self.options = IngressOptions() if options is None else options
        self._channels = {channel.name: channel for channel in channels}
        if len(self._channels) < len(channels):
            raise ConfigurationError(f"two channels are called {_twice([c.name for c in channels])!r}")
        self._observer = ProducerObserver() if observer is None else observer
        self._typing = TypingIndicators(state, self.options, self._observer)
        self._publisher = Publisher(
            client, state, self.options.kept_ids_s, self._observer, self._typing.begin, declare=self.options.declare
        )
        self._readiness = Readiness(broker=Handover(client)) if readiness is None else readiness
        self._publishing: set[asyncio.Task[None]] = set()
        self._listening: set[asyncio.Task[None]] = set()
        self.app = self._make_app()

    async def __aenter__(self) -> Self:
        await self._typing.__aenter__()
        for channel in self._channels.values():
            listening = keep_listening(channel, partial(self._submit, channel), self._observer)
            self._listening.add(asyncio.create_task(listening, name=f"listener of {channel.name}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # First what brings new turns, then what is on its way to the broker, which has a deadline; indicators last.
        for task in self._listening:
            task.cancel()
        if self._listening:
            await asyncio.wait(self._listening)
        try:
            if self._publishing and not isinstance(error, asyncio.CancelledError):
                await asyncio.wait(self._publishing)
        finally:
            for task in self._publishing:
                task.cancel()  # only where somebody has no time: their platforms got no answer
            await self._typing.__aexit__(kind, error, trace)

    async def submit(self, receipt: Receipt) -> None:
        """Publish the turns of a receipt that did not come as a request; returns when they are confirmed, or known.

        Raises:
            BrokerError: not confirmed; do not acknowledge to the platform.
            ValueError: the turns are of no channel of this ingress.
        """
        if not receipt.turns:
            return
        name = receipt.turns[0].channel
        if name not in self._channels:
            raise ValueError(f"turn {receipt.turns[0].id!r} is of channel {name!r}, which is not served here")
        await self._submit(self._channels[name], receipt)

    async def _submit(self, channel: Channel, receipt: Receipt) -> None:
        for turn in receipt.turns:
            if turn.channel != channel.name:
                raise ValueError(
                    f"turn {turn.id!r} is of channel {turn.channel!r}, not {channel.name!r}; its replies would go there"
                )
        if not receipt.turns and receipt.after is None:
            return
        place = self._publisher.join(receipt)
        try:
            await self._keep(self._publisher.publish(channel, receipt, place, {}, confirm_until(channel)))
        except BrokerError:
            raise
        except SdqueueError as error:
            raise BrokerError(f"not confirmed: {error}") from error

    async def _keep(self, publishing: Coroutine[Any, Any, None]) -> None:
        """Publish to the end, and remember it, though the client goes away meanwhile."""
        task = asyncio.create_task(publishing)
        self._publishing.add(task)
        task.add_done_callback(self._let_go)
        await asyncio.shield(task)

    def _let_go(self, task: asyncio.Task[None]) -> None:
        self._publishing.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it; where nobody does any more, the observer was told

    def _make_app(self) -> Starlette:
        routes: list[BaseRoute] = [Route("/healthz", self._healthz), Route("/readyz", self._readyz)]
        paths = list(OWN_PATHS)
        for channel in self._channels.values():
            arrivals = Arrivals()
            door = Door(channel, self._publisher, arrivals, self._observer, self._keep)
            paths.extend(channel.paths)
            for path in channel.paths:
                if not path.startswith("/"):
                    raise ConfigurationError(f"channel {channel.name}: path {path!r} must begin with a slash")
                routes.append(Route(path, door))
            own = channel.routes(partial(self._submit, channel))
            routes.extend(own)
            paths.extend({route.path for route in own if isinstance(route, Route | WebSocketRoute)})
        if len(set(paths)) < len(paths):
            raise ConfigurationError(f"two channels listen on {_twice(paths)}; give one of them another path")
        app = Starlette(
            routes=routes,
            middleware=[Middleware(Limits, options=self.options, observer=self._observer)],
            exception_handlers={HTTPException: self._refuse},
        )
        app.router.redirect_slashes = False  # platforms do not follow redirects, and a signature covers one address
        return app

    async def _refuse(self, request: StarletteRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refused_response(error)

    async def _healthz(self, request: StarletteRequest) -> Response:
        return JSONResponse({"status": "alive"})

    async def _readyz(self, request: StarletteRequest) -> Response:
        reasons = await self._readiness.look()
        if not reasons:
            return JSONResponse({"status": "ready"})
        body = {"status": "not-ready", "reasons": reasons, "error": "not-ready", "detail": "; ".join(reasons)}
        return JSONResponse(body, status_code=503, headers={"Retry-After": "5"})


def _twice(names: Sequence[str]) -> str:
    return Counter(names).most_common(1)[0][0]
