"""Question: a turn whose replies somebody waits for; Replies: what a caller gets of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Protocol

from sdqueue.client.inbox import Inbox
from sdqueue.errors import BrokerUnavailable, ReplyTimeout, TurnFailed
from sdqueue.messages import InboundTurn, OutboundReply
from sdqueue.streaming import NewestAttempt


class Desk(Protocol):
    """What a question needs of the client that asks it."""

    async def open_inbox(self, deadline: float) -> Inbox:
        """The private queue for replies, subscribed anew where it was lost."""
        ...

    async def publish(self, turn: InboundTurn, reply_to: str, deadline: float) -> None:
        """Hand the turn over, with a queue for direct replies."""
        ...


class Question:
    """A turn whose replies somebody waits for.

    Parameters:
        desk: sends it, again where the reply queue was lost.
        turn: with an id.
    """

    def __init__(self, desk: Desk, turn: InboundTurn) -> None:
        assert turn.id is not None
        self.turn_id = turn.id
        self._desk = desk
        self._turn = turn
        self._sent_under: Inbox | None = None
        self._confirmed = False
        self._seen: set[str] = set()
        self._events: asyncio.Queue[OutboundReply | None] = asyncio.Queue()
        self._failure: Exception | None = None
        self._waiting: asyncio.Timeout | None = None

    async def sent(self, deadline: float, timeout: float) -> None:
        """Wait until the broker has the turn for good.

        Parameters:
            deadline: on the loop's clock.
            timeout: the same as the caller gave it, for the message.
        """
        try:
            async with asyncio.timeout_at(deadline) as self._waiting:
                while self._failure is None and self._sent_under is None:
                    await self._ensure_sent(deadline)
        except TimeoutError:
            if self._failure is None:
                raise unconfirmed(self._turn, timeout) from None
        finally:
            self._waiting = None
        if self._failure is not None:
            raise self._failure

    async def next(self, deadline: float, timeout: float) -> OutboundReply:
        """The next reply, after (re)sending the turn where that is due.

        Parameters:
            deadline: on the loop's clock.
            timeout: the same as the caller gave it, for the message.
        """
        try:
            async with asyncio.timeout_at(deadline) as self._waiting:
                while self._failure is None or not self._events.empty():
                    if self._events.empty():
                        await self._ensure_sent(deadline)
                    event = await self._events.get()
                    if event is not None:
                        return event
        except TimeoutError:
            if self._failure is None and self._confirmed:
                raise ReplyTimeout(self.turn_id, timeout) from None
            if self._failure is None:
                raise unconfirmed(self._turn, timeout) from None
        finally:
            self._waiting = None
        assert self._failure is not None
        raise self._failure

    async def _ensure_sent(self, deadline: float) -> None:
        if self._sent_under is not None and not self._sent_under.lost:
            return
        inbox = await self._desk.open_inbox(deadline)
        await self._desk.publish(self._turn, inbox.queue, deadline)
        # An inbox that was lost while this was under way has put a wake-up into the events: it is sent once more.
        self._sent_under = inbox
        self._confirmed = True

    def receive(self, reply: OutboundReply) -> None:
        """Take a reply; a repeat is dropped."""
        if reply.id not in self._seen:
            self._seen.add(reply.id)
            self._events.put_nowait(reply)

    def fail(self, error: Exception) -> None:
        """End it, wherever it waits: for the broker's confirm as well as for a reply."""
        self._failure = error
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(now())

    def wake(self) -> None:
        """Let it look whether it has to be sent again."""
        self._events.put_nowait(None)


class Replies:
    """The replies to one turn, for as long as the block of :meth:`Client.submit <sdqueue.Client.submit>` lasts."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._newest = NewestAttempt()
        self._turn_id = question.turn_id

    @property
    def turn_id(self) -> str:
        """The turn's id."""
        return self._turn_id

    async def last(self, *, timeout: float, raise_on_error: bool = True) -> OutboundReply:
        """Wait for the reply that ends the turn. May be called again after a ``ReplyTimeout``.

        Parameters:
            timeout: seconds, from now to the reply.
            raise_on_error: whether an ``error`` reply is raised, or returned like any other.

        Raises:
            TurnFailed: the turn was answered with an ``error`` reply.
            ReplyTimeout: no answer in ``timeout`` seconds; the turn stays queued.
            BrokerUnavailable: the reply queue was lost, and the turn could not be sent again in that time.
        """
        deadline = now() + timeout
        while True:
            reply = await self._question.next(deadline, timeout)
            if reply.kind != "delta":
                return checked(reply, raise_on_error)

    async def each(self, *, timeout: float, raise_on_error: bool = True) -> AsyncGenerator[OutboundReply, None]:
        """Iterate over them: deltas as they are said, then the reply that ends the turn.

        Only the deltas of the newest attempt are handed on, in order; ``reply.stream.restart`` says where an answer
        begins anew. The final reply has the whole text, and may come alone.

        Parameters:
            timeout: the longest silence in seconds.
            raise_on_error: whether an ``error`` reply is raised, or yielded like any other.

        Raises (while iterating):
            as :meth:`last`.
        """
        while True:
            reply = await self._question.next(now() + timeout, timeout)
            if reply.kind == "delta":
                if (delta := self._newest.accept(reply)) is not None:
                    yield delta
                continue
            yield checked(reply, raise_on_error)
            return


def checked(reply: OutboundReply, raise_on_error: bool) -> OutboundReply:
    """The reply that ends a turn, or the error that it is."""
    if reply.kind == "error" and raise_on_error:
        raise TurnFailed(reply)
    return reply


def unconfirmed(turn: InboundTurn, timeout: float) -> BrokerUnavailable:
    """What is said of a turn that the broker did not confirm."""
    return BrokerUnavailable(
        f"the broker did not confirm turn {turn.id!r} within {timeout:g} s; it may arrive nevertheless: "
        f"repeat it with id={turn.id!r}, and look at the broker with `sdqueue doctor`"
    )


def now() -> float:
    """The loop's clock."""
    return asyncio.get_running_loop().time()
