"""Session: the durable part of a conversation while somebody works on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sdqueue.agents import ChatContext, ChatMessage, FlowState


@dataclass(frozen=True)
class SessionInit:
    """What a session is created with; a resumed one gets what it was created with.

    Parameters:
        session_id: names the session.
        metadata: JSON values, kept in the record.
        channel: of the turn that it is taken up by, where there is one. Not kept; what is chosen by it is.
    """

    session_id: str
    metadata: dict[str, Any] = field(default_factory=dict)
    channel: str | None = None


@dataclass
class Session:
    """The durable part of a conversation. What the agent adds to it is found here when the block has ended."""

    id: str
    chat_ctx: ChatContext = field(default_factory=ChatContext)
    flow_state: FlowState | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    route: str | None = None
    """Which of several agents it has, see :class:`~sdqueue.AgentRoutes`."""

    def assist(self, text: str) -> None:
        """Add a system message to the conversation; an empty one is ignored."""
        if text:
            self.chat_ctx.append(ChatMessage("system", text))
