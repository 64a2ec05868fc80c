"""Replies on their way out: to the replies exchange, and a copy to whoever asked directly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic_core import from_json
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from sdqueue.agents import TurnResult
from sdqueue.brokers import Broker, Delivery, Message
from sdqueue.brokers.topology import Topology
from sdqueue.errors import AgentResultError, BrokerError, Unroutable
from sdqueue.messages import InboundTurn, OutboundReply, ReplyKind, ToolCallBody
from sdqueue.observe import Observer


@dataclass(frozen=True)
class Addressee:
    """Who a reply is for: what it takes over from the turn."""

    turn_id: str
    session_id: str
    channel: str = "default"
    address: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, turn: InboundTurn) -> Self:
        """The sender of a turn."""
        return cls(turn.id or "", turn.session_id, turn.channel, turn.address, turn.metadata)


def make_reply(
    to: Addressee,
    kind: ReplyKind,
    text: str,
    *,
    seq: int = 0,
    part: str = "0",
    result: TurnResult | None = None,
    **metadata: Any,
) -> str:
    """A reply body, as JSON text.

    Parameters:
        to: who it is for.
        kind: final, delta or error.
        text: the answer.
        seq: the number of the final reply in its session, 0 for an error.
        part: what follows the turn's id in that of the reply.
        result: the agent's result, for its tool calls and metadata.
        metadata: more of it.

    Raises:
        AgentResultError: the agent's text, metadata or tool calls cannot be written as JSON.
    """
    try:
        reply = OutboundReply(
            id=f"{to.turn_id}:{part}",
            turn_id=to.turn_id,
            session_id=to.session_id,
            seq=seq,
            kind=kind,
            text=text,
            tool_calls=tuple(ToolCallBody(**vars(call)) for call in result.tool_calls) if result else (),
            channel=to.channel,
            address=to.address,
            metadata={**to.metadata, **(result.metadata if result else {}), **metadata},
        )
        return reply.to_bytes().decode()
    except ValueError as error:
        raise AgentResultError(
            f"the agent's answer cannot be written as JSON: {str(error)[:300]}; keep text, metadata and tool "
            "arguments to JSON values"
        ) from error


class ReplyPublisher:
    """Publishes replies with confirms, however long the broker takes.

    Parameters:
        broker: where to.
        observer: told of refusals.
    """

    def __init__(self, broker: Broker, observer: Observer) -> None:
        self._broker = broker
        self._observer = observer
        self._deltas: set[asyncio.Task[None]] = set()

    @property
    def topology(self) -> Topology:
        """The broker's."""
        return self._broker.topology

    async def publish(self, exchange: str, key: str | Callable[[], str], message: Message) -> None:
        """Publish and wait for the confirm, again and again until the broker takes it.

        Parameters:
            exchange: where to.
            key: the routing key, or what tells it before each attempt.
            message: what.
        """

        async def attempt() -> None:
            await self._broker.publish(exchange, key() if callable(key) else key, message)

        try:
            await attempt()
        except BrokerError:
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(BrokerError),
                wait=wait_random_exponential(multiplier=0.1, max=5),
                before_sleep=self._refused,
            )
            await retrying(attempt)

    async def reply(self, delivery: Delivery, body: str) -> None:
        """Publish a reply, and a copy to the queue that the turn named in ``reply_to``.

        A reply without a session, to a message that none could be read from, goes only there.
        """
        key, message = self._addressed(delivery, body)
        reply_to, topology = delivery.message.reply_to, self._broker.topology
        if not reply_to:
            await self.publish(topology.replies, key, message)
        elif not key:
            await self._copy(reply_to, message)
        else:
            await asyncio.gather(self.publish(topology.replies, key, message), self._copy(reply_to, message))

    def delta(self, delivery: Delivery, body: str) -> list[asyncio.Task[None]]:
        """Begin to publish a delta, once: what is published after the next turn of the loop comes after it.

        Returns:
            Tasks that end with the confirms. They raise nothing, and may be cancelled.
        """
        key, message = self._addressed(delivery, body)
        ways = [self._once(self._broker.topology.replies, key, message)]
        if delivery.message.reply_to:
            ways.append(self._copy(delivery.message.reply_to, message))
        tasks = [asyncio.create_task(way, name=f"delta {message.message_id}") for way in ways]
        for task in tasks:
            self._deltas.add(task)
            task.add_done_callback(self._deltas.discard)
        return tasks

    async def aclose(self) -> None:
        """Give up deltas that are not confirmed yet."""
        deltas = self._deltas.copy()
        for task in deltas:
            task.cancel()
        await asyncio.gather(*deltas, return_exceptions=True)

    def _addressed(self, delivery: Delivery, body: str) -> tuple[str, Message]:
        """The routing key of a reply, empty where it has no session, and its message."""
        fields = from_json(body)
        message = Message(
            body.encode(),
            message_id=fields["id"],
            correlation_id=fields["turn_id"],
            headers=_trace_context(delivery.message),
        )
        session_id = fields["session_id"]
        key = self._broker.topology.reply_key(fields["channel"], fields["kind"], session_id) if session_id else ""
        return key, message

    async def _once(self, exchange: str, key: str, message: Message) -> None:
        try:
            await self._broker.publish(exchange, key, message)
        except BrokerError as error:
            self._observer.backend_away(backend="broker", error=str(error))

    async def _copy(self, queue: str, message: Message) -> None:
        try:
            await self._broker.publish("", queue, message)
        except Unroutable:
            return  # whoever asked has gone; the reply itself is on the replies exchange
        except BrokerError as error:
            self._observer.backend_away(backend="broker", error=str(error))

    def _refused(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._observer.backend_away(backend="broker", error=str(error))


def _trace_context(message: Message) -> dict[str, Any]:
    """W3C trace context travels both ways."""
    return {name: message.headers[name] for name in ("traceparent", "tracestate") if name in message.headers}
