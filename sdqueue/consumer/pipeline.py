"""The path of a turn: from a delivery that was read to the settlement that is due to it."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from functools import partial
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from sdqueue.agents import TurnResult
from sdqueue.consumer.answer import STOP_WITHIN_S, AgentRunner, agents_code, ask
from sdqueue.consumer.collecting import collect
from sdqueue.consumer.deltas import DeltaForm, DeltaSender
from sdqueue.consumer.failure import AgentFailed, Stopped, describe
from sdqueue.consumer.headers import hops
from sdqueue.consumer.isolation import Isolation
from sdqueue.consumer.options import ConsumerOptions
from sdqueue.consumer.replies import Addressee, ReplyPublisher, make_reply
from sdqueue.consumer.settlement import Settlement, State, dead, refused_before, superseded
from sdqueue.consumer.work import Work
from sdqueue.errors import (
    InvalidTurn,
    LockLost,
    RecordSealed,
    RecordTooNew,
    SessionError,
    StoreUnavailable,
    VersionConflict,
)
from sdqueue.messages import InboundTurn
from sdqueue.observe import Observer
from sdqueue.sessions import SessionHandle, SessionInit, SessionWorker, TurnOutcome, TurnState
from sdqueue.streaming import LogWriter

MAX_HOPS = 5
"""More forwardings than this mean that consumers disagree about the number of partitions."""

PASSING = (StoreUnavailable, VersionConflict, LockLost, RecordTooNew, RecordSealed)
"""The session cannot be had or kept just now: no fault of the turn, and no failed attempt.

