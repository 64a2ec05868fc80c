"""SessionWorker: many sessions, one agent each, locked, loaded and saved around every piece of work."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sdqueue.agents import AgentRoutes, as_agent
from sdqueue.sessions.handle import SessionHandle
from sdqueue.sessions.history import HistoryPolicy
from sdqueue.sessions.lease import SessionLease, leasing_for
from sdqueue.sessions.limits import HistoryLimits, Weights
from sdqueue.sessions.locks.asyncio import AsyncioLockBackend
from sdqueue.sessions.locks.lock import LockBackend
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.session import Session, SessionInit
from sdqueue.sessions.stores.backlog import TurnBacklog
from sdqueue.sessions.stores.memory import InMemorySessionStore
from sdqueue.sessions.stores.null import NullSessionStore
from sdqueue.sessions.stores.offers import offers
from sdqueue.sessions.stores.store import SessionStore, StartCounter, beginnings


@dataclass
class _Idle:
    """An agent between two uses, the record that its state was saved as, and what its conversation weighs."""

    agent: Any
    record: SessionRecord
    weights: Weights | None = None


@dataclass(eq=False)
class _Use:
    """A session being worked on, whether its agent may be kept afterwards, and whether it is to be forgotten."""

    keep: bool = True
    forget: bool = False


class SessionWorker:
    """Serves many sessions in one process; the one object that handlers share.

    ::

        worker = SessionWorker(agent_factory=make_agent, store=RedisSessionStore(url=...),
                               lock_backend=RedisLockBackend(url=...))
        async with worker.acquire("user-42") as h:
            result = await h.turn("Hello")

    Parameters:
        agent_factory: builds an agent; called for each session that is taken up. Or :class:`~sdqueue.AgentRoutes`,
            which choose one for each session.
        agent_factory_ctx: instead, a factory that takes the :class:`~sdqueue.SessionInit` of the session, or routes.
        store: where sessions live; default: this process's memory.
        lock_backend: what serialises work on a session; default: within this process.
        max_sessions: so many agents are kept between uses, the least recently used is dropped first. Dropping one
            writes nothing: everything is saved when a block ends. With :class:`~sdqueue.NullSessionStore` none is.
        history: what keeps conversations within a limit, or several of them, applied one after the other. An agent
            that keeps its conversation in a state of its own is left alone, see :meth:`SessionHandle.overflows`.

    Raises:
        ValueError: not exactly one of the two factories is given, or ``max_sessions`` is negative.
    """

    def __init__(
        self,
        *,
        agent_factory: Callable[[], Any] | AgentRoutes | None = None,
        agent_factory_ctx: Callable[[SessionInit], Any] | AgentRoutes | None = None,
        store: SessionStore | None = None,
        lock_backend: LockBackend | None = None,
        max_sessions: int = 1000,
        history: HistoryPolicy | Sequence[HistoryPolicy] = (),
    ) -> None:
        if (agent_factory is None) == (agent_factory_ctx is None):
            raise ValueError("give exactly one of agent_factory and agent_factory_ctx")
        if max_sessions < 0:
            raise ValueError(f"max_sessions is {max_sessions}; give 0 to keep no agents, or more")
        factory = agent_factory if agent_factory_ctx is None else agent_factory_ctx
        self._routes = factory if isinstance(factory, AgentRoutes) else None
        self._factory: Callable[..., Any] = factory  # type: ignore[assignment]  # one of the two is given
        self.takes_init = agent_factory_ctx is not None or self._routes is not None
        """Whether it matters what a new session is created with."""
        self._limits = HistoryLimits(history if isinstance(history, Sequence) else [history])
        self._store: SessionStore = InMemorySessionStore() if store is None else store
        self._lock_backend: LockBackend = AsyncioLockBackend() if lock_backend is None else lock_backend
        # Asked once: to hold a store against a protocol costs more than much of a turn.
        self.backlog: TurnBacklog | None = self._store if offers(self._store, TurnBacklog) else None
        """The store as what keeps turns that wait; ``None`` where it cannot."""
        self._starts = self._store if offers(self._store, StartCounter) else None
        self._leasing = leasing_for(self._store, self._lock_backend)
        # An agent kept in memory would remember what this store is there to forget.
        self._max_sessions = 0 if isinstance(self._store, NullSessionStore) else max_sessions
        self._cache: OrderedDict[str, _Idle] = OrderedDict()
        self._in_use: dict[str, list[_Use]] = {}

    @property
    def cache_size(self) -> int:
        """How many agents are kept between uses."""
        return len(self._cache)

    @asynccontextmanager
    async def acquire(
        self, session_id: str, *, init: SessionInit | None = None, turn_id: str | None = None
    ) -> AsyncIterator[SessionHandle]:
        """Work on a session alone.

        A clean end of the block saves a new session, or what has changed in another, and releases it. On an exception
        or a cancellation nothing is saved and the agent, whatever state it is in, is dropped; the record stays as it
        was. A turn that fails and is caught inside the block leaves no trace either.

        Parameters:
            session_id: names the session; a new one is created.
            init: what a new session is created with.
            turn_id: count a beginning of this turn in the store, found as ``handle.begun``; the count ends with the
                turn's outcome. What else the store knows of it is ``handle.waiting`` and ``handle.refusal``.

        Raises:
            LockLost: the lock could not be kept.
            VersionConflict: another process saved the session meanwhile; nothing was changed.
            StoreUnavailable: the store or the lock service cannot be reached.
            RecordError: what is stored cannot be read, or the new state cannot be written as JSON.
        """
        idle = self._cache.get(session_id)
        known = idle.record.stored if idle else None
        async with self._leasing.lease(session_id, known=known, turn_id=turn_id) as lease:
            with self._using(session_id) as use:
                current = self._cache.pop(session_id, None)
                handle = await self._take_up(session_id, lease, idle, current, init)
                try:
                    yield handle
                except BaseException as error:
                    lease.started = handle.started
                    await handle.abandon(error)
                    raise
                lease.started = handle.started
                record = await handle.finish()
                if use.forget:
                    await self._store.delete(session_id)
                    return
                if record is None:
                    record = handle.record
                else:
                    await lease.save(record)
                    # The caller may go on to change what it was handed; the record that is kept must not.
                    handle.session.metadata = copy.deepcopy(record.metadata)
                if use.keep and handle.kept_agent is not None:
                    weights = handle.known_weights if record is handle.record else handle.weights
                    self._keep(session_id, _Idle(handle.kept_agent, record, weights))

    async def count_start(self, session_id: str, turn_id: str) -> int:
        """Count a start of the agent on a turn that :meth:`acquire` was not told of, or another one inside a block.

        Returns:
            Its number, as ``handle.attempt`` is one; 1 where the store cannot count starts.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        if self._starts is None:
            return 1
        _, attempt = beginnings(await self._starts.begin(session_id, turn_id))
        await self._starts.rewind_started(session_id, turn_id)
        return attempt

    async def close_session(self, session_id: str, *, persist: bool = True) -> None:
        """Drop the session's agent from memory. Safe to call inside ``acquire``.

        Parameters:
            session_id: names the session; nothing happens where it is not in memory.
            persist: with ``False`` the session is forgotten in the store too, so that nobody resumes what has come to
                its end, wherever it is in memory. A block of this worker that is open does it when it ends well.
                Otherwise nothing is left to be written: everything is saved when a block ends.

        Raises:
            LockLost, StoreUnavailable: the session could not be forgotten.
        """
        self._cache.pop(session_id, None)
        uses = self._in_use.get(session_id, ())
        for use in uses:
            use.keep = False
            use.forget = use.forget or not persist
        if not persist and not uses:
            async with self._lock_backend.acquire(session_id):
                self._cache.pop(session_id, None)
                await self._store.delete(session_id)

    async def _take_up(
        self,
        session_id: str,
        lease: SessionLease,
        known: _Idle | None,
        current: _Idle | None,
        init: SessionInit | None,
    ) -> SessionHandle:
        """The session as it is stored, with an agent in exactly that state.

        Parameters:
            known: what the lease was told that is known.
            current: what is known now; another task may have worked on the session while this one waited.
        """
        record = lease.record
        if record is None and lease.unchanged:
            record = current.record if current is not None and current is known else await self._store.load(session_id)
        agent = weights = None
        if record is None:
            record = SessionRecord(metadata=init.metadata if init else {})
        elif current is not None and current.record.stored.is_same(record.stored):
            record, agent, weights = current.record, current.agent, current.weights
        session = Session(
            session_id, record.chat_ctx.copy(), record.flow_state, copy.deepcopy(record.metadata), record.route
        )
        if self._routes is not None and session.route is None:
            self._choose(session, init)
            record = replace(record, route=session.route)  # a suspect is run from the record, by the same agent
        handle = SessionHandle(session, agent, record=record, build=partial(self._build, session))
        handle.begun, handle.attempt = lease.begun, lease.attempt
        handle.waiting, handle.refusal = lease.waiting, lease.refusal
        handle.limits, handle.known_weights = self._limits, weights
        if self._routes is not None:
            handle.choose_anew = partial(self._choose, session)
        return handle

    def _choose(self, session: Session, init: SessionInit | None) -> None:
        assert self._routes is not None
        channel = None if init is None else init.channel
        session.route = self._routes.choose(channel, session.metadata | ({} if init is None else init.metadata))

    def _build(self, session: Session) -> Any:
        if self._routes is not None:
            return as_agent(self._routes.build(session.route))
        if self.takes_init:
            return as_agent(self._factory(SessionInit(session.id, copy.deepcopy(session.metadata))))
        return as_agent(self._factory())

    def _keep(self, session_id: str, idle: _Idle) -> None:
        self._cache[session_id] = idle
        while len(self._cache) > self._max_sessions:
            self._cache.popitem(last=False)

    @contextmanager
    def _using(self, session_id: str) -> Iterator[_Use]:
        # Several uses overlap where a lock was lost, or was given back by the save itself.
        use = _Use()
        uses = self._in_use.setdefault(session_id, [])
        uses.append(use)
        try:
            yield use
        finally:
            uses.remove(use)
            if not uses:
                del self._in_use[session_id]
