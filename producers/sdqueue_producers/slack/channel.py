"""SlackChannel: Slack at both ends of the queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute

from sdqueue.errors import StoreUnavailable
from sdqueue_producers.channel import BaseChannel, Bucket
from sdqueue_producers.outgoing import Address, Outgoing, Ref, Sent, Stream
from sdqueue_producers.registry import ChannelContext
from sdqueue_producers.request import Receipt, Request, Submit, refusal
from sdqueue_producers.slack.clients import Clients
from sdqueue_producers.slack.commands import read_command, read_form
from sdqueue_producers.slack.delivery import SlackDelivery
from sdqueue_producers.slack.events import Events, ignored
from sdqueue_producers.slack.installations import open_installations
from sdqueue_producers.slack.oauth import OAuth
from sdqueue_producers.slack.payload import UnreadablePayload, read_json
from sdqueue_producers.slack.settings import SlackSettings
from sdqueue_producers.slack.signature import SignatureCheck
from sdqueue_producers.slack.socket_mode import SocketMode
from sdqueue_producers.slack.threads import Threads
from sdqueue_producers.state import ProducerState

EVENTS = "/slack/events"
COMMANDS = "/slack/commands"
INTERACTIONS = "/slack/interactions"

STATE_S = 1.0
"""Seconds that the state may take to tell what is known of a thread: of the three in which Slack wants an answer."""


class SlackChannel(BaseChannel):
    """Receives events and slash commands over HTTP and Socket Mode, and delivers by the Web API.

    Parameters:
        settings: its own.
        state: shared by all producers.
        clock: seconds since 1970.

    Raises:
        ConfigurationError: the settings will not do.
    """

    name = "slack"
    caps = replace(SlackDelivery.caps, ack_deadline_s=3.0)  # in which Slack wants events and commands answered

    def __init__(
        self, settings: SlackSettings, state: ProducerState, *, clock: Callable[[], float] = time.time
    ) -> None:
        installations = open_installations(
            settings.installations, bot_token=settings.bot_token.get_secret_value(), state=state
        )
        secret = settings.signing_secret.get_secret_value()
        self.paths = (EVENTS, COMMANDS, INTERACTIONS) if secret else ()
        self._settings = settings
        self._clock = clock
        self._check = SignatureCheck(secret, clock=clock) if secret else None
        self._events = Events(
            Threads(state, settings.thread_ttl_s),
            installations,
            stream=settings.stream,
            follow_threads=settings.follow_threads,
        )
        self._clients = Clients(installations, settings)
        self._oauth = (
            OAuth(settings, state, installations, self._clients.anonymous, clock=clock) if settings.client_id else None
        )
        self._delivery = SlackDelivery(self._clients, status=settings.status)

    async def __aenter__(self) -> Self:
        await self._clients.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._clients.__aexit__(kind, error, trace)

    # Receiving

    async def receive(self, request: Request) -> Receipt:
        """See :class:`Channel`."""
        if self._check is None:
            return refusal(404, "not-found", "this Slack app receives over Socket Mode only")
        if request.method != "POST":
            return refusal(405, "method-not-allowed", "Slack posts here", Allow="POST")
        form = _is(request, "application/x-www-form-urlencoded")
        try:
            # Slack looks whether the certificate is good; nothing is in it that would need a signature.
            if form and request.body.startswith(b"ssl_check=") and read_form(request.body).get("ssl_check") == "1":
                return ignored("ssl-check")
            refused = self._check.refusal(request)
            if refused is not None:
                return refused
            if request.path == EVENTS:
                if not _is(request, "application/json"):
                    return refusal(415, "content-type-wrong", "events are application/json")
                async with asyncio.timeout(STATE_S):
                    return await self._event(read_json(request.body))
            if not form:
                return refusal(415, "content-type-wrong", "this is application/x-www-form-urlencoded")
            return self._form(request.path, read_form(request.body))
        except UnreadablePayload as error:
            return refusal(400, error.reason, f"{error}")
        except (StoreUnavailable, TimeoutError):
            return refusal(503, "state-unavailable", "what is known cannot be read now; send it again", Retry_After="5")

    async def _event(self, payload: dict[str, Any]) -> Receipt:
        if payload.get("type") != "url_verification":
            return await self._events.read(payload)
        challenge = payload.get("challenge")
        if not isinstance(challenge, str) or not 0 < len(challenge) <= 1024 or not challenge.isascii():
            return refusal(400, "payload-malformed", "challenge: must be a string of 1 to 1024 ASCII characters")
        return Receipt(on_ok=PlainTextResponse(challenge, headers={"X-Content-Type-Options": "nosniff"}))

    def _form(self, path: str, form: Mapping[str, Any]) -> Receipt:
        if path == COMMANDS:
            if form.get("ssl_check") == "1":
                return ignored("ssl-check")
            return read_command(form, stream=self._settings.stream, now=self._clock())
        return ignored("interaction")  # nothing that is shown here has buttons

    async def _envelope(self, kind: str, payload: Mapping[str, Any]) -> Receipt:
        """What came of an envelope of Socket Mode."""
        match kind:
            case "events_api":
                return await self._events.read(payload)
            case "slash_commands":
                return read_command(payload, stream=self._settings.stream, now=self._clock())
            case "interactive":
                return ignored("interaction")
        return ignored("envelope-unknown")

    def routes(self, submit: Submit) -> Sequence[BaseRoute]:
        """See :class:`Channel`: the pages by which a workspace installs the app."""
        return self._oauth.routes() if self._oauth is not None else ()

    async def listen(self, submit: Submit) -> None:
        """See :class:`Channel`: Socket Mode, with an app token."""
        app_token = self._settings.app_token.get_secret_value()
        if not app_token:
            return
        socket_mode = SocketMode(
            self._clients.anonymous(),
            app_token,
            self._clients.session,
            self._envelope,
            connections=self._settings.socket_connections,
        )
        await socket_mode.run(submit)

    # Delivering

    def buckets(self, address: Address) -> Sequence[Bucket]:
        """See :class:`Channel`."""
        return self._delivery.buckets(address)

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        """See :class:`Channel`."""
        return await self._delivery.deliver(address, outgoing)

    async def edit(self, address: Address, ref: Ref, outgoing: Outgoing) -> Sent:
        """See :class:`Channel`."""
        return await self._delivery.edit(address, ref, outgoing)

    async def find(self, address: Address, outgoing: Outgoing) -> Sent | None:
        """See :class:`Channel`."""
        return await self._delivery.find(address, outgoing)

    async def stream(self, address: Address, outgoing: Outgoing) -> Stream | None:
        """See :class:`Channel`."""
        return await self._delivery.stream(address, outgoing)

    async def typing(self, address: Address, on: bool) -> None:
        """See :class:`Channel`."""
        await self._delivery.typing(address, on)


def _is(request: Request, content_type: str) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == content_type


def make_channel(context: ChannelContext) -> SlackChannel:
    """The Slack channel, told by ``SDQUEUE_SLACK_…``.

    Raises:
        ConfigurationError: the settings will not do.
    """
    return SlackChannel(SlackSettings.load(), context.state)
