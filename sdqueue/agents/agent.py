"""The Agent protocol: what a brain must offer to run behind the queue.

Agents are duck-typed and never checked by ``isinstance``: superdialog's, LangChain's and your own classes fit as
they are. One instance serves one session at a time and is built by an agent factory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from sdqueue.agents.chat import ChatContext, ToolCall
from sdqueue.errors import AgentResultError


@dataclass
class TurnResult:
    """The answer to a turn."""

    text: str
    tool_calls: list[ToolCall] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class StreamChunk:
    """A piece of a streamed answer; the last one is ``done`` and may carry the whole ``turn``."""

    text: str = ""
    done: bool = False
    turn: TurnResult | None = None


@dataclass(frozen=True)
class TurnContext:
    """What an agent may ask about the turn it is answering, see :func:`current_turn`.

    ``turn_id`` is the same for every attempt: pass it as the idempotency key to anything with outside effects.
    ``attempt`` counts the starts of an agent on this turn from 1, whichever process they were in: it is greater than
    all before it. Only a store that cannot count (``null://``) begins at 1 again in another process.
    ``metadata`` is the turn's own, as its producer sent it: the
    way for a hint of the moment, such as the language in which somebody spoke, to reach an agent that takes one.
    """

    turn_id: str
    session_id: str
    attempt: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


_current: ContextVar[TurnContext | None] = ContextVar("sdqueue_turn", default=None)


def current_turn() -> TurnContext | None:
    """The turn being answered by the calling task; ``None`` outside the consumer."""
    return _current.get()


def set_current_turn(context: TurnContext | None) -> None:
    """Say which turn the calling task answers; for those who run agents."""
    _current.set(context)


@runtime_checkable
class Agent(Protocol):
    """A brain with the state of one conversation.

    Optional besides: ``assist(text)`` takes a system instruction for the next turn; ``flow_state`` and
    ``load_flow_state(state)`` for dialog machines; ``dump_state() -> JSON`` and ``load_state(JSON)`` for whatever
    else must survive (see :class:`DurableAgent`); a false ``history_limited`` where the conversation is in there too,
    so that it is left to the agent to keep it short.
    """

    @property
    def chat_ctx(self) -> ChatContext:
        """The conversation so far."""
        ...

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        """Go on from this conversation."""
        ...

    async def turn(self, text: str, *, stream: bool = False) -> TurnResult | AsyncIterator[StreamChunk]:
        """Answer one message; with ``stream`` it may return an iterator of pieces."""
        ...


@runtime_checkable
class DurableAgent(Protocol):
    """An agent with state of its own beyond the conversation.

    A note of ``assist`` that waits for the next turn is no part of it: it is kept in the session's conversation, and
    comes back with ``load_chat_ctx``.
    """

    def dump_state(self) -> Any:
        """Everything needed to go on in another process, as JSON values."""
        ...

    def load_state(self, state: Any) -> None:
        """Go on from what :meth:`dump_state` returned."""
        ...


AgentFactory = Callable[[], Any]
"""Builds a fresh agent; called once for each session that a process takes up."""

TurnFunction = Callable[[str, list[Any]], Awaitable[str]]
"""The smallest agent: ``async def answer(text, history) -> str``."""


def as_turn_result(result: Any) -> TurnResult:
    """An agent's answer, whatever shape it has, as a :class:`TurnResult`.

    Accepted are a string, a dict with ``text``, and anything with a string attribute ``text`` (superdialog's
    results among them).

    Raises:
        AgentResultError: it is none of these.
    """
    if isinstance(result, str):
        return TurnResult(result)
    if isinstance(result, dict):
        text, calls, metadata = result.get("text"), result.get("tool_calls"), result.get("metadata")
    else:
        text, calls, metadata = (getattr(result, name, None) for name in ("text", "tool_calls", "metadata"))
    if not isinstance(text, str):
        raise AgentResultError(
            f"the agent returned {type(result).__name__} {str(result)[:80]!r}, which is no answer; "
            "return a TurnResult, a string or a dict with a string under 'text'"
        )
    try:
        return TurnResult(text, [_as_tool_call(call) for call in calls or ()], dict(metadata or {}))
    except (TypeError, ValueError) as error:
        raise AgentResultError(
            f"the agent's answer has tool_calls or metadata that cannot be read: {error}; tool_calls is a list, "
            "metadata and the arguments of a call are dicts"
        ) from error


def _as_tool_call(call: Any) -> ToolCall:
    get = call.get if isinstance(call, dict) else lambda name, default=None: getattr(call, name, default)
    return ToolCall(str(get("id", "")), str(get("name", "")), dict(get("arguments", None) or {}))
