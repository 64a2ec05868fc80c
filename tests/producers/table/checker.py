"""The checker: what is wrong with the observations of a platform. It imports them and nothing else.

An answer is ``<number> <mark>``: the number that the message has in its session, and the message that is answered.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.producers.table.observations import Observations

COLUMNS: Final = ("lost", "doubled", "out of order", "missing", "seen twice", "astray", "strange")
"""What is counted. All but ``seen twice`` must be 0, and that too where anything recognises a repeat."""

SHOWN: Final = 5
"""So many details of each column are kept."""


@dataclass
class Findings:
    """The result of a check.

    Parameters:
        sent: messages of users, repeats not counted.
        ambiguous: deliveries with an unknown outcome.
        longest_s: the longest time from a message's first try to its first visible answer.
        counts: by column.
        details: what they are, in words.
        allowed_twice: so many answers may be seen twice, each of which was told as ambiguous.
    """

    sent: int
    ambiguous: int
    longest_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)
    allowed_twice: int = 0

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        broken = any(count for column, count in self.counts.items() if column != "seen twice")
        return not broken and self.counts["seen twice"] <= self.allowed_twice

    def add(self, column: str, detail: str) -> None:
        """Count a violation."""
        assert column in COLUMNS
        self.counts[column] += 1
        if self.counts[column] <= SHOWN:
            self.details.append(f"{column}: {detail}")


Found = Iterator[tuple[str, str]]


def check(seen: Observations) -> Findings:
    """Find everything that breaks a promise."""
    findings = Findings(len(seen.sent), sum(seen.ambiguous.values()), _longest(seen))
    findings.allowed_twice = seen.ambiguous.get("resent", 0) if seen.may_double else 0
    for look in (_lost, _doubled, _order_of_effects, _order_of_answers, _missing, _seen_twice, _astray, _strange):
        for column, detail in look(seen):
            findings.add(column, detail)
    return findings


def _lost(seen: Observations) -> Found:
    """Every message is accepted in the end, and every accepted one has its effect on its session."""
    for sent in seen.sent:
        if not sent.accepted:
            yield "lost", f"{sent.mark} was never accepted"
        elif sent.mark not in seen.stored.get(sent.conversation, ()):
            yield "lost", f"{sent.mark} was accepted, but is not in its session"


def _doubled(seen: Observations) -> Found:
    """No message has two effects, two turns, or two different answers."""
    for conversation, marks in seen.stored.items():
        for mark, times in Counter(marks).items():
            if times > 1:
                yield "doubled", f"{mark} is {times} times in the session of conversation {conversation}"
    for mark, turns in _several((run.mark, run.turn) for run in seen.runs):
        yield "doubled", f"{mark} became several turns: {turns}"
    for mark, texts in _several((_mark(shown.text), shown.text) for shown in seen.shown if _number(shown.text)):
        yield "doubled", f"{mark} has several answers: {texts}"


def _order_of_effects(seen: Observations) -> Found:
    """Sessions have the messages in the order in which they were sent, and the agent saw them in that order first."""
    for conversation, marks in _sent(seen).items():
        yield from _compare(f"the session of conversation {conversation}", marks, seen.stored.get(conversation, ()))
        mine = set(marks)
        yield from _compare(f"the agent in {conversation}", marks, [r.mark for r in seen.runs if r.mark in mine])


def _order_of_answers(seen: Observations) -> Found:
    """Answers are visible in the order of the messages, each with the number that its message has."""
    for conversation, marks in _sent(seen).items():
        answers = [shown for shown in seen.shown if shown.conversation == conversation]
        yield from _compare(f"conversation {conversation}", marks, [_mark(shown.text) for shown in answers])
        numbers = {mark: number for number, mark in enumerate(marks, 1)}
        for text in dict.fromkeys(shown.text for shown in answers):
            if _mark(text) in numbers and _number(text) != str(numbers[_mark(text)]):
                yield "out of order", f"the answer {text!r} is to message {numbers[_mark(text)]} of its conversation"


def _missing(seen: Observations) -> Found:
    """Every accepted message has a visible answer."""
    answered = {(shown.conversation, _mark(shown.text)) for shown in seen.shown}
    for sent in seen.sent:
        if sent.accepted and (sent.conversation, sent.mark) not in answered:
            yield "missing", f"{sent.mark} has no visible answer"


def _seen_twice(seen: Observations) -> Found:
    for (conversation, mark), times in Counter((s.conversation, _mark(s.text)) for s in seen.shown).items():
        for _ in range(times - 1):
            yield "seen twice", f"the answer to {mark} is {times} times in conversation {conversation}"


def _astray(seen: Observations) -> Found:
    """Nothing else is visible, and nothing where it does not belong."""
    homes = {sent.mark: sent.conversation for sent in seen.sent}
    for shown in seen.shown:
        if not _number(shown.text) or homes.get(_mark(shown.text)) != shown.conversation:
            yield "astray", f"{shown.text!r} in conversation {shown.conversation}"
    for conversation, marks in seen.stored.items():
        for mark in marks:
            if homes.get(mark) != conversation:
                yield "astray", f"{mark} in the session of conversation {conversation}"


def _strange(seen: Observations) -> Found:
    for told in seen.strange:
        yield "strange", told


def _longest(seen: Observations) -> float:
    first: dict[str, float] = {}
    for shown in seen.shown:
        first.setdefault(_mark(shown.text), shown.at)
    return max((first[sent.mark] - sent.at for sent in seen.sent if sent.mark in first), default=0.0)


def _sent(seen: Observations) -> dict[str, list[str]]:
    marks: defaultdict[str, list[str]] = defaultdict(list)
    for sent in seen.sent:
        marks[sent.conversation].append(sent.mark)
    return marks


def _compare(where: str, sent: list[str], found: Iterable[str]) -> Found:
    """First occurrences must come in the order sent; what is missing is another column's."""
    places = {mark: place for place, mark in enumerate(sent)}
    highest = -1
    for mark in dict.fromkeys(mark for mark in found if mark in places):
        if places[mark] < highest:
            yield "out of order", f"{where}: {mark} comes behind {sent[highest]}"
        highest = max(highest, places[mark])


def _several(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    values: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name, value in pairs:
        values[name][value] = None
    return ((name, list(found)) for name, found in values.items() if len(found) > 1)


def _mark(text: str) -> str:
    return text.rpartition(" ")[2]


def _number(text: str) -> str:
    number, _, _ = text.partition(" ")
    return number if number.isdigit() and text.count(" ") == 1 else ""
