"""SessionRecord: a session as stores keep it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from sdqueue.agents import ChatContext, FlowState
from sdqueue.sessions.ring import TurnRing


@dataclass(frozen=True)
class Stored:
    """What of a record the store is known to hold: how saves stay small, and what they are checked against.

    Parameters:
        version: the version in the store that the record was made from; 0 for a new session.
        items: that many leading messages of ``chat_ctx`` are the store's, unchanged. 0 is always safe.
    """

    version: int = 0
    items: int = 0


@dataclass
class SessionRecord:
    """Everything durable of one session: state, the outcomes of its turns and their replies, in one value.

    Parameters:
        chat_ctx: the conversation.
        flow_state: the position of a dialog machine, else ``None``.
        version: grows by one with every save, from 1.
        created_at, last_turn_at: seconds since 1970.
        metadata: the application's own JSON values.
        agent_state: what the agent's ``dump_state`` returned.
        turns: the outcomes of past turns, see :class:`~sdqueue.sessions.TurnRing`.
        seq: how many final replies the session has had.
        stored: what a save is checked against; kept by stores and copied by ``dataclasses.replace``.
    """

    chat_ctx: ChatContext = field(default_factory=ChatContext)
    flow_state: FlowState | None = None
    version: int = 1
    created_at: float = field(default_factory=time.time)
    last_turn_at: float = field(default_factory=time.time)
    metadata: dict[str, Any] = field(default_factory=dict)
    agent_state: Any = None
    turns: TurnRing = field(default_factory=TurnRing)
    seq: int = 0
    stored: Stored = field(default=Stored(), compare=False, repr=False)

    def mark_stored(self) -> None:
        """Say that the store now holds exactly this; called by stores after a load and after a save."""
        self.stored = Stored(self.version, len(self.chat_ctx.items))
        self.turns.fresh.clear()
