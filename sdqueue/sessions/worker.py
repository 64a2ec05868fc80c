"""SessionWorker: many sessions, one agent each, locked, loaded and saved around every piece of work."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from sdqueue.agents import ChatContext, ChatMessage
from sdqueue.sessions.lease import SessionLease, leasing_for
from sdqueue.sessions.locks.asyncio import AsyncioLockBackend
from sdqueue.sessions.locks.lock import LockBackend
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.session import Session, SessionHandle, SessionInit
from sdqueue.sessions.stores.memory import InMemorySessionStore
from sdqueue.sessions.stores.store import SessionStore


@dataclass
class _Idle:
    """An agent between two uses, and the record that its state was saved as."""

    agent: Any
    record: SessionRecord


class SessionWorker:
    """Serves many sessions in one process; the one object that handlers share.

    ::

        worker = SessionWorker(agent_factory=make_agent, store=RedisSessionStore(url=...),
                               lock_backend=RedisLockBackend(url=...))
        async with worker.acquire("user-42") as h:
            result = await h.turn("Hello")

    Parameters:
        agent_factory: builds an agent; called for each session that is taken up.
        agent_factory_ctx: instead, a factory that takes the :class:`~sdqueue.SessionInit` of the session.
        store: where sessions live; default: this process's memory.
        lock_backend: what serialises work on a session; default: within this process.
        max_sessions: so many agents are kept between uses, the least recently used is dropped first. Dropping one
            writes nothing: everything is saved when a block ends.

    Raises:
        ValueError: not exactly one of the two factories is given.
    """

    def __init__(
        self,
        *,
        agent_factory: Callable[[], Any] | None = None,
        agent_factory_ctx: Callable[[SessionInit], Any] | None = None,
        store: SessionStore | None = None,
        lock_backend: LockBackend | None = None,
        max_sessions: int = 1000,
    ) -> None:
        if (agent_factory is None) == (agent_factory_ctx is None):
            raise ValueError("give exactly one of agent_factory and agent_factory_ctx")
        self._agent_factory = agent_factory
        self._agent_factory_ctx = agent_factory_ctx
        self._store: SessionStore = InMemorySessionStore() if store is None else store
        self._lock_backend: LockBackend = AsyncioLockBackend() if lock_backend is None else lock_backend
        self._leasing = leasing_for(self._store, self._lock_backend)
        self._max_sessions = max_sessions
        self._cache: OrderedDict[str, _Idle] = OrderedDict()
        self._in_use: dict[str, bool] = {}
        """Sessions that are being worked on, and whether their agents may be kept afterwards."""

    @property
    def cache_size(self) -> int:
        """How many agents are kept between uses."""
        return len(self._cache)

    @asynccontextmanager
    async def acquire(
        self, session_id: str, *, init: SessionInit | None = None, turn_id: str | None = None
    ) -> AsyncIterator[SessionHandle]:
        """Work on a session alone.

        A clean end of the block saves what has changed and releases the session. On an exception or a cancellation
        nothing is saved and the agent, whatever state it is in, is dropped; the record stays as it was.

        Parameters:
            session_id: names the session; a new one is created.
            init: what a new session is created with.
            turn_id: count a beginning of this turn in the store, found as ``handle.begun``; the count ends with the
                turn's outcome.

        Raises:
            LockLost: the lock could not be kept.
            VersionConflict: another process saved the session meanwhile; nothing was changed.
            StoreUnavailable: the store or the lock service cannot be reached.
            RecordError: what is stored cannot be read, or the new state cannot be written as JSON.
        """
        idle = self._cache.get(session_id)
        known = idle.record.version if idle else 0
        async with self._leasing.lease(session_id, known_version=known, turn_id=turn_id) as lease:
            current = self._cache.pop(session_id, None)
            self._in_use[session_id] = True
            try:
                record, agent = await self._take_up(session_id, lease, idle if idle is current else None, init)
                handle = self._handle(session_id, record, agent)
                handle.begun = lease.begun
                metadata = copy.deepcopy(handle.session.metadata)
                done = False
                try:
                    yield handle
                    done = True
                finally:
                    await handle.close(keep=done)
                saved = _next_record(record, handle, metadata)
                if saved is not None:
                    await lease.save(saved)
                if self._in_use[session_id]:
                    self._keep(session_id, _Idle(handle.agent, saved or record))
            finally:
                del self._in_use[session_id]

    async def close_session(self, session_id: str, *, persist: bool = True) -> None:
        """Drop the session's agent from memory; what is stored stays. Safe to call inside ``acquire``.

        Parameters:
            session_id: names the session; nothing happens where it is not in memory.
            persist: accepted for superdialog's sake. Everything is saved when a block ends, so there is nothing left
                to write or to throw away.
        """
        self._cache.pop(session_id, None)
        if session_id in self._in_use:
            self._in_use[session_id] = False

    async def _take_up(
        self, session_id: str, lease: SessionLease, idle: _Idle | None, init: SessionInit | None
    ) -> tuple[SessionRecord, Any]:
        """The session's record and an agent in exactly that state."""
        if lease.unchanged and idle is not None:
            return idle.record, idle.agent
        record = await self._store.load(session_id) if lease.unchanged else lease.record
        if record is None:
            init = SessionInit(session_id) if init is None else init
            return SessionRecord(metadata=dict(init.metadata)), self._build(init)
        agent = self._build(SessionInit(session_id, copy.deepcopy(record.metadata)))
        if record.agent_state is not None and hasattr(agent, "load_state"):
            agent.load_state(copy.deepcopy(record.agent_state))
        agent.load_chat_ctx(record.chat_ctx.copy())
        if record.flow_state is not None and hasattr(agent, "load_flow_state"):
            agent.load_flow_state(copy.deepcopy(record.flow_state))
        return record, agent

    def _build(self, init: SessionInit) -> Any:
        if self._agent_factory_ctx is not None:
            return self._agent_factory_ctx(init)
        assert self._agent_factory is not None
        return self._agent_factory()

    def _handle(self, session_id: str, record: SessionRecord, agent: Any) -> SessionHandle:
        session = Session(session_id, record.chat_ctx.copy(), record.flow_state, record.metadata)
        handle = SessionHandle(
            session,
            agent,
            rebuild=lambda: self._build(SessionInit(session_id, copy.deepcopy(session.metadata))),
            turns=record.turns.copy(),
            seq=record.seq,
        )
        handle.record = record
        return handle

    def _keep(self, session_id: str, idle: _Idle) -> None:
        self._cache[session_id] = idle
        while len(self._cache) > self._max_sessions:
            self._cache.popitem(last=False)


