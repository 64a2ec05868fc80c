"""Settler: brings the fates of deliveries about."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from sdqueue.channels import OnDead
from sdqueue.consumer.answer import agents_code
from sdqueue.consumer.failure import AgentFailed, Refused
from sdqueue.consumer.headers import HOPS_HEADER, hops, kept
from sdqueue.consumer.options import ConsumerOptions
from sdqueue.consumer.replies import ReplyPublisher
from sdqueue.consumer.settlement import Settlement, State, dead, refused_before
from sdqueue.consumer.work import Work
from sdqueue.errors import LockLost, RecordError, RecordSealed, StoreUnavailable, VersionConflict
from sdqueue.observe import Observer
from sdqueue.sessions import SessionWorker, TurnOutcome, TurnState
from sdqueue.streaming import LogEntry, LogWriter, StreamOffset

LOG_S: Final = 0.05
"""Seconds that the acknowledgement of a streamed turn, whose reply is out, waits for a log that is slow."""

Answer = TypeVar("Answer")


class Settler:
    """Settles deliveries.

    Parameters:
        publisher: sends replies and letters.
        worker: keeps the outcome of turns that ended without their agent.
        options: what a dead turn does to its session, and how long outcomes are kept.
        observer: told of every settlement.
        log: keeps the replies to streamed turns for those who read on later; ``None``: nobody does.
    """

    def __init__(
        self,
        publisher: ReplyPublisher,
        worker: SessionWorker,
        options: ConsumerOptions,
        observer: Observer,
        log: LogWriter | None = None,
    ) -> None:
        self._publisher = publisher
        self._worker = worker
        self._options = options
        self._observer = observer
        self._log = log

    async def settle(self, work: Work, settlement: Settlement) -> None:
        """Bring a delivery into its final state, and those that it took along into theirs.

        Each step is confirmed before the next one starts, so a crash between two of them repeats the earlier and
        loses nothing. A backend that is away is asked again until it is back: what is not acknowledged is not lost.
        """
        await self._settle(work, settlement)
        for other, fate in settlement.rest:
            await self._settle(other, fate)

    async def refuse(self, work: Work, refused: Refused) -> bool:
        """Settle a turn that is not let in.

        The refusal is stored first, beside the session's record, which somebody may be working on: a repeat that is
        let in later would otherwise be answered a second time.

        Returns:
            Whether it is settled. Not so where the turn has begun, has ended or waits in the backlog, nor where it was
            put back from the dead letters: it was refused before, so that it would get no other letter.
        """
        if work.replay:
            return False
        settlement = dead(work, refused, consumer=self._options.name)
        backlog = self._worker.backlog
        if backlog is not None:
            outcome = TurnOutcome(work.turn_id, time.time(), settlement.replies, "dead")
            stored = await self._until_there(
                backlog.refuse, work.session_id, outcome, retention=self._options.retention
            )
            if stored is None:
                return False
            if stored.replies != settlement.replies:
                settlement = refused_before(work, stored, consumer=self._options.name)
        await self._settle(work, replace(settlement, saved=True))
        return True

    async def _settle(self, work: Work, settlement: Settlement) -> None:
        work.stage = "is being settled, and waits for the broker or the store"
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
            case State.DEFERRED | State.RELEASED:
                pass
        if settlement.state is not State.RELEASED:
            work.ack()
        self._observer.turn_settled(
            state=settlement.state.value,
            session_id=work.session_id if work.turn else "",
            turn_id=work.turn_id,
            seconds=time.monotonic() - work.arrived,
            letter=settlement.letter,
            by=settlement.by,
        )

    async def _reply(self, work: Work, settlement: Settlement) -> None:
        if settlement.releases:
            await self._release(work)
        if self._log is not None and work.turn is not None and work.turn.stream:
            await self._reply_and_log(self._log, work, settlement)
            return
        for body in settlement.replies:
            await self._publisher.reply(work.delivery, body)

    async def _reply_and_log(self, log: LogWriter, work: Work, settlement: Settlement) -> None:
        line = log.line(work.session_id, work.turn_id)
        for body in settlement.replies:
            line.write(LogEntry(StreamOffset.end(replay=work.replay), body))
            await self._publisher.reply(work.delivery, body)
        # The reply is out. A turn that is acknowledged is not repeated, and nobody else would write it into the log.
        await line.written(timeout=LOG_S)

    async def _bury(self, work: Work, settlement: Settlement) -> None:
        assert settlement.letter is not None
        message = work.delivery.message
        letter = replace(message, headers={**kept(message.headers), **settlement.letter.headers()})
        await self._publisher.publish(self._publisher.topology.dead, work.delivery.routing_key, letter)

    async def _forward(self, work: Work) -> None:
        message = work.delivery.message
        headers = {**kept(message.headers), HOPS_HEADER: hops(message.headers) + 1}

        def queue() -> str:
            topology = self._publisher.topology  # the number of partitions may change while this is tried again
            return topology.queue_of(work.session_id)

        # Not by the turns exchange, whose alternate would send it round in circles while that queue is missing. So
        # it is refused and tried again until the queue is back, and nothing of this session passes it meanwhile.
        await self._publisher.publish("", queue, replace(message, headers=headers))

    async def _release(self, work: Work) -> None:
        """List a session that is parked no more among those whose backlog is to be worked on."""
        if self._worker.backlog is not None:
            await self._until_there(self._worker.backlog.enlist, work.session_id)

    async def _remember(self, work: Work, settlement: Settlement) -> Settlement:
        """Keep the outcome with the session, so that a repeat gets the same reply and does not run."""
        if work.turn is None or settlement.saved:
            return settlement
        try:
            return await self._until_there(self._try_to_remember, work, settlement)
        except (RecordError, AgentFailed):
            # A record that cannot be read, or an agent that cannot be built, cannot take it either; the dead letter
            # has the reason, and a repeat fails in the same way.
            return settlement

    async def _try_to_remember(self, work: Work, settlement: Settlement) -> Settlement:
        assert work.turn is not None
        with agents_code():
            async with self._worker.acquire(work.session_id, turn_id=work.turn_id) as handle:
                past = handle.recall(work.turn_id)
                if past is not None and work.is_repeat(past):
                    return replace(settlement, replies=past.replies or ())
                outcome = _outcome(work, settlement)
                handle.remember(outcome, self._options.retention)
                parks = outcome.state == "dead" and self._worker.backlog is not None
                if parks and self._options.on_dead.of(work.turn.channel) is OnDead.PARK:
                    handle.park(work.turn_id)
                # Stopped when it was replayed, it is dead no more, and nobody has a letter to replay.
                releases = handle.parked_by == work.turn_id and outcome.state != "dead"
                if releases:
                    handle.unpark()
        return replace(settlement, releases=releases)

    async def _until_there(self, call: Callable[..., Awaitable[Answer]], *args: Any, **named: Any) -> Answer:
        """Ask the store, or work on the session, until it can be done."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((StoreUnavailable, VersionConflict, LockLost, RecordSealed)),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            before_sleep=self._tell,
        )
        return await retrying(call, *args, **named)

    def _tell(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, (StoreUnavailable, RecordSealed)):
            self._observer.backend_away(backend="store", error=str(error))


def _outcome(work: Work, settlement: Settlement) -> TurnOutcome:
    """How a turn ended without its agent. A dead one ends at the time that its letter gives: so a replay names it."""
    died_at = settlement.letter.died_at if settlement.letter else None
    at = died_at.timestamp() if died_at else time.time()
    state: TurnState = "dead" if settlement.state is State.DEAD else "superseded"
    return TurnOutcome(work.turn_id, at, settlement.replies, state, settlement.by, work.replay)
