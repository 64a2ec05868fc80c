"""Agents, stores and locks for the tests of the session worker.

The agents behave as those that occur in the field: superdialog's, LangChain's, and what people write themselves.
Each answers ``<n>: <text>``, where n counts the user messages in its conversation, this one included: an answer shows
by itself whether the agent knew of the turns before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

from sdqueue.agents import ChatContext, ChatMessage, FlowState, StreamChunk, TurnResult
from sdqueue.sessions import (
    AsyncioLockBackend,
    Held,
    InMemorySessionStore,
    Retention,
    SessionRecord,
    SessionStore,
    SessionWorker,
    TurnBacklog,
    TurnOutcome,
)


class ModelDown(Exception):
    """What a stub raises in the middle of a turn whose text starts with ``fail``."""


async def maybe_fail(text: str) -> None:
    """In the middle of a turn: raise, or hang until cancelled, where the text says so."""
    if text.startswith("fail"):
        raise ModelDown(text)
    if text.startswith("hang"):
        await asyncio.Event().wait()


class Plain:
    """Keeps one list, as ``LLMAgent`` does: the user's message is in it before the model is asked."""

    def __init__(self) -> None:
        self.chat = ChatContext()

    @property
    def chat_ctx(self) -> ChatContext:
        return self.chat

    def load_chat_ctx(self, ctx: Any) -> None:
        self.chat = ctx

    def assist(self, text: str) -> None:
        self.chat.append(ChatMessage("system", text))

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        self.chat.append(ChatMessage("user", text))
        answer = f"{sum(m.role == 'user' for m in self.chat.items)}: {text}"
        if stream:
            return self._stream(text, answer)
        await maybe_fail(text)
        self.chat.append(ChatMessage("assistant", answer))
        return TurnResult(answer)

    async def _stream(self, text: str, answer: str) -> AsyncIterator[StreamChunk]:
        head, _, rest = answer.partition(" ")
        yield StreamChunk(f"{head} ")
        await maybe_fail(text)
        yield StreamChunk(rest, done=True)
        self.chat.append(ChatMessage("assistant", answer))


class NoAssist:
    """As ``LangChainAgent``: ignores ``stream``. It cannot take notes, and its results are dicts."""

    def __init__(self) -> None:
        self._inner = Plain()

    @property
    def chat_ctx(self) -> ChatContext:
        return self._inner.chat

    def load_chat_ctx(self, ctx: Any) -> None:
        self._inner.chat = ctx

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        return {"text": (await self._inner.turn(text)).text}


class Lazy:
    """As ``DialogMachine``: built at its first turn, reporting an empty state before; notes wait for the next turn.

    Its node is ``n<turns>``, its slots hold the texts, and the count of both is not in the conversation.
    """

    def __init__(self) -> None:
        self.machine: Plain | None = None
        self.flow = FlowState("n0")
        self._chat: Any = None
        self._flow: Any = None
        self._waiting: list[str] = []

    @property
    def chat_ctx(self) -> ChatContext:
        if self.machine is None:
            return ChatContext([ChatMessage("system", text) for text in self._waiting])
        return ChatContext(list(self.machine.chat.items))

    def load_chat_ctx(self, ctx: Any) -> None:
        self._chat = ctx
        if self.machine is not None:
            self.machine.chat = ctx

    @property
    def flow_state(self) -> FlowState:
        return self.flow

    def load_flow_state(self, state: Any) -> None:
        self._flow = state
        if self.machine is not None:
            self.flow = state

    def assist(self, text: str) -> None:
        self._waiting.append(text)

    def reset(self) -> None:
        self.machine = None
        self.flow = FlowState("n0")
        self._waiting.clear()

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        return self._stream(text) if stream else await self._run(text)

    async def _run(self, text: str) -> TurnResult:
        if self.machine is None:
            self.machine = Plain()
            self.machine.chat = self._chat or ChatContext()
            self.flow = self._flow or self.flow
        for note in self._waiting:
            self.machine.chat.append(ChatMessage("system", note))
        self._waiting.clear()
        self.flow.visit_count["turns"] = self.flow.visit_count.get("turns", 0) + 1
        self.flow.current_node_id = f"n{self.flow.visit_count['turns']}"
        self.flow.userdata.setdefault("texts", []).append(text)
        result: TurnResult = await self.machine.turn(text)
        return result

    async def _stream(self, text: str) -> AsyncIterator[StreamChunk]:
        turn = await self._run(text)
        head, _, rest = turn.text.partition(" ")
        yield StreamChunk(f"{head} ")
        yield StreamChunk(rest, done=True, turn=turn)


