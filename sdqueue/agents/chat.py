"""ChatContext: what was said so far, the part of a session that every agent shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class ChatMessage:
    """One line of a conversation.

    Frozen, so that a history of ten thousand messages is compared by identity instead of word by word.
    """

    role: Role
    content: str


@dataclass
class ChatContext:
    """The conversation so far, oldest message first."""

    items: list[ChatMessage] = field(default_factory=list)

    def append(self, message: ChatMessage) -> None:
        """Add a message at the end."""
        self.items.append(message)

    def copy(self) -> ChatContext:
        """An independent list of the same messages."""
        return ChatContext(list(self.items))
