"""Client: how applications and producers hand turns to the pool, and wait for the replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Self, TypedDict, Unpack
from uuid import uuid4

from sdqueue.backends import open_broker, open_delta_log
from sdqueue.brokers import Broker, Delivery, Message, egress_queue
from sdqueue.client.inbox import Inbox
from sdqueue.client.question import Question, Replies, checked, now, unconfirmed
from sdqueue.errors import ConfigurationError, ReplyError
from sdqueue.messages import MAX_TEXT_BYTES, InboundTurn, OutboundReply, TurnKind, partition_of, routing_key
from sdqueue.settings import Settings
from sdqueue.streaming import DeltaLog, NewestAttempt, StreamOffset, follow

CONFIRM_TIMEOUT_S: Final = 10.0
"""Seconds that ``send`` waits for the broker's confirm, unless told otherwise."""

REPLY_TIMEOUT_S: Final = 60.0
"""Seconds that ``ask`` and ``stream`` wait for a reply, unless told otherwise."""


class TurnOptions(TypedDict, total=False):
    """What a turn may carry besides its session and text; all of it is optional.

    Parameters:
        id: names the turn for good. Sending it again under the same id does not run it again. Default: a random one.
        channel: where the reply goes: the first word of its routing key.
        address: JSON that the channel needs to deliver the reply; carried untouched.
        sender: who said it.
        kind: message, assist, reset or cancel.
        metadata: JSON values that are copied to the reply.
        deadline_s: seconds that the agent may take, all attempts together.
        headers: message headers, such as the W3C ``traceparent``.
    """

    id: str | None
    channel: str
    address: Any
    sender: str | None
    kind: TurnKind
    metadata: dict[str, Any] | None
    deadline_s: float | None
    headers: Mapping[str, Any] | None


