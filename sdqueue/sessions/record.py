"""SessionRecord: a session as stores keep it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sdqueue.agents import ChatContext, ChatMessage, FlowState
from sdqueue.errors import RecordError
from sdqueue.sessions.ring import TurnRing


@dataclass(frozen=True)
class Stored:
    """What of a record the store is known to hold: how saves stay small, and what they are checked against.

    Versions alone do not name a state: a session that is deleted and created anew has a second life, which comes to
    the same versions again.

    Parameters:
        version: the version in the store that the record was made from; 0 for a new session.
        items: that many leading messages of ``chat_ctx`` are the store's, unchanged. 0 is always safe.
        born: names the life of the session, from its first save to its delete. Not ``created_at``: applications may
            set that, and a record that is stored anew keeps it.
        sealed_by: the key that the store's parts are sealed with, empty for none. A save with another one writes all
            of them anew.
    """

    version: int = 0
    items: int = 0
    born: str = ""
    sealed_by: str = field(default="", compare=False)

    @property
    def revision(self) -> str:
        """Version and life in one: names a state among all that the session ever has; ``0`` where nothing is stored."""
        return f"{self.version}:{self.born}" if self.version and self.born else str(self.version)

    def is_same(self, other: Stored) -> bool:
        """Whether both are the same stored state; nothing stored is none."""
        return self.version > 0 and self.revision == other.revision


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
        parked_by: the id of the dead turn that later turns of the session wait for, where it is parked.
        route: the name of the route that chose the session's agent, where there are routes.
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
    parked_by: str | None = None
    route: str | None = None
    stored: Stored = field(default=Stored(), compare=False, repr=False)

    def successor(self) -> SessionRecord:
        """What a store writes to save this record: its next version, in its life or at the start of one.

        It shares its values with this record, and its ``stored`` is what to give to :meth:`mark_stored` afterwards.
        """
        version = self.stored.version + 1
        born = self.stored.born if self.stored.version else secrets.token_hex(8)
        return replace(
            self, version=version, stored=Stored(version, len(self.chat_ctx.items), born, self.stored.sealed_by)
        )

    def mark_stored(self, stored: Stored, *, fresh: int | None = None) -> None:
        """Say that the store now holds this; called by stores after a load and after a save.

        Parameters:
            stored: what it holds. A record that grew while it was being saved has more messages than that.
            fresh: that many of ``turns.fresh`` were written; default: all.
        """
        self.version = stored.version
        self.stored = stored
        self.turns.known = True
        del self.turns.fresh[:fresh]


def as_record(foreign: Any, base: SessionRecord | None) -> SessionRecord:
    """A record of superdialog's own worker as one of ours, to be saved in place of ``base``.

    Such a record has no version to compare and knows none of ``turns``, ``agent_state``, ``seq``, ``parked_by`` and
    ``route``; these, ``created_at`` and the tool calls of messages stay what they are in the store.

    Parameters:
        foreign: has ``chat_ctx``, ``flow_state``, ``created_at``, ``last_turn_at`` and ``metadata``.
        base: what the store has now, as it was loaded; ``None`` where there is nothing.

    Raises:
        RecordError: it is nothing of that kind.
    """
    try:
        items = [m if type(m) is ChatMessage else ChatMessage(m.role, m.content) for m in foreign.chat_ctx.items]
        flow = foreign.flow_state
        if flow is not None:
            flow = FlowState(**{f.name: getattr(flow, f.name) for f in fields(FlowState)})
        created_at, last_turn_at, metadata = foreign.created_at, foreign.last_turn_at, foreign.metadata
    except AttributeError as error:
        raise RecordError(f"a {type(foreign).__name__} is no session record: {error}; save a SessionRecord") from error
    if base is None:
        base = SessionRecord(created_at=created_at)
    same = 0
    for ours, theirs in zip(base.chat_ctx.items[: base.stored.items], items, strict=False):
        if (ours.role, ours.content) != (theirs.role, theirs.content):
            break
        items[same] = ours  # with the tool calls, which superdialog's messages have no place for
        same += 1
    return replace(
        base,
        chat_ctx=ChatContext(items),
        flow_state=flow,
        last_turn_at=last_turn_at,
        metadata=metadata,
        stored=replace(base.stored, items=same),
    )