A record of a newer release is met in the middle of an upgrade, and one that is sealed with another key in the middle of
a change of keys, or where a consumer was given the wrong ones: the turn waits for a consumer that can read it."""


class TurnPipeline:
    """Takes turns through their agents.

    ::

        partition check → acquire (lock + load) → seen before? the replies of then
          → others first? to the backlog : take along what waits, where the channel wants that → run the agent → save

    Attempts that fail passingly are repeated in place, each from the saved state.

    Parameters:
        worker: serves the sessions.
        publisher: sends deltas.
        options: how to work.
        observer: told of what happens.
        log: keeps deltas for those who read on later; ``None``: nobody does.
    """

    def __init__(
        self,
        worker: SessionWorker,
        publisher: ReplyPublisher,
        options: ConsumerOptions,
        observer: Observer,
        log: LogWriter | None = None,
    ) -> None:
        self._worker = worker
        self._publisher = publisher
        self._options = options
        self._observer = observer
        self._log = log
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
            return dead(work, work.invalid, consumer=self._options.name)
        topology = self._publisher.topology
        if work.delivery.queue != topology.queue_of(turn.session_id):
            return self._elsewhere(work)
        while True:
            try:
                return await self._until_decided(work, turn)
            except PASSING:
                return Settlement(State.RELEASED)
            except Stopped as stopped:
                return self._stopped(work, stopped)
            except (AgentFailed, SessionError) as error:
                if not work.taken:
                    cause = error.cause if isinstance(error, AgentFailed) else error
                    return dead(work, cause, consumer=self._options.name)
                # None is condemned for what another one said: each is tried by itself.
                work.disband(alone=True)
                work.attempts = work.failures = 0

    async def aclose(self) -> None:
        """Let go of what outlives a turn: the child processes for suspects."""
        await self._isolation.aclose()

    async def _until_decided(self, work: Work, turn: InboundTurn) -> Settlement:
        """Attempt the turn until it ends in one way or the other."""
        work.seconds_left = min(turn.deadline_s or self._options.turn_timeout_s, self._options.turn_timeout_s)
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
            wait=partial(self._wait, work),
            before_sleep=partial(self._before_another, work),
            sleep=work.pause,
            reraise=True,
        )
        return await retrying(attempt)

    async def _attempt(self, work: Work, turn: InboundTurn) -> Settlement:
        seconds_left = work.seconds_left
        work.disband()
        work.stage = "waits for its session, which somebody has locked, or for the store"
        try:
            with agents_code():
                init = self._init_of(turn)
                async with self._worker.acquire(turn.session_id, init=init, turn_id=turn.id) as handle:
                    early = await self._early_end(work, handle)
                    if early is not None:
                        handle.withdraw()  # a save would leave this beginning for one that had no end
                        return early
                    work.forget_spent(partial(_is_spent, handle))
                    work.check_stopped()
                    if handle.begun <= self._options.isolate_after:
                        await collect(work, handle, self._worker.backlog, self._options)
                    bodies = await self._perform(work, handle)
                    await self._shorten(work, handle)
                    releases = handle.parked_by == work.turn_id
                    if releases:
                        handle.unpark()
        except AgentFailed:
            work.failures += 1
            raise
        except SessionError:
            work.seconds_left = seconds_left  # an attempt that could not be saved is none
            raise
        return self._completed(work, bodies, releases=releases)

    async def _early_end(self, work: Work, handle: SessionHandle) -> Settlement | None:
        """The fate of a turn that is not to run, or not now."""
        past = handle.recall(work.turn_id)
        if past is not None and work.is_repeat(past):
            # Whoever answered a replay may have died before it had let the turns go that waited for it.
            return Settlement(State.DUPLICATE, past.replies or (), releases=work.replay > 0)
        if handle.refusal is not None and not work.replay:
            return refused_before(work, handle.refusal, consumer=self._options.name)
        if self._worker.backlog is None:
            return None  # there is nowhere to wait
        if handle.parked_by is not None and not (work.replay and handle.parked_by == work.turn_id):
            return Settlement(State.DEFERRED, parked=True)
        if handle.parked_by is None and handle.waiting and work.is_delivery:
            # It belongs behind the backlog, unless it is what stands first there: it ran when the backlog began.
            first = await self._worker.backlog.deferred(work.session_id, count=1)
            if first and first[0].turn_id != work.key:
                return Settlement(State.DEFERRED)
        return None

    async def _perform(self, work: Work, handle: SessionHandle) -> list[str]:
        """Do what the turn asks for, make the final replies of all that it has taken along, and remember them."""
        bodies = []
        answering = work.answering
        result: TurnResult | None = None
        assert work.turn is not None
        match work.turn.kind:
            case "message":
                result = await self._answer(work, handle)
            case "assist":
                handle.assist(work.turn.text)
            case "reset":
                handle.reset(init=self._init_of(work.turn))
            case "cancel":
                pass  # its effect was on the turn that ran when it arrived
        for each in (work, *work.taken):
            assert each.turn is not None
            handle.seq += 1
            to, part = Addressee.of(each.turn), str(each.replay)
            more: dict[str, Any] = {"consumer": self._options.name}
            state: TurnState = "completed" if each is answering else "superseded"
            by, text, said = None, "", None
            if each is not answering:
                by = more["superseded_by"] = answering.turn_id
            elif result is None:
                more["turn_kind"] = each.turn.kind
            else:
                text, said = result.text, result
            bodies.append(make_reply(to, "final", text, seq=handle.seq, part=part, result=said, **more))
            outcome = TurnOutcome(each.turn_id, time.time(), (bodies[-1],), state, by, each.replay)
            handle.remember(outcome, self._options.retention)
        return bodies

    def _init_of(self, turn: InboundTurn) -> SessionInit | None:
        """What a session is created with that begins with this turn."""
        if not self._worker.takes_init:
            return None
        return SessionInit(turn.session_id, turn.metadata, turn.channel)

    async def _shorten(self, work: Work, handle: SessionHandle) -> None:
        """Bring the history within its limits. The answer is there, and is not lost where that fails."""
        if not await handle.overflows():
            return
        work.stage = "has its history shortened"
        seconds = max(work.seconds_left, 0.0)
        problem: BaseException | None
        try:
            # By itself it gives up in time; the longer one is for what swallows that.
            shortening = handle.shorten(timeout=seconds)
            problem = await self._runner.run(work, shortening, timeout=seconds + STOP_WITHIN_S)
        except AgentFailed:
            handle.cut()
            problem = TimeoutError(
                f"the history was not shortened in {seconds:.1f} s, and what shortens it ignores its cancellation"
            )
        work.stage = "is being saved"
        if problem is not None:
            self._observer.history_unshortened(
                session_id=work.session_id, turn_id=work.turn_id, error=describe(problem)
            )

    def _completed(self, work: Work, bodies: list[str], *, releases: bool) -> Settlement:
        if not work.taken:
            return Settlement(State.COMPLETED, (bodies[0],), releases=releases)
        by = work.answering.turn_id
        fates = [Settlement(State.SUPERSEDED, (body,), by=by, saved=True) for body in bodies[:-1]]
        fates.append(Settlement(State.COMPLETED, (bodies[-1],)))
        return replace(fates[0], releases=releases, rest=tuple(zip(work.taken, fates[1:], strict=True)))

    async def _answer(self, work: Work, handle: SessionHandle) -> TurnResult:
        turn = work.answering.turn
        assert turn is not None
        await self._count_start(work, handle)
        work.stage = "is being answered by its agent"
        started = time.monotonic()
        deltas = self._deltas(work, turn, handle.seq + 1 + len(work.taken)) if turn.stream else None
        try:
            if handle.begun > self._options.isolate_after:
                result = await self._answer_alone(work, handle, deltas)
            else:
                answer = ask(handle, work, deltas.push if deltas else None)
                result = await self._runner.run(work, answer, timeout=work.seconds_left)
            if deltas is not None:
                await deltas.finish()
        except BaseException:
            if deltas is not None:
                deltas.abort()
            raise
        finally:
            work.seconds_left -= time.monotonic() - started
            work.stage = "is being saved"
        return result

    async def _count_start(self, work: Work, handle: SessionHandle) -> None:
        """Number this start of the agent. No earlier one of the turn that it answers has this number, or a greater."""
        work.attempts += 1
        answering, number = work.answering, handle.attempt
        if answering is not work:  # whose beginning the session was taken up with
            number = await self._worker.count_start(work.session_id, answering.turn_id)
        answering.attempt = max(answering.attempt + 1, number)

    async def _answer_alone(self, work: Work, handle: SessionHandle, deltas: DeltaSender | None) -> TurnResult:
        self._observer.turn_suspected(session_id=work.session_id, turn_id=work.turn_id, begun=handle.begun)

        async def again() -> None:
            number = await self._worker.count_start(work.session_id, work.turn_id)
            work.attempt = max(work.attempt + 1, number)
            if deltas is not None:
                deltas.restart(work.attempt)

        answer = self._isolation.run(
            handle, work, timeout=work.seconds_left, again=again, on_said=deltas.push if deltas else None
        )
        result = await self._runner.run(work, answer, timeout=None)
        await self._worker.close_session(work.session_id)
        return result

    def _deltas(self, work: Work, turn: InboundTurn, seq: int) -> DeltaSender:
        answering = work.answering
        form = DeltaForm(Addressee.of(turn), seq, answering.replay, self._options.name)
        line = self._log.line(turn.session_id, answering.turn_id) if self._log is not None else None
        return DeltaSender(form, answering.attempt, partial(self._publisher.delta, answering.delivery), line)

    def _is_worth_another(self, work: Work, error: BaseException) -> bool:
        if isinstance(error, PASSING):
            return not (self.stopping and work.attempts == 0)
        if not isinstance(error, AgentFailed) or work.failures >= self._options.retry.max_attempts:
            return False
        return work.seconds_left > 0 and self._options.retry.transient(error.cause)

    def _wait(self, work: Work, state: RetryCallState) -> float:
        failed = state.outcome.exception() if state.outcome else None
        if not isinstance(failed, AgentFailed):
            return float(self._session_wait(state))
        # What the store has failed at meanwhile must not lengthen the wait for the agent.
        agents = copy.copy(state)
        agents.attempt_number = work.failures
        return float(self._agent_wait(agents))

    def _before_another(self, work: Work, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        delay = state.next_action.sleep if state.next_action else 0.0
        if isinstance(error, (StoreUnavailable, RecordTooNew, RecordSealed)):
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
        forwarded = hops(work.delivery.message.headers)
        if forwarded >= MAX_HOPS:
            detail = (
                f"was forwarded {forwarded} times between partitions: consumers disagree about SDQUEUE_PARTITIONS; "
                "give all of them the same number and replay this turn"
            )
            return dead(work, InvalidTurn("partitions-disagree", detail), consumer=self._options.name)
        return Settlement(State.FORWARDED)

    def _stopped(self, work: Work, stopped: Stopped) -> Settlement:
        """The fate of a turn that was stopped, with all that it had taken along."""
        fates = [superseded(each, stopped, consumer=self._options.name) for each in (work, *work.taken)]
        return replace(fates[0], rest=tuple(zip(work.taken, fates[1:], strict=True)))


def _is_spent(handle: SessionHandle, stopped: Stopped) -> bool:
    """Whether the turn that asks for a stop has had its effect: by its end, or, where it stops only one, by that one's.

    A cancel turn may be delivered again when what it stopped is settled and it is not; a newer message stops all that
    is before it, also that whose fate a crash left open.
    """
    if handle.recall(stopped.by) is not None:
        return True
    return stopped.reason == "cancelled" and any(past.by == stopped.by for past in handle.ring.outcomes.values())