def _next_record(record: SessionRecord, handle: SessionHandle, metadata: dict[str, Any]) -> SessionRecord | None:
    """The record after the block, ``None`` where nothing has changed."""
    session, agent = handle.session, handle.agent
    if handle.moved:
        items, kept = _join(record.chat_ctx.items, agent.chat_ctx.items, record.stored.items)
        items.extend(ChatMessage("system", note) for note in handle.notes)
        flow_state = getattr(agent, "flow_state", None)
        kept_state = None if handle.was_reset else record.agent_state
        agent_state = agent.dump_state() if hasattr(agent, "dump_state") else kept_state
    else:
        # An agent that has not answered may not have built its state yet (a resumed DialogMachine reports an empty
        # one), so the session's own, which holds what was loaded and the notes since, is the truth.
        items, kept = _join(record.chat_ctx.items, session.chat_ctx.items, record.stored.items)
        flow_state = session.flow_state
        agent_state = None if handle.was_reset else record.agent_state
        changed = len(items) != len(record.chat_ctx.items) or kept != record.stored.items
        if not (changed or handle.ring.fresh or handle.was_reset or session.metadata != metadata):
            return None
    return replace(
        record,
        chat_ctx=ChatContext(items),
        flow_state=flow_state,
        agent_state=agent_state,
        metadata=session.metadata,
        last_turn_at=time.time(),
        turns=handle.ring,
        seq=handle.seq,
        stored=Stored(record.stored.version, kept),
    )


def _join(old: list[ChatMessage], new: list[Any], stored: int) -> tuple[list[ChatMessage], int]:
    """The new conversation as our own frozen messages, and how many of its first ones the store has already."""
    size = min(len(old), len(new))
    # Both sides hold the same frozen objects in the common case, and lists compare identity first.
    if new[:size] == old[:size]:
        same = size
    else:
        same = next((i for i in range(size) if (old[i].role, old[i].content) != (new[i].role, new[i].content)), size)
    return old[:same] + [_own(m) for m in new[same:]], min(same, stored)


def _own(message: Any) -> ChatMessage:
    return message if type(message) is ChatMessage else ChatMessage(message.role, message.content)
