"""What a load says about a deployment: which of its turns were lost, took effect twice or out of order."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Verdict:
    """What was counted; all but the first three must be 0.

    Parameters:
        turns: that the broker has confirmed.
        sessions: that they are of.
        repeats: replies that came again under the same id, as they may.
    """

    turns: int = 0
    sessions: int = 0
    repeats: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    failed: int = 0
    details: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.lost or self.doubled or self.disordered or self.failed)


def judge(evidence: Mapping[str, Any]) -> Verdict:
    """Judge what :mod:`tests.deploy.load` has printed of turns that :mod:`tests.deploy.agent.listing` has answered.

    A reply names all turns of its session that had taken effect before, in their order, and its own last.
    """
    orders: defaultdict[str, list[str]] = defaultdict(list)
    for session, mark, _ in evidence["sent"]:
        orders[session].append(mark)
    replies: defaultdict[str, list[Sequence[Any]]] = defaultdict(list)
    for reply in evidence["replies"]:
        replies[reply[0]].append(reply)
    verdict = Verdict(turns=len(evidence["sent"]), sessions=len(orders))
    verdict.failed = len(evidence["letters"])
    for order in orders.values():
        for place, mark in enumerate(order):
            _judge(verdict, mark, order[: place + 1], replies[mark])
    return verdict


def _judge(verdict: Verdict, mark: str, expected: list[str], replies: list[Sequence[Any]]) -> None:
    def found(what: str, detail: str) -> None:
        setattr(verdict, what, getattr(verdict, what) + 1)
        verdict.details.append(f"{what}: turn {mark}: {detail}")

    if not replies:
        found("lost", "has no reply")
        return
    if len({(reply_id, text) for _, reply_id, _, text, _ in replies}) > 1:
        found("doubled", "has different replies")
    verdict.repeats += len(replies) - 1
    _, _, kind, text, _ = replies[0]
    if kind != "final":
        found("failed", f"was answered with kind {kind}")
        return
    heard = json.loads(text)
    if heard == expected:
        return
    if any(times > 1 for times in Counter(heard).values()):
        found("doubled", f"its session has heard {heard}")
    elif missing := set(expected) - set(heard):
        found("lost", f"its session has not heard {sorted(missing)}")
    else:
        found("disordered", f"its session has heard {heard}, sent were {expected}")
