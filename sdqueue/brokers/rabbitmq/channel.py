"""One AMQP channel on a connection of aiormq, without a task of its own.

aiormq's channel creates a task for every delivery, matches returned messages by ``message_id`` (so that of
two open publishes with one id the wrong one fails), and writes each ack by itself. This one takes the
frames that aiormq's connection reads, calls back at once and in order, and writes into the connection's
outbox.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pamqp.frame
from aiormq import spec
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

if TYPE_CHECKING:
    from sdqueue.brokers.rabbitmq.connection import Connection

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 5.0
"""Seconds to wait for the broker's close-ok; it answers within milliseconds or is gone."""


class ChannelLost(Exception):
    """The channel has ended.

    Parameters:
        reason: why, in the broker's words where it said so.
        code: AMQP's reply code, 0 where the connection went.
    """

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class ConsumerCancelled(ChannelLost):
    """The broker has cancelled the consumer, and the channel was closed for that."""


OnDeliver = Callable[[spec.Basic.Deliver, spec.Basic.Properties, bytes], None]
OnReturn = Callable[[spec.Basic.Return, spec.Basic.Properties], None]
OnConfirm = Callable[[int, bool, bool], None]
OnLost = Callable[[ChannelLost], None]


def _ignore(*_: Any) -> None:
    """For what a channel has no use for."""


class Channel:
    """A channel: calls to the broker, and callbacks for what it sends.

    Callbacks are set before :meth:`open` and called in the event loop, in the order of the frames:

    - ``on_deliver(frame, properties, body)``
    - ``on_return(frame, properties)``: a mandatory message that no queue took; its confirm follows.
    - ``on_confirm(tag, multiple, positive)``
    - ``on_lost(error)``: once, when the channel ends other than by :meth:`close`.
    """

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.closed = False
        self.frames = self
        """aiormq's connection puts what it reads into ``channel.frames``."""
        self.on_deliver: OnDeliver = _ignore
        self.on_return: OnReturn = _ignore
        self.on_confirm: OnConfirm = _ignore
        self.on_lost: OnLost = _ignore
        self._calls: deque[asyncio.Future[Any]] = deque()
        self._content: spec.Basic.Deliver | spec.Basic.Return | None = None
        self._header = ContentHeader()
        self._pieces: list[bytes] = []
        self._missing = 0
        self._closing: asyncio.Future[None] | None = None

    def send(self, payload: bytes) -> None:
        """Write frames that have no answer. Nothing happens on a channel that has ended."""
        if not self.closed:
            self.connection.send(payload)

    def start(self, frame: Frame) -> asyncio.Future[Any]:
        """Send a method that the broker answers. Answers come in order, so calls may be started together.

        The future fails with :class:`ChannelLost`; that of a call nobody awaits any more does no harm.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_retrieve)
        if self.closed:
            answer.set_exception(ChannelLost("the channel is closed"))
        else:
            self._calls.append(answer)
            self.connection.send(pamqp.frame.marshal(frame, self.number))
        return answer

    async def call(self, *frames: Frame) -> Any:
        """Send methods together and return the last answer.

        Raises:
            ChannelLost: the broker refused one of them, and with it the channel.
        """
        answers = [self.start(frame) for frame in frames]
        for answer in answers:
            await answer
        return answers[-1].result()

    def abandon(self) -> None:
        """Ask the broker to close the channel, without waiting. No callback is called from now on."""
        if self.closed:
            return
        self._finish(None)
        self._closing = asyncio.get_running_loop().create_future()
        self.connection.send(
            pamqp.frame.marshal(
                spec.Channel.Close(reply_code=200, reply_text="done", class_id=0, method_id=0), self.number
            )
        )

    async def close(self) -> None:
        """Close the channel and wait until the broker says so: what was not acknowledged is on its way back
        into its queue, and nobody gets a younger message before it.

        Returns after at most :data:`CLOSE_TIMEOUT_S` seconds, also when the connection is dead.
        """
        self.abandon()
        if self._closing is not None:
            await asyncio.wait((self._closing,), timeout=CLOSE_TIMEOUT_S)

    def connection_lost(self, reason: str) -> None:
        """Called by the connection when it is gone."""
        self._released()
        self._finish(ChannelLost(reason))

    def _released(self) -> None:
        """The broker has forgotten the channel."""
        self.connection.forget(self)
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

    def _finish(self, error: ChannelLost | None) -> None:
        if self.closed:
            return
        self.closed = True
        failure = error or ChannelLost("the channel was closed")
        while self._calls:
            answer = self._calls.popleft()
            if not answer.done():
                answer.set_exception(failure)
        if error is not None:
            self.on_lost(error)

    async def put(self, item: tuple[int, Any]) -> None:
        """Take a frame from the connection's reader. It never raises: that would end the whole connection."""
        try:
            self._take(item[1])
        except Exception as error:  # a broken callback costs its channel, not the whole connection
            log.exception("channel %d of %s: a callback failed", self.number, self.connection.name)
            self._give_up(ChannelLost(f"a callback failed: {error!r}"))

    def _give_up(self, error: ChannelLost) -> None:
        """End a channel that the broker believes to be open."""
        on_lost, self.on_lost = self.on_lost, _ignore
        was_open = not self.closed
        self.abandon()
        if was_open:
            on_lost(error)

    def _take(self, frame: Any) -> None:
        kind = type(frame)
        if kind is ContentHeader:
            self._header, self._pieces, self._missing = frame, [], frame.body_size
            if not self._missing:
                self._complete(b"")
        elif kind is ContentBody:
            self._missing -= len(frame.value)
            if self._missing > 0:
                self._pieces.append(frame.value)
            elif self._pieces:
                self._pieces.append(frame.value)
                self._complete(b"".join(self._pieces))
            else:
                self._complete(frame.value)
        elif kind is spec.Basic.Deliver or kind is spec.Basic.Return:
            self._content = frame
        elif kind is spec.Channel.CloseOk:
            self._released()
        elif kind is spec.Channel.Close:
            self._closed_by_broker(frame)
        elif self.closed:
            return
        elif kind is spec.Basic.Ack or kind is spec.Basic.Nack:
            self.on_confirm(frame.delivery_tag, frame.multiple, kind is spec.Basic.Ack)
        elif kind is spec.Basic.Cancel:
            # Whoever waits for messages here would wait for ever. The channel goes, so that what it holds
            # returns.
            self._give_up(
                ConsumerCancelled("the broker cancelled the consumer: its queue was deleted or its leader moved")
            )
        elif self._calls:
            answer = self._calls.popleft()
            if not answer.done():
                answer.set_result(frame)

    def _complete(self, body: bytes) -> None:
        content, self._content = self._content, None
        if self.closed or content is None:
            return
        if type(content) is spec.Basic.Deliver:
            self.on_deliver(content, self._header.properties, body)
        elif type(content) is spec.Basic.Return:
            self.on_return(content, self._header.properties)

    def _closed_by_broker(self, frame: spec.Channel.Close) -> None:
        # Answered though we are closing ourselves: until then the broker keeps the number.
        self.connection.send(pamqp.frame.marshal(spec.Channel.CloseOk(), self.number))
        self._released()
        self._finish(ChannelLost(frame.reply_text or "the broker closed the channel", frame.reply_code or 0))


def _retrieve(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()
