"""Producer: ingress and egress of some channels in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from sdqueue.backends import open_broker, opened_delta_log
from sdqueue.brokers import Broker
from sdqueue.client import Client
from sdqueue.observe.health import Readiness
from sdqueue.settings import Settings
from sdqueue_producers.channel import Channel
from sdqueue_producers.egress import Egress, EgressOptions
from sdqueue_producers.ingress import Ingress, IngressOptions
from sdqueue_producers.ingress.readiness import Handover
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.process.server import WebServer
from sdqueue_producers.registry import ChannelContext, make_channel
from sdqueue_producers.state import ProducerState, opened_state

Prepare = Callable[[Broker, asyncio.Event], Awaitable[bool]]
"""Waits until the broker is there with its topology; ``False`` where the event has been set meanwhile."""


@dataclass(frozen=True)
class Parts:
    """What of a producer runs in this process.

    Parameters:
        channels: by name.
        ingress: whether it takes what platforms send.
        egress: whether it delivers replies.
    """

    channels: Sequence[str]
    ingress: bool = True
    egress: bool = True


class Producer:
    """Runs until it is stopped.

    Parameters:
        settings: where everything is.
        parts: what is to run.
        name: who it is, for a broker that lists its connections.
        observer: hears what happens.
    """

    def __init__(self, settings: Settings, parts: Parts, name: str, observer: ProducerObserver) -> None:
        self._settings = settings
        self._parts = parts
        self._name = name
        self._observer = observer
        self._stopping = asyncio.Event()
        self._up = False
        self._hurried = False
        self._readiness = Readiness(self._known)
        self._body: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._egresses: set[Egress] = set()

    def stop(self) -> None:
        """Accept nothing more and let what runs end within the grace period; called again: end at once."""
        if self._stopping.is_set() and self._body is not None:
            self._hurried = True
            self._body.cancel()
        self._stopping.set()

    async def look(self) -> Sequence[str]:
        """Why it takes no work now; empty where it does.

        The state, and the queues of replies, count only where nothing but replies is delivered: what platforms send is
        taken without them.
        """
        return await self._readiness.look()

    async def run(self, prepare: Prepare, listening: Callable[[str], None], ready: Callable[[], None]) -> None:
        """Run to the end.

        The web server answers from the beginning, with 503 while the broker is not there: what comes meanwhile is sent
        again by the platforms.

        Parameters:
            prepare: see :data:`Prepare`.
            listening: told the address as soon as it answers.
            ready: called when everything runs.

        Raises:
            ConfigurationError: a channel, an address or the topology will not do.
        """
        self._body = asyncio.create_task(self._run(prepare, listening, ready), name="producer")
        try:
            await asyncio.wait({self._body})
        except asyncio.CancelledError:
            self._body.cancel()
            await asyncio.wait({self._body})
            raise
        if not self._body.cancelled():
            self._body.result()

    async def _run(self, prepare: Prepare, listening: Callable[[str], None], ready: Callable[[], None]) -> None:
        settings = self._settings
        async with (
            opened_state(settings) as state,
            opened_delta_log(settings) as delta_log,
            open_broker(settings, name=f"sdqueue producer {self._name}") as broker,
            Client(broker, max_text_bytes=settings.max_text_bytes, delta_log=delta_log) as client,
            AsyncExitStack() as entered,
        ):
            self._readiness = self._made_readiness(client, state)
            context = ChannelContext(settings, state, client)
            channels = [make_channel(name, context) for name in self._parts.channels]
            for channel in channels:
                await entered.enter_async_context(channel)
            try:
                if self._parts.ingress:
                    await self._begin(lambda up: self._take(channels, client, state, listening, up))
                if await prepare(broker, self._stopping):
                    if self._parts.egress:
                        deliveries = (
                            self._begin(partial(self._deliver, channel, broker, state)) for channel in channels
                        )
                        await asyncio.gather(*deliveries)
                    if not self._stopping.is_set():
                        self._up = True
                        ready()
                    await self._one_ends()
            finally:
                # All parts end at the same time, each within the grace period: none waits for another.
                self._stopping.set()
                await self._all_end()
        for task in self._running:
            task.result()

    def _made_readiness(self, client: Client, state: ProducerState) -> Readiness:
        checks: dict[str, Callable[[], Awaitable[object]]] = {"broker": Handover(client)}
        if not self._parts.ingress:
            checks["state"] = lambda: state.get([f"{self._parts.channels[0]}:health"])
        return Readiness(self._known, **checks)

    def _known(self) -> Sequence[str]:
        if self._stopping.is_set():
            return ["stopping"]
        obstacles = [egress.obstacle for egress in self._egresses if egress.obstacle]
        if not self._up:
            return ["starting", *obstacles]
        return [] if self._parts.ingress else obstacles

    async def _take(
        self,
        channels: Sequence[Channel],
        client: Client,
        state: ProducerState,
        listening: Callable[[str], None],
        up: asyncio.Event,
    ) -> None:
        settings = self._settings
        options = IngressOptions.from_settings(settings)
        async with Ingress(channels, client, state, options, self._observer, readiness=self._readiness) as ingress:
            server = WebServer(
                ingress.app,
                host=settings.producer_host,
                port=settings.producer_port,
                head_timeout_s=settings.request_timeout_s,
                grace_s=settings.grace_s,
                max_message_bytes=settings.max_body_bytes,
            )
            async with server:
                listening(server.url)
                up.set()
                await self._stopping.wait()

    async def _deliver(self, channel: Channel, broker: Broker, state: ProducerState, up: asyncio.Event) -> None:
        options = EgressOptions.of(self._settings, channel.name)
        async with Egress(channel, broker, state, options, self._observer) as egress:
            self._egresses.add(egress)
            failing = asyncio.create_task(egress.wait_failed())
            stopping = asyncio.create_task(self._stopping.wait())
            taking = asyncio.create_task(egress.wait_ready())
            try:
                await asyncio.wait({failing, stopping, taking}, return_when=asyncio.FIRST_COMPLETED)
                up.set()
                await asyncio.wait({failing, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if failing.done():
                    failing.result()
            finally:
                for task in (failing, stopping, taking):
                    task.cancel()
                await asyncio.wait({failing, stopping, taking})

    async def _begin(self, part: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
        up = asyncio.Event()
        task = asyncio.create_task(part(up))
        waiting = asyncio.create_task(up.wait())
        self._running.add(task)
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if task.done():
            task.result()

    async def _one_ends(self) -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({stopping, *self._running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()

    async def _all_end(self) -> None:
        if not self._running:
            return
        try:
            # Where the cancel came just before, it is not raised here again.
            if not self._hurried:
                await asyncio.wait(self._running)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)
