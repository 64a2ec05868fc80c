"""Burial: replies that cannot be delivered become dead letters."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import replace
from os import getpid
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from sdqueue.brokers import Broker, Message
from sdqueue.consumer.headers import kept
from sdqueue.errors import BrokerError
from sdqueue.messages import SDQUEUE_HEADERS, DeadTurn, replay_number
from sdqueue_producers.egress.job import Job
from sdqueue_producers.observer import ProducerObserver

PREFIX: Final = "reply-"
"""How the reasons of dead replies begin, so that they are told from dead turns."""

MAX_WAIT_S: Final = 5.0
MAX_ERROR: Final = 1000


class Burial:
    """Puts replies away, however long the broker takes.

    The letter is the message as it came, byte for byte, with the reason in its headers. `sdqueue dead replay` puts it
    back into the channel's queue.

    Parameters:
        broker: where to.
        channel: whose replies.
        observer: told of each, and of a broker that is away.
    """

    def __init__(self, broker: Broker, channel: str, observer: ProducerObserver) -> None:
        self._broker = broker
        self._channel = channel
        self._observer = observer
        self._name = f"{socket.gethostname()}:{getpid()}"

    async def bury(self, job: Job, reason: str, error: str, *, attempts: int) -> None:
        """Put a reply away; returns when the broker has the letter for good."""
        reply = job.reply
        letter = self._letter(reason, error, job.routing_key).model_copy(
            update={
                "reply_id": reply.id,
                "turn_id": reply.turn_id,
                "session_id": reply.session_id,
                "attempts": attempts,
                "replay": job.replay,
            }
        )
        await self._publish(job.message, letter)
        self._observer.reply_dead(channel=self._channel, reply_id=reply.id, reason=letter.reason, error=letter.error)

    async def bury_unreadable(self, message: Message, routing_key: str, error: str) -> None:
        """Put a message away that is no reply."""
        letter = self._letter("unreadable", error, routing_key).model_copy(
            update={"reply_id": _name(message), "replay": replay_number(message.headers)}
        )
        await self._publish(message, letter)
        self._observer.reply_dead(
            channel=self._channel, reply_id=letter.reply_id, reason=letter.reason, error=letter.error
        )

    def routing_key(self, session_id: str) -> str:
        """That of a final reply of a session."""
        return self._broker.topology.reply_key(self._channel, "final", session_id)

    def _letter(self, reason: str, error: str, routing_key: str) -> DeadTurn:
        return DeadTurn(
            reason=PREFIX + reason,
            error=error[:MAX_ERROR],
            channel=self._channel,
            queue=self._broker.topology.egress_queue(self._channel),
            routing_key=routing_key,
            consumer=self._name,
        )

    async def _publish(self, message: Message, why: DeadTurn) -> None:
        own = {name: value for name, value in kept(message.headers).items() if not name.startswith(SDQUEUE_HEADERS)}
        letter = replace(message, headers=own | why.headers())

        async def publish() -> None:
            await self._broker.publish(self._broker.topology.dead, why.routing_key, letter)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(BrokerError),
            wait=wait_random_exponential(multiplier=0.1, max=MAX_WAIT_S),
            before_sleep=self._refused,
        )
        await retrying(publish)

    def _refused(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._observer.backend_away(backend="broker", error=str(error))


def _name(message: Message) -> str:
    """What something that is no reply is called among the dead."""
    return (message.message_id or f"unreadable-{hashlib.sha256(message.body).hexdigest()[:16]}")[:256]
