"""Events: a streamed answer as server-sent events, from its beginning or from an offset on."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from starlette.responses import Response

from sdqueue.client import Client, Replies
from sdqueue.errors import BrokerError, ConfigurationError, ReplyError, ReplyTimeout, SessionError, StreamNotFound
from sdqueue.messages import OutboundReply
from sdqueue.streaming import StreamOffset
from sdqueue_producers.webhook.ids import TurnAddress, session_id, turn_id
from sdqueue_producers.webhook.memory import TurnMemory
from sdqueue_producers.webhook.reply import reply_body, to_text
from sdqueue_producers.webhook.settings import WebhookSettings
from sdqueue_producers.webhook.sse import event_text, events_response

_log = logging.getLogger(__name__)

_SILENCE_S: Final = 2.0
"""How long the log of a stream may be silent until the status address is asked whether the turn has ended."""

_ENDED_SILENCE_S: Final = 0.2
"""The same of a turn that has: what its log does not have now does not come any more."""

_REPLAY: Final = re.compile(r".*:([0-9]{1,9})")


class Events:
    """Makes the event streams of one turn.

    Events: ``delta`` with ``{"text", "restart"}`` and the offset as ``id``; then ``final`` or ``error`` with the
    reply, after which the stream ends.

    Parameters:
        address: of the turn.
        memory: of turns.
        settings: of the channel.
        called_back: the reply goes to the endpoint's callback where it does not go here.
    """

    def __init__(
        self, address: TurnAddress, memory: TurnMemory, settings: WebhookSettings, *, called_back: bool = False
    ) -> None:
        self._address = address
        self._turn = turn_id(address.endpoint, address.id)
        self._memory = memory
        self._settings = settings
        self._called_back = called_back

    async def answer(self, replies: Replies) -> Response:
        """The stream of a turn that the broker has just got."""
        try:
            await self._memory.accepted(self._turn, self._address.session)
        except SessionError as error:
            _log.warning("turn %r is accepted, but its stream may not be resumed: %s", self._turn, error)
        return events_response(self._live(replies), ping_s=self._settings.ping_s)

    def resume(self, client: Client, after: str) -> Response:
        """The stream of a turn from an offset on.

        Parameters:
            client: reads the log of streamed answers.
            after: the offset; checked already.
        """
        return events_response(self._resumed(client, after), ping_s=self._settings.ping_s)

    async def _live(self, replies: Replies) -> AsyncGenerator[str, None]:
        try:
            async with (
                asyncio.timeout(self._settings.stream_s),
                aclosing(replies.each(timeout=self._settings.stream_s, raise_on_error=False)) as said,
            ):
                async for reply in said:
                    if reply.kind != "delta":
                        await self._end(reply)
                    yield self._event(reply)
        except (TimeoutError, ReplyError, BrokerError) as error:
            # The client comes back, with the last id that it has seen.
            _log.info("the event stream of turn %r was ended early: %s", self._turn, error)

    async def _end(self, reply: OutboundReply) -> None:
        try:
            await self._memory.ended(self._turn, to_text(reply_body(reply, self._address)))
            if self._called_back:
                await self._memory.choose(self._turn, "held")
        except SessionError as error:
            _log.warning("the reply to turn %r may not come to its status address: %s", self._turn, error)

    async def _resumed(self, client: Client, after: str) -> AsyncGenerator[str, None]:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.stream_s
        session = session_id(self._address.endpoint, self._address.session)
        try:
            while loop.time() < until:
                known = await self._memory.known(self._turn)
                silence_s = _SILENCE_S if known.reply is None else _ENDED_SILENCE_S
                try:
                    read = client.read_stream(session, self._turn, after=after, timeout=silence_s, raise_on_error=False)
                    async with aclosing(read) as said:
                        async for reply in said:
                            yield self._event(reply)
                            if reply.kind != "delta":
                                return
                            after = reply.stream.offset if reply.stream is not None else after
                except (ReplyTimeout, StreamNotFound):
                    pass
                except ConfigurationError:  # there is no log here; the reply that ends the turn is all there is
                    await asyncio.sleep(silence_s)
                if known.reply is not None:
                    yield event_text(known.reply["kind"], to_text(known.reply), _end_id(known.reply["id"]))
                    return
        except (SessionError, ReplyError) as error:
            _log.warning("the event stream of turn %r was ended early: %s", self._turn, error)

    def _event(self, reply: OutboundReply) -> str:
        if reply.kind != "delta":
            return event_text(reply.kind, to_text(reply_body(reply, self._address)), _end_id(reply.id))
        place = reply.stream
        data = json.dumps({"text": reply.text, "restart": place is not None and place.restart}, ensure_ascii=False)
        return event_text("delta", data, None if place is None else place.offset)


def _end_id(reply_id: str) -> str:
    """The offset behind the last word: who comes back with it has everything."""
    match = _REPLAY.fullmatch(reply_id)
    return str(StreamOffset.end(replay=int(match[1]) if match else 0))
