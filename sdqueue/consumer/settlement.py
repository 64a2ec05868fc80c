"""Settlement: the one final state of a delivery, decided and not yet brought about."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from enum import StrEnum

from sdqueue.consumer.failure import Refused, Stopped, describe, reason_of, said_of, trace_of
from sdqueue.consumer.replies import Addressee, make_reply
from sdqueue.consumer.work import Work
from sdqueue.errors import InvalidTurn
from sdqueue.messages import DeadTurn, salvage
from sdqueue.sessions import TurnOutcome


class State(StrEnum):
    """How a delivery ended (design, section 5)."""

    COMPLETED = "completed"  # saved, and its replies confirmed
    DUPLICATE = "duplicate"  # answered before: the stored replies go out again, under the same ids
    DEAD = "dead"  # cannot be answered: a dead letter, then an error reply
    SUPERSEDED = "superseded"  # stopped or taken along by a later turn, and its user told so
    FORWARDED = "forwarded"  # belongs to another partition and was sent there
    DEFERRED = "deferred"  # waits in the session's backlog, from where it comes back
    RELEASED = "released"  # given up without an acknowledgement: the broker delivers it again


@dataclass(frozen=True)
class Settlement:
    """The fate of a delivery.

    Parameters:
        state: the final state.
        replies: reply bodies (JSON text).
        letter: why it is dead.
        by: the turn that superseded it.
        saved: the outcome is stored already.
        parked: it is deferred because its session waits for a dead turn.
        releases: the session was parked and is not any more, so its backlog is to be worked on.
        rest: the fates of the turns that it took along.
    """

    state: State
    replies: tuple[str, ...] = ()
    letter: DeadTurn | None = None
    by: str | None = None
    saved: bool = False
    parked: bool = False
    releases: bool = False
    rest: tuple[tuple[Work, Settlement], ...] = ()


def superseded(work: Work, stopped: Stopped, *, consumer: str) -> Settlement:
    """The fate of a turn that a later one has stopped."""
    assert work.turn is not None
    body = make_reply(
        Addressee.of(work.turn),
        "error",
        said_of(stopped),
        part=str(work.replay),
        reason=stopped.reason,
        superseded_by=stopped.by,
        consumer=consumer,
    )
    return Settlement(State.SUPERSEDED, (body,), by=stopped.by)


def dead(work: Work, error: BaseException, *, consumer: str) -> Settlement:
    """The fate of a turn that cannot be answered, or of what is none."""
    to = Addressee.of(work.turn) if work.turn else _sender_of(work)
    letter = DeadTurn(
        reason=reason_of(error),
        error=describe(error),
        trace="" if isinstance(error, InvalidTurn) else trace_of(error),
        attempts=max(work.attempts, work.attempt),  # those of processes that it has killed, too
        turn_id=to.turn_id,
        session_id=to.session_id,
        channel=to.channel,
        queue=work.delivery.queue,
        routing_key=work.delivery.routing_key,
        consumer=consumer,
        replay=work.replay,
    )
    if not to.session_id and not work.delivery.message.reply_to:
        return Settlement(State.DEAD, letter=letter)
    part = str(work.replay)
    body = make_reply(to, "error", said_of(error), part=part, reason=letter.reason, consumer=consumer)
    return Settlement(State.DEAD, (body,), letter)


def refused_before(work: Work, refusal: TurnOutcome, *, consumer: str) -> Settlement:
    """The fate of a turn that was refused before.

    One that is delivered again gets a letter again: whoever refused it may have died before the letter was out.
    """
    replies = refusal.replies or ()
    if not work.delivery.redelivered:
        return Settlement(State.DUPLICATE, replies)
    again = dead(work, Refused("refused", "was refused before, see its error reply"), consumer=consumer)
    return replace(again, replies=replies, saved=True)


def _sender_of(work: Work) -> Addressee:
    """Whoever sent what is no turn, as far as it can be read."""
    message = work.delivery.message
    found = salvage(message.body, message_id=message.message_id)
    return Addressee(
        found.get("id") or f"unreadable-{uuid.uuid4().hex}",
        found.get("session_id", ""),
        found.get("channel", "default"),
        found.get("address"),
    )