class Durable(Plain):
    """Has state of its own besides the conversation."""

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, Any] = {"texts": []}

    def dump_state(self) -> Any:
        return self.state

    def load_state(self, state: Any) -> None:
        self.state = state

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        self.state["texts"].append(text)
        return await super().turn(text, stream=stream)


class Late(Plain):
    """Adds both messages to its conversation when everything was said."""

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        pieces = self._say(text)
        if stream:
            return pieces
        return "".join([chunk.text async for chunk in pieces])

    async def _say(self, text: str) -> AsyncIterator[StreamChunk]:
        answer = f"{sum(m.role == 'user' for m in self.chat.items) + 1}: {text}"
        head, _, rest = answer.partition(" ")
        yield StreamChunk(f"{head} ")
        await maybe_fail(text)
        yield StreamChunk(rest, done=True)
        self.chat.append(ChatMessage("user", text))
        self.chat.append(ChatMessage("assistant", answer))


KINDS = (Plain, NoAssist, Lazy, Durable, Late)


class Breaking:
    """Counts the points at which a session's work may be interrupted, and interrupts it at one of them.

    Parameters:
        at: which one, from 1; 0 for none.
        how: is called there; default: the running task is cancelled.
    """

    def __init__(self, at: int = 0, how: Callable[[], Any] | None = None) -> None:
        self.at = at
        self.passed = 0
        self.hit = ""
        self._how = how

    async def point(self, name: str) -> None:
        self.passed += 1
        if self.passed == self.at:
            self.hit = name
            if self._how is not None:
                self._how()
            else:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
        await asyncio.sleep(0)


BREAKING = {"load", "save", "delete", "begin", "rewind"} | {
    name for name in vars(TurnBacklog) if not name.startswith("_")
}


class BreakingStore:
    """A store that suspends before and after everything it does."""

    def __init__(self, inner: Any, breaking: Breaking) -> None:
        self.inner = inner
        self.breaking = breaking

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            await self.breaking.point(f"before {name}")
            result = await getattr(self.inner, name)(*args, **options)
            await self.breaking.point(f"after {name}")
            return result

        if name not in BREAKING:
            raise AttributeError(name)
        return call


class BreakingLocks:
    """A lock backend that suspends at both ends of its block, and lets go whatever happens."""

    def __init__(self, breaking: Breaking) -> None:
        self.inner = AsyncioLockBackend()
        self.breaking = breaking

    def acquire(self, key: str) -> Any:
        return _BreakingLock(self, key)


class _BreakingLock:
    def __init__(self, locks: BreakingLocks, key: str) -> None:
        self.locks, self.key = locks, key

    async def __aenter__(self) -> Held:
        await self.locks.breaking.point("before lock")
        held = await self.locks.inner.take(self.key)
        try:
            await self.locks.breaking.point("after lock")
        except BaseException:
            self.locks.inner.release(self.key)
            raise
        return held

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.locks.breaking.point("before release")
        finally:
            self.locks.inner.release(self.key)
        await self.locks.breaking.point("after release")


class LookingStore(InMemorySessionStore):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.saves: list[str] = []

    async def save(self, session_id: str, record: SessionRecord) -> None:
        await super().save(session_id, record)
        self.saves.append(session_id)


class FailingStore(InMemorySessionStore):
    """Raises ``fault`` instead of saving, while it is set."""

    fault: Exception | None = None

    async def save(self, session_id: str, record: SessionRecord) -> None:
        if self.fault is not None:
            raise self.fault
        await super().save(session_id, record)


async def said(store: SessionStore, session_id: str = "s") -> list[tuple[str, str]] | None:
    """What the store has of a conversation."""
    record = await store.load(session_id)
    return None if record is None else [(m.role, m.content) for m in record.chat_ctx.items]


def dialog(*texts: str) -> list[tuple[str, str]]:
    """The conversation after turns with these texts, from the first on."""
    lines = []
    for n, text in enumerate(texts, 1):
        lines += [("user", text), ("assistant", f"{n}: {text}")]
    return lines


async def take(worker: SessionWorker, *texts: str, session_id: str = "s") -> None:
    """Take one turn after another, each in a block of its own."""
    for text in texts:
        async with worker.acquire(session_id) as handle:
            await handle.turn(text)


async def take_named(worker: SessionWorker, text: str, *, stream: bool = False) -> None:
    """Take the turn with the id ``t`` and remember its outcome, as a consumer does."""
    async with worker.acquire("s", turn_id="t") as handle:
        if stream:
            async for _ in await handle.turn(text, stream=True):
                pass
        else:
            await handle.turn(text)
        handle.remember(TurnOutcome("t", 0.0, ("reply",)), Retention())
