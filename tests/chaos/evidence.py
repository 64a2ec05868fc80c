"""Evidence: what is known when a scenario has ended. Values only; nothing here knows how they came about.

Times are seconds of the machine's monotonic clock, which all processes of a run share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["turn", "anonymous", "malformed"]


@dataclass(frozen=True)
class Sent:
    """A message that the broker has confirmed.

    Parameters:
        mark: names it in its text, metadata and message id, and is the turn's id where it has one.
        session: whose turn it is; empty for what is no turn.
        kind: an identified turn, one without an id, or something that is no turn.
        confirmed_at: when its first confirm came.
        think_s: how long the agent takes for it.
        deadly: whether its agent kills its process every time, so that it must end as a dead letter.
        repeated_at: when it was sent once more, so that the broker had it again some time after that.
    """

    mark: str
    session: str
    kind: Kind
    confirmed_at: float
    think_s: float = 0.0
    deadly: bool = False
    repeated_at: float | None = None


@dataclass(frozen=True)
class Reply:
    """A reply as it came out.

    Parameters:
        mark: that of the turn, from its metadata.
        run: which run of the agent a final reply tells of.
        body: the message, byte for byte.
    """

    id: str
    mark: str
    session: str
    seq: int
    kind: str
    run: str
    at: float
    body: bytes


@dataclass(frozen=True)
class Letter:
    """A dead letter; ``mark`` is the message's own id."""

    mark: str
    reason: str
    at: float


@dataclass(frozen=True)
class Run:
    """One run of an agent on a turn, from the journals.

    Parameters:
        id: names it; it is the agent's answer, so it shows which run was saved and which was told.
        ended_at: ``None`` where the agent never came to its end.
        heard: how many turns the conversation had that the agent was given.
        seen: the last of them, by mark.
    """

    id: str
    mark: str
    session: str
    began_at: float
    ended_at: float | None
    heard: int
    seen: tuple[str, ...]


@dataclass(frozen=True)
class Effect:
    """One turn in a session's stored conversation: what was said, and which run answered."""

    mark: str
    run: str


@dataclass(frozen=True)
class Evidence:
    """Everything that the checker may look at.

    Parameters:
        sent: confirmed messages; those of a session in the order of their confirms.
        conversations: the stored conversations, by session.
        left_over: messages still in the queues of turns after the last consumer has ended in order.
        emptied_at: the last time when somebody emptied the store, if so: what was saved before is not promised to be
            there, nor what was answered before to be known.
    """

    sent: tuple[Sent, ...]
    replies: tuple[Reply, ...]
    letters: tuple[Letter, ...]
    runs: tuple[Run, ...]
    conversations: dict[str, tuple[Effect, ...]] = field(default_factory=dict)
    left_over: int = 0
    emptied_at: float | None = None
