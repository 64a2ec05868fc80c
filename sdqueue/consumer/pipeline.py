"""The path of a turn: from a delivery that was read to the settlement that is due to it."""

from __future__ import annotations

import time
import uuid
from functools import partial
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from sdqueue.agents import TurnResult
from sdqueue.consumer.answer import AgentRunner, agents_code, ask
from sdqueue.consumer.failure import AgentFailed, Stopped, describe, reason_of, said_of, trace_of
from sdqueue.consumer.isolation import Isolation
from sdqueue.consumer.options import ConsumerOptions
from sdqueue.consumer.replies import Addressee, DeltaSender, ReplyPublisher, make_reply
from sdqueue.consumer.settlement import HOPS_HEADER, Settlement, State
from sdqueue.consumer.work import Work
from sdqueue.errors import InvalidTurn, LockLost, RecordTooNew, SessionError, StoreUnavailable, VersionConflict
from sdqueue.messages import DeadTurn, InboundTurn, partition_of, salvage
from sdqueue.observe import Observer
from sdqueue.sessions import SessionHandle, SessionWorker, TurnOutcome

MAX_HOPS = 5
"""More forwardings than this mean that consumers disagree about the number of partitions."""

PASSING = (StoreUnavailable, VersionConflict, LockLost, RecordTooNew)
"""The session cannot be had or kept just now: no fault of the turn, and no failed attempt.

A record of a newer release is met in the middle of an upgrade: the turn waits for a consumer that can read it."""