class Client:
    """Sends turns and waits for replies; one object serves a whole application, from one event loop.

    ::

        async with Client.from_settings(broker_url="amqp://localhost") as client:
            reply = await client.ask("user-42", "hello")
            print(reply.text)

    Replies come through one private queue. When it is lost with the connection, every question that waits is sent
    again under its own id, and the pool answers from memory what it has answered already.

    Parameters:
        broker: entered by the caller, who may share it with a consumer.
        max_text_bytes: longest text, in bytes of UTF-8; the consumers' limit.
        delta_log: where the consumers keep streamed answers for :meth:`read_stream`; closed by the caller.
    """

    def __init__(
        self, broker: Broker, *, max_text_bytes: int = MAX_TEXT_BYTES, delta_log: DeltaLog | None = None
    ) -> None:
        self._broker = broker
        self._delta_log = delta_log
        self._max_text_bytes = max_text_bytes
        self._owns_broker = False
        self._checked = False
        self._closed = False
        self._gate = asyncio.Lock()
        self._questions: dict[str, list[Question]] = {}
        self._inbox: Inbox | None = None

    @classmethod
    def from_settings(cls, settings: Settings | None = None, **overrides: Any) -> Self:
        """A client with a broker of its own, which is entered and left together with it.

        Parameters:
            settings: where the broker is. Default: read from the environment.
            overrides: settings that win over it, such as ``broker_url``; not together with ``settings``.

        Raises:
            ConfigurationError: a setting is wrong.
        """
        if settings is not None and overrides:
            raise TypeError("give either settings or single values, not both")
        settings = Settings.load(**overrides) if settings is None else settings
        client = cls(
            open_broker(settings, name="sdqueue client"),
            max_text_bytes=settings.max_text_bytes,
            delta_log=open_delta_log(settings),
        )
        client._owns_broker = True
        return client

    async def __aenter__(self) -> Self:
        if self._owns_broker:
            await self._broker.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closed = True
        for question in [q for asked in self._questions.values() for q in asked]:
            question.fail(
                ReplyError(
                    f"the client was closed before turn {question.turn_id!r} was answered; if it was sent, it stays "
                    f"queued: ask again with id={question.turn_id!r}"
                )
            )
        try:
            async with self._gate:  # a subscription that is just being made is closed as well
                if self._inbox is not None:
                    await self._inbox.close()
        finally:
            if self._owns_broker:
                if self._delta_log is not None:
                    await self._delta_log.aclose()
                await self._broker.__aexit__(*exc_info)

    async def send(
        self,
        session_id: str,
        text: str,
        *,
        stream: bool = False,
        timeout: float = CONFIRM_TIMEOUT_S,
        **options: Unpack[TurnOptions],
    ) -> str:
        """Hand over a turn; returns when the broker has it for good.

        Parameters:
            session_id: the conversation; its turns are answered in the order in which the broker got them.
            text: what was said.
            stream: whether delta replies are wanted before the final one.
            timeout: seconds.
            options: see :class:`TurnOptions`.

        Returns:
            The turn's id.

        Raises:
            InvalidTurn: an argument is wrong; nothing was sent.
            TopologyMissing: nobody has declared the queues yet.
            BrokerUnavailable: not confirmed in ``timeout`` seconds. The turn may arrive nevertheless: repeat it under
                the same id.
            PublishRejected: the broker refused it.
        """
        self._check_open()
        turn, headers = self._make(session_id, text, stream, options)
        return await self.publish(turn, headers=headers, timeout=timeout)

    async def publish(
        self, turn: InboundTurn, *, headers: Mapping[str, Any] | None = None, timeout: float = CONFIRM_TIMEOUT_S
    ) -> str:
        """Hand over a turn that is made already, as :meth:`send` does.

        Parameters:
            turn: with an id of its own; without one it gets a random one.
            headers: message headers, such as the W3C ``traceparent``.
            timeout: seconds.

        Returns:
            The turn's id.

        Raises:
            TopologyMissing, BrokerUnavailable, PublishRejected: see :meth:`send`.
        """
        self._check_open()
        turn = _named(turn)
        deadline = now() + timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self._check_topology(deadline)
                await self._publish(turn, headers or {}, None, deadline)
        except TimeoutError:
            raise unconfirmed(turn, timeout) from None
        return _id(turn)

    async def check(self, *, timeout: float = CONFIRM_TIMEOUT_S) -> None:
        """See whether turns can be handed over: the broker answers and has its queues.

        Parameters:
            timeout: seconds.

        Raises:
            TopologyMissing, TopologyMismatch: the queues are not there, or not as the settings say.
            BrokerUnavailable: the broker was not reached in ``timeout`` seconds.
        """
        self._check_open()
        await self._broker.check(timeout=timeout)

    async def reach(self, *, timeout: float = CONFIRM_TIMEOUT_S) -> None:
        """See whether the broker answers, by a single question: for those who ask again and again after :meth:`check`.

        RabbitMQ logs some questions of that one as errors, those whose answer should be no.

        Parameters:
            timeout: seconds.

        Raises:
            TopologyMissing: the queues are not there any more.
            BrokerUnavailable: the broker was not reached in ``timeout`` seconds.
        """
        self._check_open()
        await self._broker.queue_state(self._broker.topology.unrouted, timeout=timeout)

    async def keep_replies(self, channel: str, *, declare: bool = True, timeout: float = CONFIRM_TIMEOUT_S) -> None:
        """See to it that the replies of a channel are kept from now on, until somebody takes them. Idempotent.

        Nobody has to listen to replies, so the broker drops those of a channel that has no queue yet.

        Parameters:
            channel: as in a turn.
            declare: whether their queue is made where it is missing; without the right to, it is only looked for.
            timeout: seconds.

        Raises:
            TopologyMissing: nobody has declared the queues yet.
            TopologyMismatch: the channel has a queue with other properties.
            AccessRefused: the user may not declare it.
            BrokerUnavailable: the broker was not reached in ``timeout`` seconds.
        """
        self._check_open()
        await egress_queue(self._broker, channel, declare=declare, timeout=timeout)

    @asynccontextmanager
    async def submit(
        self, turn: InboundTurn, *, headers: Mapping[str, Any] | None = None, timeout: float = CONFIRM_TIMEOUT_S
    ) -> AsyncGenerator[Replies, None]:
        """Hand over a turn and listen to its replies: the block is entered when the broker has it for good.

        ::

            async with client.submit(InboundTurn(session_id="user-42", text="hello", stream=True)) as replies:
                async for reply in replies.each(timeout=60):
                    ...

        Parameters:
            turn, headers, timeout: see :meth:`publish`.

        Raises:
            TopologyMissing, BrokerUnavailable, PublishRejected: see :meth:`send`; before the block is entered.
        """
        with self._asked(_named(turn), headers or {}) as question:
            await question.sent(now() + timeout, timeout)
            yield Replies(question)

    async def ask(
        self,
        session_id: str,
        text: str,
        *,
        timeout: float = REPLY_TIMEOUT_S,
        raise_on_error: bool = True,
        **options: Unpack[TurnOptions],
    ) -> OutboundReply:
        """Hand over a turn and wait for the reply that ends it.

        Parameters:
            session_id: the conversation.
            text: what was said.
            timeout: seconds, from now to the reply.
            raise_on_error: whether an ``error`` reply is raised, or returned like any other.
            options: see :class:`TurnOptions`.

        Raises:
            TurnFailed: the turn was answered with an ``error`` reply.
            ReplyTimeout: no answer in ``timeout`` seconds; the turn stays queued.
            InvalidTurn, TopologyMissing, BrokerUnavailable, PublishRejected: see :meth:`send`.
        """
        self._check_open()
        with self._asked(*self._make(session_id, text, False, options)) as question:
            return await Replies(question).last(timeout=timeout, raise_on_error=raise_on_error)

    async def stream(
        self,
        session_id: str,
        text: str,
        *,
        timeout: float = REPLY_TIMEOUT_S,
        raise_on_error: bool = True,
        **options: Unpack[TurnOptions],
    ) -> AsyncGenerator[OutboundReply, None]:
        """Hand over a turn and iterate over its replies: deltas as they are said, then the reply that ends the turn.

        A delta has its place in ``reply.stream``. Where the agent had to start again, in the same process or in
        another one, the next delta has ``reply.stream.restart``: clear what was shown. Only the newest attempt is
        handed on, in order. The final reply has the whole text and is what counts: where deltas were lost, as with a
        connection, it may even come alone.

        After a break of its own a caller reads on with :meth:`read_stream` from the ``stream.offset`` of the last delta
        that it has seen.

        Parameters:
            session_id: the conversation.
            text: what was said.
            timeout: the longest silence in seconds: up to the first reply, and between one and the next.
            raise_on_error: whether an ``error`` reply is raised, or yielded like any other.
            options: see :class:`TurnOptions`.

        Raises:
            as :meth:`ask`, while iterating.
        """
        self._check_open()
        with self._asked(*self._make(session_id, text, True, options)) as question:
            async with aclosing(Replies(question).each(timeout=timeout, raise_on_error=raise_on_error)) as replies:
                async for reply in replies:
                    yield reply

    async def read_stream(
        self,
        session_id: str,
        turn_id: str,
        *,
        after: str = "0",
        timeout: float = REPLY_TIMEOUT_S,
        raise_on_error: bool = True,
    ) -> AsyncGenerator[OutboundReply, None]:
        """Read the answer to a turn that was sent with ``stream=True``, here or elsewhere, from an offset on.

        It begins with what was said already and goes on with what is being said, up to the reply that ends the turn.
        It sends nothing, and any number of readers may follow the same turn, in any process. Where the agent has
        started again since, it goes on with the first delta of that attempt, which says ``stream.restart``.

        An answer is kept for a few minutes after its last word, and of a very long one the last deltas only: see
        ``SDQUEUE_STREAM_TTL_S`` and ``SDQUEUE_STREAM_ENTRIES``.

        Parameters:
            session_id: the conversation.
            turn_id: the turn.
            after: the ``stream.offset`` of the last delta that was seen; ``"0"``: from the beginning, for which a turn
                is waited for that has not begun.
            timeout: the longest silence in seconds: up to the first reply, and between one and the next.
            raise_on_error: whether an ``error`` reply is raised, or yielded like any other.

        Raises (while iterating):
            StreamNotFound: the answer is kept no more, or nothing of it came in ``timeout`` seconds.
            InvalidOffset: ``after`` is no offset.
            ReplyTimeout: nothing more came in ``timeout`` seconds.
            TurnFailed: the turn was answered with an ``error`` reply.
            StoreUnavailable: the log cannot be reached. Read on when it is back.
            RecordSealed: it is sealed, and this client has not the keys.
            ConfigurationError: this client knows no log.
        """
        self._check_open()
        if self._delta_log is None:
            raise ConfigurationError(
                "this client knows no log of streamed answers; make it with Client(broker, delta_log=...), or with "
                "Client.from_settings() where SDQUEUE_STREAM_ENTRIES is not 0 and SDQUEUE_STREAM_URL, or else the "
                "store, is no null://"
            )
        place = StreamOffset.parse(after)
        newest = NewestAttempt(place)
        entries = follow(self._delta_log, session_id, turn_id, after=place, timeout=timeout)
        async with aclosing(entries):
            async for entry in entries:
                reply = OutboundReply.decode(entry.body.encode())
                if reply.kind == "delta":
                    if (delta := newest.accept(reply)) is not None:
                        yield delta
                    continue
                yield checked(reply, raise_on_error)
                return

    def _check_open(self) -> None:
        if self._closed:
            raise ReplyError("the client is closed; use it inside its `async with` block")

    def _make(
        self, session_id: str, text: str, stream: bool, options: TurnOptions
    ) -> tuple[InboundTurn, Mapping[str, Any]]:
        fields: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        headers = fields.pop("headers", {})
        unknown = fields.keys() - TurnOptions.__annotations__.keys()
        if unknown:
            raise TypeError(
                f"a turn has no {', '.join(sorted(unknown))}; it may have {', '.join(TurnOptions.__annotations__)}"
            )
        fields.setdefault("id", uuid4().hex)
        fields |= {"session_id": session_id, "text": text, "stream": stream, "created_at": datetime.now(UTC)}
        return InboundTurn.make(fields, max_text_bytes=self._max_text_bytes), headers

    @contextmanager
    def _asked(self, turn: InboundTurn, headers: Mapping[str, Any]) -> Iterator[Question]:
        """A question that gets replies for the length of the block, and is forgotten however that ends."""
        self._check_open()
        question = Question(_Desk(self, headers), turn)
        self._questions.setdefault(question.turn_id, []).append(question)
        try:
            yield question
        finally:
            asked = self._questions[question.turn_id]
            asked.remove(question)
            if not asked:
                del self._questions[question.turn_id]

    async def _check_topology(self, deadline: float) -> None:
        """Once: a turn published while queues are still being bound could be overtaken by later ones."""
        if self._checked:
            return
        async with self._gate:
            if not self._checked:
                await self._broker.check(timeout=_left(deadline))
                self._checked = True

    async def _open_inbox(self, deadline: float) -> Inbox:
        """The private queue, subscribed anew where it was lost. One caller does it for all that wait."""
        await self._check_topology(deadline)
        async with self._gate:
            if self._inbox is None or self._inbox.lost:
                if self._inbox is not None:
                    await self._inbox.close()
                    self._inbox = None
                subscription = await self._broker.subscribe_replies(self._receive, timeout=_left(deadline))
                self._inbox = Inbox(subscription, self._wake_all)
            return self._inbox

    async def _publish(
        self, turn: InboundTurn, headers: Mapping[str, Any], reply_to: str | None, deadline: float
    ) -> None:
        topology = self._broker.topology
        key = routing_key(partition_of(turn.session_id, topology.partitions))
        message = Message(turn.to_bytes(), message_id=turn.id, reply_to=reply_to, headers=headers)
        await self._broker.publish(topology.turns, key, message, timeout=_left(deadline))

    def _receive(self, delivery: Delivery) -> None:
        """Give a reply to whoever asked; it is called by the broker and must not raise."""
        turn_id = delivery.message.correlation_id
        asked = self._questions.get(turn_id) if turn_id is not None else None
        if not asked:
            return  # a repeat of what is answered, or the reply to a question that was given up
        try:
            reply = OutboundReply.decode(delivery.message.body)
        except ValueError as error:
            for question in asked:
                question.fail(ReplyError(f"the reply to turn {turn_id!r} cannot be read: {error}"))
            return
        for question in asked:
            question.receive(reply)

    def _wake_all(self) -> None:
        for asked in self._questions.values():
            for question in asked:
                question.wake()


class _Desk:
    """What a client's questions send themselves with, each with headers of its own."""

    def __init__(self, client: Client, headers: Mapping[str, Any]) -> None:
        self._client = client
        self._headers = headers

    async def open_inbox(self, deadline: float) -> Inbox:
        return await self._client._open_inbox(deadline)

    async def publish(self, turn: InboundTurn, reply_to: str, deadline: float) -> None:
        await self._client._publish(turn, self._headers, reply_to, deadline)


def _named(turn: InboundTurn) -> InboundTurn:
    return turn if turn.id is not None else turn.model_copy(update={"id": uuid4().hex})


def _id(turn: InboundTurn) -> str:
    assert turn.id is not None
    return turn.id


def _left(deadline: float) -> float:
    return max(deadline - now(), 0.001)
