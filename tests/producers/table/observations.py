"""Observations: what is known of one platform when a world has ended. Values only.

Times are seconds of the machine's monotonic clock, which all processes of a run share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sent:
    """A message of a user.

    Parameters:
        mark: names it in its text and in the answer.
        conversation: whose.
        at: when it was sent first.
        accepted: the platform's own rules say that it was taken.
    """

    mark: str
    conversation: str
    at: float
    accepted: bool = True


@dataclass(frozen=True)
class Run:
    """A run of the agent; ``turn`` is the turn's id, ``number`` that of the message in its session, from 1."""

    mark: str
    turn: str
    number: int
    at: float


@dataclass(frozen=True)
class Shown:
    """A message of the bot that a user sees, in the order in which users see them."""

    conversation: str
    text: str
    at: float


@dataclass(frozen=True)
class Observations:
    """All of one platform.

    Parameters:
        sent: in the order in which each conversation sent them.
        runs: by time.
        stored: the marks that each conversation's session has in the store, in order.
        shown: see :class:`Shown`.
        ambiguous: deliveries with an unknown outcome, by what came of it, as the producers told.
        may_double: nothing recognises a repeat there, so what was told as ``resent`` may be visible twice.
        strange: what nobody expected: statuses, lines of logs.
    """

    sent: tuple[Sent, ...] = ()
    runs: tuple[Run, ...] = ()
    stored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shown: tuple[Shown, ...] = ()
    ambiguous: Mapping[str, int] = field(default_factory=dict)
    may_double: bool = False
    strange: tuple[str, ...] = ()
