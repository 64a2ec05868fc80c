"""WebhookChannel: Standard Webhooks at both ends, for whatever can send and receive HTTP."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from starlette.responses import Response

from sdqueue.errors import ConfigurationError, InvalidOffset, SessionError
from sdqueue.streaming import StreamOffset
from sdqueue_producers.channel import BaseChannel, Bucket, Caps
from sdqueue_producers.errors import Permanent, RetryAfter
from sdqueue_producers.outgoing import Address, Outgoing, Sent
from sdqueue_producers.registry import ChannelContext
from sdqueue_producers.request import Receipt, Request, refusal
from sdqueue_producers.webhook.auth import Gate
from sdqueue_producers.webhook.body import RefusedError, read_turn
from sdqueue_producers.webhook.callback import Callback, bucket_key
from sdqueue_producers.webhook.events import Events
from sdqueue_producers.webhook.holding import Holding, later, ready
from sdqueue_producers.webhook.ids import CHANNEL, TurnAddress, is_id, turn_id
from sdqueue_producers.webhook.memory import Known, TurnMemory
from sdqueue_producers.webhook.prefer import ReplyMode
from sdqueue_producers.webhook.reply import reply_body, to_text
from sdqueue_producers.webhook.resolver import Lookup, system_lookup
from sdqueue_producers.webhook.settings import EndpointSettings, WebhookSettings

_log = logging.getLogger(__name__)

_PATH: Final = re.compile(r"/webhook/([^/]+)(?:/turns/([^/]+)(/events)?)?")

STATE_S: Final = 0.5
"""Seconds that the state may take to tell whether an id was used before, which is a help to senders and no more."""

HOLDER_S: Final = 1.0
"""Seconds that a callback waits for a request that may be held for the same reply."""


class WebhookChannel(BaseChannel):
    """Endpoints that take signed messages, and answer on the request, by callback, or at a status address.

    Parameters:
        context: what a channel may use.
        settings: its own.
        lookup: asks for the addresses of callbacks' hosts.

    Raises:
        ConfigurationError: an endpoint will not do.
    """

    name = CHANNEL
    paths = ("/webhook/{endpoint}", "/webhook/{endpoint}/turns/{turn}", "/webhook/{endpoint}/turns/{turn}/events")

    def __init__(self, context: ChannelContext, settings: WebhookSettings, *, lookup: Lookup = system_lookup) -> None:
        if not settings.endpoints:
            raise ConfigurationError(
                "channel webhook has no endpoint: give [webhook.endpoints.NAME] in sdqueue.toml, or "
                "SDQUEUE_WEBHOOK_ENDPOINTS"
            )
        # A webhook has no limit of length, so nothing is split; a receiver knows a repeat by its webhook-id.
        self.caps = Caps(max_chars=2**31, idempotent=True, every_reply=True, retry_s=settings.retry_s)
        self._context = context
        self._settings = settings
        self._gates = {name: Gate(endpoint) for name, endpoint in settings.endpoints.items()}
        self._callbacks = {
            name: Callback(name, endpoint, lookup=lookup)
            for name, endpoint in settings.endpoints.items()
            if endpoint.callback_url is not None
        }
        self._memory = TurnMemory(context.state, settings.status_ttl_s)
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for callback in self._callbacks.values():
                await stack.enter_async_context(callback)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    # Receiving

    async def receive(self, request: Request) -> Receipt:
        """See :class:`Channel`: a message, or the question what has become of one."""
        match = _PATH.fullmatch(request.path)
        endpoint = self._settings.endpoints.get(match[1]) if match else None
        if match is None or endpoint is None:
            return refusal(404, "unknown-endpoint", "there is no such endpoint; look at its name in the address")
        name, turn, events = match[1], match[2], match[3]
        method = "POST" if turn is None else "GET"
        if request.method != method:
            return refusal(405, "method", f"only {method} is accepted here", Allow=method)
        refused = self._gates[name].check(request)
        if refused is not None:
            return refused
        try:
            if turn is None:
                return await self._take(request, name, endpoint)
            return await self._look(request, name, turn, events=events is not None)
        except RefusedError as error:
            return error.receipt

    async def _take(self, request: Request, name: str, endpoint: EndpointSettings) -> Receipt:
        mode = ReplyMode.of(request, endpoint)
        turn, address = read_turn(
            request,
            name,
            held=mode.kind != "later",
            streamed=mode.kind == "stream",
            max_text_bytes=self._context.settings.max_text_bytes,
        )
        assert turn.id is not None
        await self._check_session(turn.id, address)
        location = self._location(address)
        called_back = name in self._callbacks
        if mode.kind == "stream":
            return Receipt(
                (turn,), answer=Events(address, self._memory, self._settings, called_back=called_back).answer
            )
        if mode.kind == "hold" or turn.stream:
            # Also a turn whose stream is only to be read later: its session is remembered once the broker has it.
            holding = Holding(address, mode, location, self._memory, called_back=called_back and address.held)
            return Receipt((turn,), answer=holding.answer)
        return Receipt((turn,), on_ok=later(address, location, mode.applied))

    async def _check_session(self, turn: str, address: TurnAddress) -> None:
        """One id names one message. Where the state is away this is left out: consumers know repeats as well."""
        try:
            async with asyncio.timeout(STATE_S):
                known = await self._memory.known(turn)
        except (SessionError, TimeoutError):
            return
        if known.session is not None and known.session != address.session:
            raise RefusedError(
                422, "id-used", f"id {address.id!r} named a message of another session; a new message needs a new id"
            )

    def _location(self, address: TurnAddress) -> str:
        root = self._context.settings.public_url.rstrip("/")
        return f"{root}/webhook/{address.endpoint}/turns/{address.id}"

    # The status address

    async def _look(self, request: Request, name: str, id_: str, *, events: bool) -> Receipt:
        signed = request.headers.get("webhook-id")
        if "webhook-signature" in request.headers and (
            signed is None or not hmac.compare_digest(signed.encode(), id_.encode())
        ):
            # Else a signature on one question would read the replies to all others.
            raise RefusedError(
                400, "other-id", "webhook-id must be the id of the turn in the address, and be signed so"
            )
        if not is_id(id_):
            raise RefusedError(404, "unknown-turn", "no turn is called so")
        turn = turn_id(name, id_)
        try:
            known = await self._memory.known(turn)
        except SessionError:
            return Receipt(on_ok=_unavailable())
        if not known.accepted:
            raise RefusedError(
                404, "unknown-turn", f"no turn {id_!r} was accepted in the time that they are remembered"
            )
        if events:
            return self._resume(request, TurnAddress(name, id_, known.session or ""), known)
        if known.reply is not None:
            return Receipt(on_ok=ready(known.reply))
        address = TurnAddress(name, id_, known.session or "")
        response = later(address, self._location(address))
        response.headers["Retry-After"] = "1"
        return Receipt(on_ok=response)

    def _resume(self, request: Request, address: TurnAddress, known: Known) -> Receipt:
        if known.session is None:
            raise RefusedError(
                409,
                "not-streamed",
                "this turn was sent without Accept: text/event-stream and without stream: ask its status address",
            )
        after = request.headers.get("last-event-id") or "0"
        try:
            place = StreamOffset.parse(after)
        except InvalidOffset:
            raise RefusedError(400, "invalid-offset", "Last-Event-ID is no id of an event of this stream") from None
        if place.is_end:
            return Receipt(on_ok=Response(status_code=204))  # by which a browser's EventSource stops coming back
        events = Events(address, self._memory, self._settings)
        return Receipt(on_ok=events.resume(self._context.client, after))

    # Delivering

    def buckets(self, address: Address) -> list[Bucket]:
        """See :class:`Channel`: of the endpoint's receiver."""
        try:
            name = TurnAddress.parse(address).endpoint
        except ValueError:
            return []
        if name not in self._callbacks:
            return []
        return [Bucket(bucket_key(name), self._settings.endpoints[name].callback_per_s, 1.0)]

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        """See :class:`Channel`: keep the reply for the status address, and post it where there is a receiver."""
        try:
            to = TurnAddress.parse(address)
        except ValueError as error:
            raise Permanent("bad-address", str(error)) from None
        if to.endpoint not in self._settings.endpoints:
            raise Permanent(
                "no-endpoint", f"endpoint {to.endpoint!r} is configured no more; configure it and replay this reply"
            )
        turn = outgoing.reply.turn_id
        body = to_text(reply_body(outgoing.reply, to))
        callback = self._callbacks.get(to.endpoint)
        try:
            await self._memory.ended(turn, body)
            if callback is None or (to.held and await self._memory.way(turn, wait_s=HOLDER_S) == "held"):
                return Sent()
            if await self._memory.is_gone(to.endpoint, callback.fingerprint):
                raise Permanent(
                    "gone",
                    f"the receiver of endpoint {to.endpoint!r} has answered 410 Gone before; change its callback_url, "
                    "or raise its callback_revision where it is there again, and replay this reply",
                )
        except SessionError as error:
            raise RetryAfter(None, str(error)) from None
        try:
            await callback.post(outgoing.key, body)
        except Permanent:
            await self._disable(to.endpoint, callback)
            raise
        return Sent()

    async def _disable(self, endpoint: str, callback: Callback) -> None:
        try:
            await self._memory.gone(endpoint, callback.fingerprint)
        except SessionError as error:
            # The next reply asks the receiver once more.
            _log.warning("that the receiver of endpoint %r is gone could not be remembered: %s", endpoint, error)


def _unavailable() -> Response:
    return Response(
        to_text({"error": "state-away", "detail": "what became of the turn cannot be read now; ask again"}),
        status_code=503,
        media_type="application/json",
        headers={"Retry-After": "5"},
    )


def make_channel(context: ChannelContext) -> WebhookChannel:
    """The channel, as the entry point ``sdqueue.channels`` names it."""
    return WebhookChannel(context, WebhookSettings.load())
