"""DeadLetter: one message of the queue of dead letters, whoever has put it there; LetterFilter: which of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Final, Self

from sdqueue.brokers import Delivery, Message, Topology
from sdqueue.messages import SDQUEUE_HEADERS, DeadTurn, partition_of, routing_key, salvage

_OF_A_DEATH: Final = (
    SDQUEUE_HEADERS,
    "x-death",
    "x-first-death-",
    "x-last-death-",
    "x-delivery-count",
    "x-acquired-count",
)
"""Beginnings of the headers that tell of a message's way to the dead letters: consumers' and RabbitMQ's. None goes with
a replay: hops and deaths would be counted on, and RabbitMQ drops what it takes for going round in circles."""


@dataclass(frozen=True, eq=False)
class DeadLetter:
    """A turn that could not be answered, or a reply that could not be delivered, as it lies in the queue.

    Parameters:
        why: what is known of its death. Where its headers do not name the turn, its session and its channel, what its
            body says of them.
        message: the message as it came, with the headers of its death among its own.
    """

    why: DeadTurn
    message: Message

    @classmethod
    def read(cls, delivery: Delivery) -> Self:
        """Read a letter. Every message is one: of a consumer, of the broker itself, or of somebody else."""
        message = delivery.message
        why = DeadTurn.from_headers(message.headers)
        known = {"routing_key": why.routing_key or delivery.routing_key}
        if not (why.turn_id and why.session_id and why.channel) and not why.reply_id:
            found = salvage(message.body, message_id=message.message_id)
            known["turn_id"] = why.turn_id or found.get("id", "")
            known["session_id"] = why.session_id or found.get("session_id", "")
            known["channel"] = why.channel or found.get("channel", "")
        return cls(why.model_copy(update=known), message)

    @property
    def name(self) -> str:
        """What the letter is called: the id of its turn, or of its reply, or its :attr:`fingerprint` where it has none.

        Several letters may have one name: a turn died, was put back, and died again.
        """
        return self.why.reply_id or self.why.turn_id or self.fingerprint

    @property
    def is_reply(self) -> bool:
        """Whether it is a reply that a producer could not deliver, and no turn."""
        return bool(self.why.reply_id)

    @cached_property
    def fingerprint(self) -> str:
        """A name of this letter alone, the same whoever looks at it."""
        why, digest = self.why, hashlib.sha256(self.message.body)
        died_at = why.died_at.isoformat() if why.died_at else ""
        for part in (why.reply_id or why.turn_id, why.reason, died_at, str(why.replay)):
            digest.update(b"\x00" + part.encode())
        return f"letter-{digest.hexdigest()[:16]}"

    def revived(self) -> Message:
        """The message that puts it back: as it came, under its own id, and marked as a replay of this death."""
        headers = {name: value for name, value in self.message.headers.items() if not name.startswith(_OF_A_DEATH)}
        headers |= self.why.replay_headers()
        own_id = self.message.message_id if self.is_reply else self.why.turn_id or self.message.message_id
        return replace(self.message, message_id=own_id, headers=headers)

    def place(self, topology: Topology) -> tuple[str, str]:
        """The exchange and the routing key to put it back under.

        A turn goes to its session's partition, or where it came from if it has none. A reply goes straight into the
        queue of its channel: whoever else listens to the replies has had it.
        """
        if self.is_reply:
            return "", topology.egress_queue(self.why.channel)
        session_id = self.why.session_id
        key = routing_key(partition_of(session_id, topology.partitions)) if session_id else self.why.routing_key
        return topology.turns, key


@dataclass(frozen=True)
class LetterFilter:
    """Which letters are meant: those that fit everything that is given.

    Parameters:
        names: turn ids or fingerprints; any of them.
        session_id, channel, reason: exactly this one.
        since: died then or later, with a time zone. A letter that does not say when it died fits no time.
        until: died before.
    """

    names: frozenset[str] = frozenset()
    session_id: str | None = None
    channel: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant."""
        why = letter.why
        if self.names and not (letter.name in self.names or letter.fingerprint in self.names):
            return False
        if self.session_id not in (None, why.session_id) or self.channel not in (None, why.channel):
            return False
        if self.reason not in (None, why.reason):
            return False
        if self.since is None and self.until is None:
            return True
        if why.died_at is None:
            return False
        return (self.since is None or self.since <= why.died_at) and (self.until is None or why.died_at < self.until)
