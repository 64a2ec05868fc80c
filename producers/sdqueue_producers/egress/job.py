"""Job: a reply that is to be delivered, from the broker or from the outbox."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sdqueue.brokers import Delivery, Message
from sdqueue.messages import OutboundReply, replay_number
from sdqueue_producers.state import Parked

NOT_SHOWN = frozenset({"interrupted", "superseded"})
"""Reasons of error replies that say nothing to a person: a newer message of theirs is being answered instead."""


@dataclass(frozen=True, eq=False)
class Job:
    """A reply that ends a turn, on its way to the platform.

    Parameters:
        reply: what it says.
        message: as it came from the broker.
        routing_key: under which it was published.
    """

    reply: OutboundReply
    message: Message
    routing_key: str

    @classmethod
    def read(cls, delivery: Delivery) -> Self:
        """The reply of a delivery.

        Raises:
            ValueError: it is none.
        """
        return cls(OutboundReply.decode(delivery.message.body), delivery.message, delivery.routing_key)

    @property
    def session(self) -> str:
        """Whose order it keeps; the turn stands for a session that could not be read."""
        return self.reply.session_id or self.reply.turn_id

    @property
    def replay(self) -> int:
        """How often it was put back from the dead letters."""
        return replay_number(self.message.headers)

    @property
    def key(self) -> str:
        """Names it in the outbox of its session."""
        return f"{self.reply.id}~{self.replay}" if self.replay else self.reply.id

    def visible(self, *, errors: bool, everything: bool) -> bool:
        """Whether there is something to show.

        Not so for an empty text, which acknowledges a note or a command, or ends a turn that was answered with
        another one; nor for a turn that a newer message has interrupted.

        Parameters:
            errors: error replies are shown.
            everything: the receiver is a program that wants to know the end of every turn.
        """
        if everything:
            return True
        if self.reply.kind == "error" and (not errors or self.reply.metadata.get("reason") in NOT_SHOWN):
            return False
        return bool(self.reply.text.strip())

    def parked(self, *, attempts: int, due_at: float, first_at: float) -> Parked:
        """As it waits in the outbox."""
        message = self.message
        fields = {
            "body": message.body.decode(),
            "message_id": message.message_id,
            "correlation_id": message.correlation_id,
            "reply_to": message.reply_to,
            "content_type": message.content_type,
            "headers": _plain(message.headers),
            "routing_key": self.routing_key,
        }
        return Parked(self.key, json.dumps(fields), attempts, due_at, first_at)

    @classmethod
    def unparked(cls, parked: Parked) -> Self:
        """Back from the outbox.

        Raises:
            ValueError: this is nothing that :meth:`parked` has made, but perhaps that of a newer release.
        """
        try:
            fields: dict[str, Any] = json.loads(parked.body)
            routing_key = fields.pop("routing_key")
            message = Message(**(fields | {"body": fields["body"].encode()}))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it has another form than this release gives it ({error})") from None
        return cls(OutboundReply.decode(message.body), message, routing_key)

    def saying(self, text: str) -> OutboundReply:
        """The reply with another text."""
        return self.reply.model_copy(update={"text": text})


def final_id(delta: OutboundReply) -> str:
    """The id of the reply that will end the turn of a delta: ``<turn id>:<replay>``."""
    turn_id, _, part = delta.id.rpartition(":")
    return f"{turn_id}:{part.partition('.')[0]}"


def _plain(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Those that JSON can hold unchanged; a broker's own may be tables with dates."""
    return {name: value for name, value in headers.items() if isinstance(value, str | int)}
