"""ChatContext: what was said so far, the part of a session that every agent shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass
class ToolCall:
    """A tool that the agent asked for or ran during a turn."""

    id: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatMessage:
    """One line of a conversation.

    Frozen, so that a history of ten thousand messages is compared by identity instead of word by word.

    Parameters:
        role: who said it.
        content: what was said; for a ``tool``, its result.
        tool_calls: the tools that an ``assistant`` asked for with this message. Each is answered by a ``tool`` message
            before the next one of another role; models refuse a conversation in which that is not so.
        tool_call_id: which call a ``tool`` message answers.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass
class ChatContext:
    """The conversation so far, oldest message first."""

    items: list[ChatMessage] = field(default_factory=list)

    def append(self, msg: ChatMessage) -> None:
        """Add a message at the end."""
        self.items.append(msg)

    def copy(self) -> ChatContext:
        """An independent list of the same messages."""
        return ChatContext(list(self.items))
