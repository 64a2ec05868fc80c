"""SessionHandle: a session with its agent, for the length of an ``acquire`` block."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from sdqueue.agents import ChatContext, ChatMessage, durable, keeps_conversation, load_conversation
from sdqueue.errors import RecordTooNew, SessionClosed
from sdqueue.sessions.conversation import added, join, mark, own, unwritten
from sdqueue.sessions.limits import HistoryLimits, Weights
from sdqueue.sessions.pairs import are_whole, beginning_of, mended
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.session import Session, SessionInit
from sdqueue.sessions.streams import TurnStream, check_cancelled, times_cancelled

_LOG: Final = logging.getLogger("sdqueue.sessions")


class SessionHandle:
    """What ``SessionWorker.acquire`` yields.

    The session is what will be saved. The agent's state is taken over into it before the next turn and when the block
    ends, and only where the agent has answered: one that has not may not have built its state yet (a resumed
    ``DialogMachine`` reports an empty one until its first turn). So a turn that fails leaves the session as it was,
    even where the caller catches the error and goes on.

    Parameters:
        session: the session.
        agent: its agent, in the session's state; ``None``: it is built.
        record: what the session was made from; default: a new one.
        build: makes an agent without state. Without it a handle can neither reset nor replace a failed agent.
    """

    def __init__(
        self,
        session: Session,
        agent: Any = None,
        *,
        record: SessionRecord | None = None,
        build: Callable[[], Any] | None = None,
    ) -> None:
        self.record = SessionRecord(metadata=session.metadata) if record is None else record
        """The session as it was taken up."""
        self.ring = self.record.turns.copy()
        """How the session's past turns ended."""
        self.seq = self.record.seq
        """How many final replies the session has had; whoever makes one counts it here."""
        self.begun = 0
        """How often the turn that ``acquire`` was told of was begun without an end, this time included."""
        self.attempt = 0
        """The number of this start of the agent on that turn, greater than that of every earlier one in any process; 0
        where ``acquire`` was told of no turn. Where the store cannot count starts, a number may come again."""
        self.started = False
        """Whether the agent was started. Whoever lets one answer elsewhere sets it."""
        self.waiting = 0
        """How many turns waited in the session's backlog, this one included where it did."""
        self.refusal: TurnOutcome | None = None
        """How the turn that ``acquire`` was told of was refused, where it was."""
        self.choose_anew: Callable[[SessionInit | None], None] | None = None
        """Chooses again which agent answers, where there are several; set by whoever made the handle."""
        self.limits = HistoryLimits()
        """What the conversation is kept within; set by whoever made the handle."""
        self.known_weights: Weights | None = None
        """What the record's conversation weighs by the limits, where that is known."""
        self.weights: Weights | None = None
        """What the conversation weighs that is to be saved, where that is known."""
        self._shortened = False
        self._parked_by = self.record.parked_by
        self._session = session
        self._build = build
        self._agent_state = self.record.agent_state
        self._stream: TurnStream | None = None
        self._open = True
        self._withdrawn = False
        self._turned = False
        self._notes: list[str] = []  # taken by the agent, but not to be seen in its conversation before it answers
        self._blank = self._changed = not self.record.stored.version
        self._shared = agent is not None  # the agent may go on to change the very objects that the session has
        self._agent: Any = None
        self._mark: Any = None
        self._keeps_own = False  # whether the conversation is but what the agent shows of a state of its own
        self._start(agent)

    @property
    def session(self) -> Session:
        """The session."""
        return self._session

    @property
    def agent(self) -> Any:
        """The agent that answers for this session; another one after :meth:`reset` or a failed turn.

        Raises:
            RecordError: what is stored of it cannot be loaded into it.
        """
        if self._agent is None:
            self._use(self._built())
        return self._agent

    @property
    def kept_agent(self) -> Any:
        """The agent, if it is in the session's state now; ``None`` where it failed."""
        return self._agent

    @property
    def state(self) -> dict[str, Any]:
        """The session as a dict of ``id``, ``chat_ctx`` and ``flow_state``."""
        session = self._session
        return {"id": session.id, "chat_ctx": session.chat_ctx, "flow_state": session.flow_state}

    async def turn(self, text: str, *, stream: bool = False, **extra: Any) -> Any:
        """Let the agent answer.

        Parameters:
            text: what was said.
            stream: return an async iterator of :class:`~sdqueue.StreamChunk`, to be consumed inside the block. What
                was said before the caller stops listening is kept in the conversation.
            extra: passed on to the agent's ``turn``, for those that take more.

        Returns:
            What the agent returned; with ``stream`` always an iterator, whatever the agent can do.

        Raises:
            SessionClosed: the block has ended.
        """
        self._check_open()
        await self._end_stream()
        agent = self.agent
        self._take_over()
        if self._shared:
            # This turn may fail, and must not have spoilt what the ones before have left.
            self._session.flow_state = copy.deepcopy(self._session.flow_state)
            self._agent_state = copy.deepcopy(self._agent_state)
            self._shared = False
        self._turned = self.started = True
        self._notes.clear()
        cancelled = times_cancelled()
        try:
            result = await agent.turn(text, stream=stream, **extra)
            check_cancelled(cancelled)
        except BaseException:
            self._give_up(agent)
            raise
        if not stream:
            return result
        self._stream = TurnStream(result, agent, text)
        return self._stream

    def assist(self, text: str) -> None:
        """Give the agent a system instruction that takes effect on its next turn; an empty one is ignored.

        While a stream is being read, it is given when that has ended, so that it stands behind the answer.

        Raises:
            SessionClosed: the block has ended.
        """
        self._check_open()
        if not text:
            return
        if self._stream is not None and not self._stream.whole:
            self._stream.notes.append(text)
            return
        agent = self.agent
        self._turned = self._moved
        self._blank, self._changed = False, True
        self._session.assist(text)
        if hasattr(agent, "assist"):
            before = mark(agent)
            agent.assist(text)
            if mark(agent) == before:
                self._notes.append(text)
        elif self._turned:
            context = agent.chat_ctx.copy()
            context.items.append(ChatMessage("system", text))
            agent.load_chat_ctx(context)
        else:
            agent.load_chat_ctx(self._session.chat_ctx.copy())
        self._mark = mark(agent)

    def reset(self, *, init: SessionInit | None = None) -> None:
        """Forget the conversation and the agent's state; metadata and the outcomes of past turns stay.

        Where there are several agents, the one for the session is chosen anew.

        Parameters:
            init: by what it is chosen, together with the session's metadata.

        Raises:
            SessionClosed: the block has ended, or the handle was made without ``build``.
        """
        self._check_open()
        if self._build is None:
            raise SessionClosed("this handle belongs to no SessionWorker and cannot build a new agent")
        if self.choose_anew is not None:
            self.choose_anew(init)
        self._session.chat_ctx = ChatContext()
        self._session.flow_state = None
        self._agent_state = None
        self._blank = self._changed = True
        self._turned = False
        self._notes.clear()
        if self._stream is not None:
            self._stream.notes.clear()
        self._use(self._built())

    def recall(self, turn_id: str) -> TurnOutcome | None:
        """How an earlier turn with this id ended, ``None`` where none did."""
        return self.ring.get(turn_id)

    def remember(self, outcome: TurnOutcome, retention: Retention) -> None:
        """Keep how a turn ended; saved together with the state, in one step.

        Raises:
            SessionClosed: the block has ended.
        """
        self._check_open()
        self.ring.add(outcome, retention)
        self._changed = True

    @property
    def parked_by(self) -> str | None:
        """The id of the dead turn that later turns of the session wait for; ``None`` where it is not parked."""
        return self._parked_by

    def park(self, turn_id: str) -> None:
        """Let later turns wait for this dead one; saved together with the state.

        Raises:
            SessionClosed: the block has ended.
        """
        self._check_open()
        self._parked_by, self._changed = turn_id, True

    def unpark(self) -> None:
        """Let the session's turns run again; saved together with the state.

        Raises:
            SessionClosed: the block has ended.
        """
        self._check_open()
        self._parked_by, self._changed = None, True

    def adopt(self, agent: Any) -> None:
        """Go on with another agent, which has answered a turn of this session elsewhere.

        Raises:
            SessionClosed: the block has ended.
        """
        self._check_open()
        self._agent, self._mark = agent, None
        self._turned = True

    def withdraw(self) -> None:
        """End the block as if it had not begun: where the session is new, it is not created."""
        if not self.record.stored.version:
            self._withdrawn, self._agent = True, None

    async def finish(self) -> SessionRecord | None:
        """End the block well. For whoever made the handle.

        Returns:
            The record to be saved; ``None`` where nothing has changed.
        """
        try:
            await self._end_stream()
            self._take_over()
            if self._withdrawn:
                return None
            if not self._shortened and await self.overflows():
                problem = await self.shorten()
                if problem is not None:
                    _LOG.warning("session %r: its history stays as it is: %r", self._session.id, problem)
            return self._next_record()
        finally:
            self._open = False

    async def overflows(self) -> bool:
        """Whether the conversation has outgrown its limits, so that it is to be shortened before it is saved.

        Never that of an agent that keeps it in a state of its own, see :func:`~sdqueue.agents.keeps_conversation`.
        """
        if not self.limits.any:
            return False
        await self._end_stream()
        self._take_over()
        if not self._changed or self._keeps_own:
            return False
        try:
            self.weights = self._weigh(*self._joined())
        except Exception:  # noqa: BLE001 -- shortening it fails in the same way, and that is reported
            return True
        return self.limits.are_exceeded(self.weights)

    async def shorten(self, *, timeout: float | None = None) -> BaseException | None:
        """Bring the conversation within its limits; done when the block ends, where it was not done before.

        Parameters:
            timeout: seconds that it may take; ``None``: what the policies allow themselves.

        Returns:
            Why the conversation stays as it is, or was only cut, where that is so.
        """
        self._shortened = True
        items, _ = self._joined()
        shortened, problem = await self.limits.shorten(items, timeout=timeout)
        if self._open and shortened != items:
            self._replace(shortened)
        return problem

    def cut(self) -> None:
        """Drop the oldest part of a conversation of far more than its limits; at once, and without help."""
        self._shortened = True
        items, _ = self._joined()
        if (kept := self.limits.cut(items)) != items:
            self._replace(kept)

    async def abandon(self, error: BaseException) -> None:
        """End the block because of this error, keeping nothing; the error stays the one to be raised."""
        self._open = False
        if self._stream is None:
            return
        try:
            await self._stream.break_off()
        except Exception as second:  # noqa: BLE001 - told with the error that came first, which is the cause
            error.add_note(f"breaking off the agent's stream failed too: {type(second).__name__}: {second}")

    def _start(self, agent: Any) -> None:
        try:
            self._use(self._built() if agent is None else agent)
        except RecordTooNew:
            raise
        except Exception:
            if self._blank:
                raise
            # Said to whoever needs the agent, for whom it is built again. A reset does not, and must be possible
            # whatever an agent of today makes of a state of then; nor does a turn that was answered before.

    def _use(self, agent: Any) -> None:
        self._keeps_own = keeps_conversation(agent)
        self._agent = agent
        self._mark = mark(agent)

    def _built(self) -> Any:
        """A new agent in the session's state."""
        assert self._build is not None
        agent, session = self._build(), self._session
        if self._blank:
            session.chat_ctx = ChatContext([own(message) for message in agent.chat_ctx.items])
            return agent
        if not keeps_conversation(agent) and not are_whole(session.chat_ctx.items):
            # An older release saved calls that were broken off.
            session.chat_ctx = ChatContext(mended(session.chat_ctx.items))
        keeper: Any = durable(agent)
        if self._agent_state is not None and keeper is not None:
            keeper.load_state(copy.deepcopy(self._agent_state))
        load_conversation(agent, session.chat_ctx.copy())
        machine = keeper if hasattr(keeper, "load_flow_state") else agent
        if session.flow_state is not None and hasattr(machine, "load_flow_state"):
            machine.load_flow_state(copy.deepcopy(session.flow_state))
        return agent

    @property
    def _moved(self) -> bool:
        """Whether the agent went on since it was last looked at, be it through this handle or called directly."""
        return self._turned or (self._agent is not None and mark(self._agent) != self._mark)

    def _take_over(self) -> None:
        """Bring the session to where the agent is."""
        if not self._moved:
            return
        agent, session = self._agent, self._session
        keeper: Any = durable(agent)
        # All of it or nothing: a state that cannot be saved leaves the session as it was.
        agent_state = self._agent_state if keeper is None else keeper.dump_state()
        session.flow_state = _flow_state(keeper if hasattr(type(keeper), "flow_state") else agent)
        notes = [ChatMessage("system", note) for note in self._notes]
        session.chat_ctx = ChatContext([*agent.chat_ctx.items, *notes])
        self._agent_state = agent_state
        self._notes.clear()
        self._turned, self._blank = False, False
        self._changed = self._shared = True
        self._mark = mark(agent)

    def _give_up(self, agent: Any) -> None:
        """Undo what this agent has done since the session was last whole: the session is, the agent is not."""
        if agent is self._agent:
            self._turned = False
            if self._build is not None:
                self._agent = None

    async def _end_stream(self) -> None:
        stream = self._stream
        if stream is None:
            return
        try:
            await stream.finish()
        finally:
            if stream.failed:
                self._give_up(stream.agent)
        self._stream = None
        if not stream.whole and not stream.failed and stream.agent is self._agent:
            self._keep_heard(stream)
        for note in stream.notes:
            self.assist(note)

    def _keep_heard(self, stream: TurnStream) -> None:
        """Complete the conversation of an agent whose listener went away."""
        agent, session, said = stream.agent, self._session, "".join(stream.said)
        if not said and mark(agent) == self._mark:
            # It had not begun, or not so far that it shows, so its own conversation says nothing yet.
            self._give_up(agent)
            session.chat_ctx.append(ChatMessage("user", stream.text))
            self._blank, self._changed = False, True
            return
        context = agent.chat_ctx.copy()
        missing = unwritten(added(context.items, session.chat_ctx.items), stream.text, said)
        if missing:
            context.items.extend(missing)
            load_conversation(agent, context)
        # Also for the turn that may follow in this block: the model would refuse what was broken off.
        if not self._keeps_own and not are_whole(whole := [own(message) for message in context.items]):
            agent.load_chat_ctx(ChatContext(mended(whole)))

    def _joined(self) -> tuple[list[ChatMessage], int]:
        """The conversation in whole pairs, and how many of its first messages are the record's."""
        items, same = join(self.record.chat_ctx.items, self._session.chat_ctx.items)
        # What was saved is whole, so only what is new is looked at.
        start = beginning_of(items, same)
        if not are_whole(items, start) and not self._keeps_own:
            saved = items[start:same]
            items[start:] = mended(items[start:])
            _, kept = join(saved, items[start : start + len(saved)])
            same = start + kept
            self._replace(items)
        return items, same

    def _replace(self, items: list[ChatMessage]) -> None:
        """Give the session another conversation than its agent has; who answers next is what a new process would be."""
        self._session.chat_ctx = ChatContext(list(items))
        self._changed = True
        self._notes.clear()
        if self._build is not None:
            self._agent = None
        elif self._agent is not None:
            self._agent.load_chat_ctx(ChatContext(list(items)))
            self._mark = mark(self._agent)

    def _weigh(self, items: list[ChatMessage], same: int) -> Weights:
        if self.known_weights is not None and same == len(self.record.chat_ctx.items):
            return self.limits.weigh(items[same:], self.known_weights)
        return self.limits.weigh(items)

    def _next_record(self) -> SessionRecord | None:
        record, session = self.record, self._session
        old = record.chat_ctx.items
        items, same = self._joined()
        # Compared by what they look like: for Python 1 == True == 1.0, in JSON they differ.
        if not self._changed and same == len(items) == len(old) and repr(session.metadata) == repr(record.metadata):
            return None
        return replace(
            record,
            chat_ctx=ChatContext(items),
            flow_state=session.flow_state,
            agent_state=self._agent_state,
            route=session.route,
            metadata=session.metadata,
            last_turn_at=time.time(),
            turns=self.ring,
            seq=self.seq,
            parked_by=self._parked_by,
            stored=replace(record.stored, items=min(same, record.stored.items)),
        )

    def _check_open(self) -> None:
        if not self._open:
            raise SessionClosed(
                f"session {self._session.id!r} was released with its acquire block; use the handle inside the block"
            )


def _flow_state(holder: Any) -> Any:
    # What a property raises is to be heard of, an AttributeError too: taken for none, it would erase the state.
    return holder.flow_state if hasattr(type(holder), "flow_state") else getattr(holder, "flow_state", None)
