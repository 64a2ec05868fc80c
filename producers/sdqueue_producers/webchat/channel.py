"""WebchatChannel: the web chat at both ends of the queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from starlette.routing import BaseRoute, WebSocketRoute

from sdqueue.errors import StoreUnavailable
from sdqueue_producers.channel import BaseChannel, Caps
from sdqueue_producers.errors import Permanent, RetryAfter
from sdqueue_producers.outgoing import Address, Outgoing, Ref, Sent
from sdqueue_producers.registry import ChannelContext
from sdqueue_producers.request import Submit
from sdqueue_producers.webchat import entries
from sdqueue_producers.webchat.access import Access
from sdqueue_producers.webchat.doors import MessageDoor, TokenDoor, guarded
from sdqueue_producers.webchat.events import EventsDoor
from sdqueue_producers.webchat.feed import Draft, Feed, FeedLimits, Mode, open_feed
from sdqueue_producers.webchat.intake import CHANNEL, Intake
from sdqueue_producers.webchat.page import page_routes
from sdqueue_producers.webchat.presence import Presence
from sdqueue_producers.webchat.settings import WebchatSettings
from sdqueue_producers.webchat.socket import SocketDoor
from sdqueue_producers.webchat.tokens import Tokens

TYPING_S: Final = 10.0
"""Seconds that a page shows that an answer is being made, unless it hears of it again."""


class WebchatChannel(BaseChannel):
    """Visitors of web pages.

    A reply is delivered when it is in the visitor's feed, from where every process shows it. The feed knows what it
    has by the reply's id, so sending again changes nothing.

    Parameters:
        settings: the channel's own.
        context: what it may use.
        feed: what visitors see; entered and left together with the channel.
    """

    name = CHANNEL
    caps = Caps(
        max_chars=40_000,
        can_edit=True,
        idempotent=True,
        native_stream=True,
        edit_every_s=0.15,
        stream_max_s=3600.0,
        typing_ttl_s=TYPING_S,
    )

    def __init__(self, settings: WebchatSettings, context: ChannelContext, feed: Feed) -> None:
        self._settings = settings
        self._context = context
        self._feed = feed
        self._tokens = Tokens(settings.signing, settings.sites, time.time)

    async def __aenter__(self) -> Self:
        await self._feed.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._feed.__aexit__(kind, error, trace)

    def routes(self, submit: Submit) -> Sequence[BaseRoute]:
        """See :class:`Channel`: everything of the web chat, below ``/webchat/``."""
        settings, state, general = self._settings, self._context.state, self._context.settings
        access = Access(settings, self._tokens, general.public_url)
        intake = Intake(settings, state, self._feed, submit)
        presence = Presence(settings.max_connections, settings.session_connections)
        timeout_s = general.request_timeout_s
        token = TokenDoor(settings, access, self._tokens, state, timeout_s)
        messages = MessageDoor(settings, access, intake, timeout_s)
        events = EventsDoor(settings, access, self._feed, presence)
        socket = SocketDoor(settings, access, self._feed, intake, presence)
        return [
            *guarded("/webchat/token", access, {"POST": token.serve}),
            *guarded("/webchat/messages", access, {"POST": messages.serve}),
            *guarded("/webchat/events", access, {"GET": events.serve}),
            WebSocketRoute("/webchat/socket", socket.serve),
            *page_routes(page=settings.page),
        ]

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        """See :class:`Channel`."""
        slot = entries.reply_slot(outgoing.reply, outgoing.part)
        await self._add(address, entries.shown(outgoing, slot, Mode.ONCE))
        return Sent(slot)

    async def edit(self, address: Address, ref: Ref, outgoing: Outgoing) -> Sent:
        """See :class:`Channel`."""
        slot = _slot(ref)
        if outgoing.reply.kind == "delta":
            draft = entries.growing(outgoing.reply.turn_id, slot, outgoing.text)
        else:
            draft = entries.shown(outgoing, slot, Mode.EDIT)
        await self._add(address, draft)
        return Sent(slot)

    async def stream(self, address: Address, outgoing: Outgoing) -> FeedStream:
        """See :class:`Channel`."""
        _session(address)
        return FeedStream(self, address, outgoing)

    async def typing(self, address: Address, on: bool) -> None:
        """See :class:`Channel`."""
        await self._add(address, entries.typing(on, TYPING_S))

    async def _add(self, address: Address, draft: Draft) -> None:
        try:
            await self._feed.add(_session(address), draft)
        except StoreUnavailable as error:
            raise RetryAfter(None, str(error)) from None


class FeedStream:
    """An answer that grows in the visitor's feed: one entry, which each append replaces by a longer one.

    Parameters:
        channel: where to.
        address: the visitor's.
        outgoing: the reply that begins.
    """

    def __init__(self, channel: WebchatChannel, address: Address, outgoing: Outgoing) -> None:
        self.ref: Ref = entries.reply_slot(outgoing.reply, outgoing.part)
        self._slot = str(self.ref)
        self._turn = outgoing.reply.turn_id
        self._channel = channel
        self._address = address
        self._text = ""

    async def append(self, text: str) -> None:
        """See :class:`Stream`."""
        longer = self._text + text
        await self._channel._add(self._address, entries.growing(self._turn, self._slot, longer))
        self._text = longer  # not before: after a failure the same text is appended again

    async def finish(self, outgoing: Outgoing, appended: str) -> Sent:
        """See :class:`Stream`."""
        return await self._channel.edit(self._address, self.ref, outgoing)


def make_channel(context: ChannelContext) -> WebchatChannel:
    """The channel ``webchat``, see :class:`~sdqueue_producers.ChannelContext`.

    Raises:
        ConfigurationError: the settings will not do.
    """
    settings = WebchatSettings.load()
    feed = open_feed(context.settings, FeedLimits(settings.feed_entries, settings.feed_ttl_s))
    return WebchatChannel(settings, context, feed)


def _session(address: Address) -> str:
    session_id = address.get("session") if isinstance(address, dict) else None
    if not isinstance(session_id, str) or not session_id.startswith("webchat:"):
        raise Permanent("bad-address", f"a web chat's address is {{'session': 'webchat:…'}}, not {address!r:.80}")
    return session_id


def _slot(ref: Ref) -> str:
    if not isinstance(ref, str) or not ref:
        raise Permanent("bad-ref", f"a web chat calls its messages by strings, not {ref!r:.80}")
    return ref
