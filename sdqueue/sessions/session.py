"""Session and SessionHandle: a conversation while somebody works on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sdqueue.agents import ChatContext, ChatMessage, FlowState
from sdqueue.errors import SessionClosed
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.ring import Retention, TurnOutcome, TurnRing
from sdqueue.sessions.streams import TurnStream


@dataclass(frozen=True)
class SessionInit:
    """What a session is created with; a resumed one gets what it was created with.

    Parameters:
        session_id: names the session.
        metadata: JSON values, kept in the record.
    """

    session_id: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class Session:
    """The durable part of a conversation, as it stood when it was taken up."""

    id: str
    chat_ctx: ChatContext = field(default_factory=ChatContext)
    flow_state: FlowState | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def assist(self, text: str) -> None:
        """Add a system message to the conversation; an empty one is ignored."""
        if text:
            self.chat_ctx.append(ChatMessage("system", text))


class SessionHandle:
    """What ``SessionWorker.acquire`` yields: a session with its agent, for the length of the block.

    Parameters:
        session: the session.
        agent: its agent, holding the session's state.
        rebuild: makes an agent without state, for :meth:`reset`.
        turns: the outcomes of past turns.
        seq: how many final replies the session has had.
    """

    def __init__(
        self,
        session: Session,
        agent: Any,
        *,
        rebuild: Callable[[], Any] | None = None,
        turns: TurnRing | None = None,
        seq: int = 0,
    ) -> None:
        self._session = session
        self._agent = agent
        self._rebuild = rebuild
        self.ring = TurnRing() if turns is None else turns
        self._stream: TurnStream | None = None
        self._open = True
        self.seq = seq
        self.record: SessionRecord | None = None
        self.begun = 0
        self.turned = False
        self.was_reset = False
        self.notes: list[str] = []
        """Notes given since the last turn that the agent keeps to itself until the next one."""
        self._mark = _mark(agent)

    @property
    def session(self) -> Session:
        """The session."""
        return self._session

    @property
    def agent(self) -> Any:
        """The agent that answers for this session."""
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
        self.turned = True
        self.notes.clear()
        heard = len(self._agent.chat_ctx.items) if stream else 0
        result = await self._agent.turn(text, stream=stream, **extra)
        if not stream:
            return result
        self._stream = TurnStream(result, self._agent, text, heard)
        return self._stream

    def assist(self, text: str) -> None:
        """Give the agent a system instruction that takes effect on its next turn; an empty one is ignored.

        Raises:
            SessionClosed: the block has ended.
        """
        self._check_open()
        if not text:
            return
        self._session.assist(text)
        if hasattr(self._agent, "assist"):
            before = len(self._agent.chat_ctx.items)
            self._agent.assist(text)
            items = self._agent.chat_ctx.items
            if len(items) == before or items[-1].content != text:
                self.notes.append(text)
        else:
            context = self._agent.chat_ctx.copy()
            context.items.append(ChatMessage("system", text))
            self._agent.load_chat_ctx(context)
        self._mark = _mark(self._agent)

    def reset(self) -> None:
        """Forget the conversation and the agent's state; metadata and the outcomes of past turns stay.

        Raises:
            SessionClosed: the block has ended.
        """
        self._check_open()
        if self._rebuild is None:
            raise SessionClosed("this handle belongs to no SessionWorker and cannot build a new agent")
        self._agent = self._rebuild()
        self._session.chat_ctx = ChatContext()
        self._session.flow_state = None
        self.turned, self.was_reset = False, True
        self.notes.clear()
        self._mark = _mark(self._agent)

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

    @property
    def superseded_by(self) -> frozenset[str]:
        """The ids of turns that have stopped another one already."""
        return frozenset(o.by for o in self.ring.outcomes.values() if o.by is not None)

    @property
    def moved(self) -> bool:
        """Whether the agent answered, be it through this handle or called directly."""
        return self.turned or _mark(self._agent) != self._mark

    def adopt(self, agent: Any) -> None:
        """Go on with another agent, which has answered a turn of this session elsewhere."""
        self._check_open()
        self._agent = agent
        self.turned = True

    async def close(self, *, keep: bool) -> None:
        """End the block: finish a stream (``keep``) or break it off. For whoever made the handle."""
        try:
            if keep:
                await self._end_stream()
            elif self._stream is not None:
                await self._stream.abort()
        finally:
            self._open = False
            if self._stream is not None:
                self._stream.closed = True

    async def _end_stream(self) -> None:
        if self._stream is not None:
            await self._stream.finish()
            self._stream = None

    def _check_open(self) -> None:
        if not self._open:
            raise SessionClosed(
                f"session {self._session.id!r} was released with its acquire block; use the handle inside the block"
            )


def _mark(agent: Any) -> tuple[int, Any]:
    """Where an agent's conversation stands: comparing this is enough to see whether it went on."""
    items = agent.chat_ctx.items
    return len(items), (items[-1].content if items else None)
