"""Settlement: the one final state of a delivery, and the one function that brings it about."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from sdqueue.consumer.answer import agents_code
from sdqueue.consumer.failure import AgentFailed
from sdqueue.consumer.replies import ReplyPublisher
from sdqueue.consumer.work import Work
from sdqueue.errors import LockLost, RecordError, StoreUnavailable, VersionConflict
from sdqueue.messages import REPLAY_HEADER, REPLAY_OF_HEADER, DeadTurn, partition_of
from sdqueue.observe import Observer
from sdqueue.sessions import Retention, SessionWorker, TurnOutcome, TurnState


class State(StrEnum):
    """How a delivery ended (design, section 5)."""

    COMPLETED = "completed"  # saved, and its replies confirmed
    DUPLICATE = "duplicate"  # answered before: the stored replies go out again, under the same ids
    DEAD = "dead"  # cannot be answered: a dead letter, then an error reply
    SUPERSEDED = "superseded"  # stopped by a later turn, and its user told so
    FORWARDED = "forwarded"  # belongs to another partition and was sent there
    RELEASED = "released"  # given up without an acknowledgement: the broker delivers it again


@dataclass(frozen=True)
class Settlement:
    """The fate of a delivery, decided but not yet brought about.

    Parameters:
        state: the final state.
        replies: reply bodies (JSON text).
        letter: why it is dead.
        by: the turn that superseded it.
    """

    state: State
    replies: tuple[str, ...] = ()
    letter: DeadTurn | None = None
    by: str | None = None


class Settler:
    """Brings fates about.

    Parameters:
        publisher: sends replies and letters.
        worker: keeps the outcome of turns that ended without their agent.
        retention: how long they are kept.
        observer: told of every settlement.
    """

    def __init__(
        self, publisher: ReplyPublisher, worker: SessionWorker, retention: Retention, observer: Observer
    ) -> None:
        self._publisher = publisher
        self._worker = worker
        self._retention = retention
        self._observer = observer

    async def settle(self, work: Work, settlement: Settlement) -> None:
        """Bring a delivery into its final state.

        Each step is confirmed before the next one starts, so a crash between two of them repeats the earlier and
        loses nothing. A backend that is away is asked again until it is back: what is not acknowledged is not lost.
        """
        match settlement.state:
            case State.COMPLETED | State.DUPLICATE:
                await self._reply(work, settlement)
            case State.SUPERSEDED:
                await self._reply(work, await self._remember(work, settlement))
            case State.DEAD:
                await self._bury(work, settlement)
                await self._reply(work, await self._remember(work, settlement))
            case State.FORWARDED:
                await self._forward(work)
            case State.RELEASED:
                pass
        if settlement.state is not State.RELEASED:
            work.delivery.subscription.ack(work.delivery)
        self._observer.turn_settled(
            state=settlement.state.value,
            session_id=work.session_id if work.turn else "",
            turn_id=work.turn_id,
            seconds=time.monotonic() - work.arrived,
            letter=settlement.letter,
            by=settlement.by,
        )

    async def _reply(self, work: Work, settlement: Settlement) -> None:
        for body in settlement.replies:
            await self._publisher.reply(work.delivery, body)

    async def _bury(self, work: Work, settlement: Settlement) -> None:
        assert settlement.letter is not None
        message = work.delivery.message
        letter = replace(message, headers={**_kept(message.headers), **settlement.letter.headers()})
        await self._publisher.publish(self._publisher.topology.dead, work.delivery.routing_key, letter)

    async def _forward(self, work: Work) -> None:
        topology = self._publisher.topology
        message = work.delivery.message
        hops = message.headers.get(HOPS_HEADER, 0)
        forwarded = replace(
            message, headers={**_kept(message.headers), HOPS_HEADER: (hops if isinstance(hops, int) else 0) + 1}
        )
        queue = topology.partition_queue(partition_of(work.session_id, topology.partitions))
        # Not by the turns exchange, whose alternate would send it round in circles while that queue is missing. So
        # it is refused and tried again until the queue is back, and nothing of this session passes it meanwhile.
        await self._publisher.publish("", queue, forwarded)

    async def _remember(self, work: Work, settlement: Settlement) -> Settlement:
        """Keep the outcome with the session, so that a repeat gets the same reply and does not run."""
        if work.turn is None:
            return settlement
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((StoreUnavailable, VersionConflict, LockLost)),
            wait=wait_random_exponential(multiplier=0.1, max=2),
        )
        try:
            return await retrying(self._try_to_remember, work, settlement)
        except (RecordError, AgentFailed):
            # A record that cannot be read, or an agent that cannot be built, cannot take it either; the dead letter
            # has the reason, and a repeat fails in the same way.
            return settlement

    async def _try_to_remember(self, work: Work, settlement: Settlement) -> Settlement:
        try:
            with agents_code():
                async with self._worker.acquire(work.session_id, turn_id=work.turn_id) as handle:
                    past = handle.recall(work.turn_id)
                    if past is not None and work.is_repeat(past):
                        return replace(settlement, replies=past.replies or ())
                    handle.remember(_outcome(work, settlement), self._retention)
        except StoreUnavailable as error:
            self._observer.backend_away(backend="store", error=str(error))
            raise
        return settlement


def _outcome(work: Work, settlement: Settlement) -> TurnOutcome:
    """How a turn ended without its agent. A dead one ends at the time that its letter gives: so a replay names it."""
    died_at = settlement.letter.died_at if settlement.letter else None
    at = died_at.timestamp() if died_at else time.time()
    state: TurnState = "dead" if settlement.state is State.DEAD else "superseded"
    return TurnOutcome(work.turn_id, at, settlement.replies, state, settlement.by, work.replay)


def _kept(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message's own headers, where they leave room for ours in one frame; else those of them that sdqueue reads.

    Without this, a message that only just fitted when it came could never be put away, nor anything behind it run.
    """
    if _size(headers) <= MAX_OWN_HEADERS:
        return headers
    return {name: value for name, value in headers.items() if name in READ_HEADERS and _size(value) <= 1024}


def _size(value: Any) -> int:
    """Bytes of a header value in AMQP, or a few more."""
    match value:
        case str():
            return 5 + len(value.encode("utf-8", "replace"))
        case Mapping():
            return 5 + sum(1 + len(name.encode("utf-8", "replace")) + _size(item) for name, item in value.items())
        case list() | tuple():
            return 5 + sum(map(_size, value))
    return 9


MAX_OWN_HEADERS: Final = 96 * 1024
"""Headers must fit one frame (128 KiB by default), and a letter's have up to some 20 KiB."""

READ_HEADERS: Final = frozenset({"traceparent", "tracestate", REPLAY_HEADER, REPLAY_OF_HEADER})

HOPS_HEADER = "sdqueue-hops"
"""Counts forwardings, so that two consumers that disagree about the partitions do not play ball for ever."""