class TurnPipeline:
    """Takes turns through their agents.

    ::

        partition check → acquire (lock + load) → seen before? the replies of then : run the agent → save

    Attempts that fail passingly are repeated in place, each from the saved state.

    Parameters:
        worker: serves the sessions.
        publisher: sends deltas.
        options: how to work.
        observer: told of what happens.
    """

    def __init__(
        self, worker: SessionWorker, publisher: ReplyPublisher, options: ConsumerOptions, observer: Observer
    ) -> None:
        self._worker = worker
        self._publisher = publisher
        self._options = options
        self._observer = observer
        self._runner = AgentRunner(lambda w: observer.agent_stuck(session_id=w.session_id, turn_id=w.turn_id))
        self._isolation = Isolation(options.agent)
        self._agent_wait = options.retry.wait()
        self._session_wait = wait_random_exponential(multiplier=0.1, max=2)
        self.stopping = False
        """Set when the consumer stops: a turn that has not begun, for want of the store, is left to another one."""

    async def run(self, work: Work) -> Settlement:
        """Decide the fate of a delivery; whatever that means for the session's state is saved then.

        Raises:
            asyncio.CancelledError: the consumer stops. Nothing of the turn is saved, and it is to be released.
        """
        turn = work.turn
        if turn is None:
            assert work.invalid is not None
            return self._dead(work, work.invalid)
        topology = self._publisher.topology
        if work.delivery.queue != topology.partition_queue(partition_of(turn.session_id, topology.partitions)):
            return self._elsewhere(work)
        work.seconds_left = min(turn.deadline_s or self._options.turn_timeout_s, self._options.turn_timeout_s)
        try:
            return await self._until_decided(work, turn)
        except PASSING:
            return Settlement(State.RELEASED)
        except Stopped as stopped:
            return self._superseded(work, turn, stopped)
        except AgentFailed as failed:
            return self._dead(work, failed.cause)
        except SessionError as error:
            return self._dead(work, error)

    async def aclose(self) -> None:
        """Let go of what outlives a turn: the child processes for suspects."""
        await self._isolation.aclose()

    async def _until_decided(self, work: Work, turn: InboundTurn) -> Settlement:
        """Attempt the turn until it ends in one way or the other."""
        try:
            return await self._attempt(work, turn)
        except (AgentFailed, SessionError) as error:
            failures = [error]

        async def attempt() -> Settlement:
            # The retrying begins after the first failure: nearly all turns end without, and need none of it.
            if failures:
                raise failures.pop()
            return await self._attempt(work, turn)

        retrying = AsyncRetrying(
            retry=retry_if_exception(partial(self._is_worth_another, work)),
            wait=self._wait,
            before_sleep=partial(self._before_another, work),
            sleep=work.pause,
            reraise=True,
        )
        return await retrying(attempt)

    async def _attempt(self, work: Work, turn: InboundTurn) -> Settlement:
        seconds_left = work.seconds_left
        try:
            with agents_code():
                async with self._worker.acquire(turn.session_id, turn_id=turn.id) as handle:
                    past = handle.recall(work.turn_id)
                    if past is not None:
                        return Settlement(State.DUPLICATE, past.replies or ())
                    work.forget_spent(lambda by: handle.recall(by) is not None)
                    work.check_stopped()
                    body = await self._perform(work, turn, handle)
                    handle.remember(TurnOutcome(work.turn_id, time.time(), (body,)), self._options.retention)
        except AgentFailed:
            work.failures += 1
            raise
        except SessionError:
            work.seconds_left = seconds_left  # an attempt that could not be saved is none
            raise
        return Settlement(State.COMPLETED, (body,))

    async def _perform(self, work: Work, turn: InboundTurn, handle: SessionHandle) -> str:
        """Do what the turn asks for and make its final reply."""
        result: TurnResult | None = None
        more: dict[str, Any] = {"consumer": self._options.name}
        match turn.kind:
            case "message":
                result = await self._answer(work, turn, handle)
            case "assist":
                handle.assist(turn.text)
            case "reset":
                handle.reset()
            case "cancel":
                pass  # its effect was on the turn that ran when it arrived
        if result is None:
            more["turn_kind"] = turn.kind
        handle.seq += 1
        text = result.text if result else ""
        return make_reply(Addressee.of(turn), "final", text, seq=handle.seq, result=result, **more)

    async def _answer(self, work: Work, turn: InboundTurn, handle: SessionHandle) -> TurnResult:
        work.attempts += 1
        started = time.monotonic()
        try:
            if handle.begun > self._options.isolate_after:
                return await self._answer_alone(work, handle)
            if turn.stream:
                return await self._answer_in_pieces(work, turn, handle)
            return await self._runner.run(work, ask(handle, work, None), timeout=work.seconds_left)
        finally:
            work.seconds_left -= time.monotonic() - started

    async def _answer_alone(self, work: Work, handle: SessionHandle) -> TurnResult:
        self._observer.turn_suspected(session_id=work.session_id, turn_id=work.turn_id, begun=handle.begun)
        answer = self._isolation.run(handle, work, timeout=work.seconds_left)
        result = await self._runner.run(work, answer, timeout=None)
        await self._worker.close_session(work.session_id)
        return result

    async def _answer_in_pieces(self, work: Work, turn: InboundTurn, handle: SessionHandle) -> TurnResult:
        deltas = self._deltas(work, turn, handle.seq + 1)
        try:
            result = await self._runner.run(work, ask(handle, work, deltas.push), timeout=work.seconds_left)
            await deltas.finish()
        except BaseException:
            await deltas.abort()
            raise
        return result

    def _deltas(self, work: Work, turn: InboundTurn, seq: int) -> DeltaSender:
        # Another attempt may say something else, so its deltas have ids of their own.
        attempt = uuid.uuid4().hex[:8]
        to = Addressee.of(turn)
        return DeltaSender(
            partial(self._publisher.reply, work.delivery),
            lambda index, text: make_reply(
                to,
                "delta",
                text,
                seq=seq,
                part=f"0.{attempt}.{index}",
                attempt=work.attempts,
                consumer=self._options.name,
            ),
        )

    def _is_worth_another(self, work: Work, error: BaseException) -> bool:
        if isinstance(error, PASSING):
            return not (self.stopping and work.attempts == 0)
        if not isinstance(error, AgentFailed) or work.failures >= self._options.retry.max_attempts:
            return False
        return work.seconds_left > 0 and self._options.retry.transient(error.cause)

    def _wait(self, state: RetryCallState) -> float:
        failed = state.outcome.exception() if state.outcome else None
        wait = self._agent_wait if isinstance(failed, AgentFailed) else self._session_wait
        return float(wait(state))

    def _before_another(self, work: Work, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        delay = state.next_action.sleep if state.next_action else 0.0
        if isinstance(error, (StoreUnavailable, RecordTooNew)):
            self._observer.backend_away(backend="store", error=str(error))
            return
        if isinstance(error, AgentFailed):
            if delay >= work.seconds_left:
                raise error
            work.seconds_left -= delay
            error = error.cause
        assert error is not None
        self._observer.turn_retried(
            session_id=work.session_id,
            turn_id=work.turn_id,
            attempt=work.attempts,
            delay_s=delay,
            error=describe(error),
        )

    def _elsewhere(self, work: Work) -> Settlement:
        hops = work.delivery.message.headers.get(HOPS_HEADER, 0)
        if isinstance(hops, int) and hops >= MAX_HOPS:
            detail = (
                f"was forwarded {hops} times between partitions: consumers disagree about SDQUEUE_PARTITIONS; "
                "give all of them the same number and replay this turn"
            )
            return self._dead(work, InvalidTurn("partitions-disagree", detail))
        return Settlement(State.FORWARDED)

    def _superseded(self, work: Work, turn: InboundTurn, stopped: Stopped) -> Settlement:
        body = make_reply(
            Addressee.of(turn),
            "error",
            said_of(stopped),
            reason=reason_of(stopped),
            superseded_by=stopped.by,
            consumer=self._options.name,
        )
        return Settlement(State.SUPERSEDED, (body,), by=stopped.by)

    def _dead(self, work: Work, error: BaseException) -> Settlement:
        to = Addressee.of(work.turn) if work.turn else _sender_of(work)
        letter = DeadTurn(
            reason=reason_of(error),
            error=describe(error),
            trace="" if isinstance(error, InvalidTurn) else trace_of(error),
            attempts=work.attempts,
            turn_id=to.turn_id,
            session_id=to.session_id,
            channel=to.channel,
            queue=work.delivery.queue,
            consumer=self._options.name,
        )
        if not to.session_id and not work.delivery.message.reply_to:
            return Settlement(State.DEAD, letter=letter)
        body = make_reply(to, "error", said_of(error), reason=letter.reason, consumer=self._options.name)
        return Settlement(State.DEAD, (body,), letter)


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
