"""TurnRing: what a session remembers of its past turns, so that a repeated one does not run again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

TurnState = Literal["completed", "dead", "superseded"]


@dataclass(frozen=True)
class TurnOutcome:
    """How a turn ended.

    Parameters:
        turn_id: names the turn.
        at: when it ended, in seconds since 1970.
        replies: the reply bodies byte for byte (JSON text); ``None`` where only the id is still known.
        state: how it ended.
        by: the id of the turn that superseded it.
        replay: how often it had been put back from the dead letters.
    """

    turn_id: str
    at: float
    replies: tuple[str, ...] | None = None
    state: TurnState = "completed"
    by: str | None = None
    replay: int = 0


@dataclass(frozen=True)
class Retention:
    """How much a session remembers of its past turns.

    Parameters:
        replies: the last so many turns keep their replies (64 by design).
        ids_s: ids are kept for at least so many seconds. The default of 24 hours is how late platforms
            redeliver.
    """

    replies: int = 64
    ids_s: float = 24 * 3600


@dataclass
class TurnRing:
    """The last turns with their replies, and the ids of those before, oldest first."""

    outcomes: dict[str, TurnOutcome] = field(default_factory=dict)
    ids: dict[str, float] = field(default_factory=dict)
    fresh: list[TurnOutcome] = field(default_factory=list, compare=False, repr=False)
    """Outcomes added since the record was loaded or saved: what a store has still to write."""
    known: bool = field(default=False, compare=False, repr=False)
    """Whether the store holds all but ``fresh``. A ring made by hand is not known, and is written whole."""

    def get(self, turn_id: str) -> TurnOutcome | None:
        """How this turn ended, or ``None`` where it is not known to have ended."""
        outcome = self.outcomes.get(turn_id)
        if outcome is None and turn_id in self.ids:
            return TurnOutcome(turn_id, self.ids[turn_id])
        return outcome

    def add(self, outcome: TurnOutcome, retention: Retention) -> None:
        """Remember an outcome, and forget what is past its retention.

        A second outcome of a turn replaces the first.
        """
        if outcome.replies is None:
            # Without replies it could not be told from a bare id when it is read again: its state would be
            # lost.
            outcome = replace(outcome, replies=())
        self.outcomes.pop(outcome.turn_id, None)
        self.ids.pop(outcome.turn_id, None)
        self.outcomes[outcome.turn_id] = outcome
        self.fresh.append(outcome)
        while len(self.outcomes) > retention.replies:
            oldest = next(iter(self.outcomes))
            self.ids[oldest] = self.outcomes.pop(oldest).at
        horizon = outcome.at - retention.ids_s
        while self.ids:
            oldest = next(iter(self.ids))
            if self.ids[oldest] >= horizon:
                break
            del self.ids[oldest]

    def copy(self) -> TurnRing:
        """An independent ring of the same outcomes."""
        return TurnRing(dict(self.outcomes), dict(self.ids), list(self.fresh), self.known)

    def __iter__(self) -> Iterator[TurnOutcome]:
        """All that is remembered, oldest first."""
        for turn_id, at in self.ids.items():
            yield TurnOutcome(turn_id, at)
        yield from self.outcomes.values()
