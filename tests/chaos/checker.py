"""The checker: what is wrong with the evidence of a scenario.

It imports the evidence and nothing else, so that a defect of the consumer, or of the harness, cannot be shared by it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeVar

from tests.chaos.evidence import Effect, Evidence, Reply, Run

Item = TypeVar("Item")

COLUMNS: Final = ("lost", "doubled", "out of order", "overlapping", "replies missing", "reply ids reused", "left over")
"""What is counted; all of it must be 0."""

SHOWN: Final = 5
"""So many details of each column are kept."""


@dataclass
class Findings:
    """The result of a check.

    Parameters:
        sent: confirmed messages.
        counts: violations by column.
        details: what they are, in words.
        stalls_s: for each identified turn that was answered, the seconds from its confirm to its first reply, without
            the thinking of its own agent and of those before it in its session.
    """

    sent: int
    counts: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)
    stalls_s: dict[str, float] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not any(self.counts.values())

    def add(self, column: str, detail: str) -> None:
        """Count a violation."""
        assert column in COLUMNS
        self.counts[column] += 1
        if self.counts[column] <= SHOWN:
            self.details.append(f"{column}: {detail}")


def check(evidence: Evidence) -> Findings:
    """Find everything that breaks a promise."""
    case = _Case(evidence)
    findings = Findings(len(evidence.sent))
    for look in (_lost, _effects_lost, _doubled, _order, _history, _seq, _overlapping, _replies, _contents):
        for column, detail in look(case):
            findings.add(column, detail)
    for _ in range(evidence.left_over):
        findings.add("left over", "a message is still in a queue of turns after the last consumer has ended")
    findings.stalls_s = _stalls(case)
    return findings


Found = Iterator[tuple[str, str]]


class _Case:
    """The evidence, looked up by what the checks need."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.sent = {sent.mark: sent for sent in evidence.sent}
        self.runs = {run.id: run for run in evidence.runs}
        self.letters = {letter.mark for letter in evidence.letters}
        self.answers = _grouped((r for r in evidence.replies if r.kind in ("final", "error")), lambda r: r.mark)
        self.turns = _grouped((s for s in evidence.sent if s.kind == "turn"), lambda s: s.session)
        # A turn without identity may take effect twice, so neither its place nor its number says anything.
        self.conversations = {
            session: [e for e in effects if e.mark not in self.sent or self.sent[e.mark].kind == "turn"]
            for session, effects in evidence.conversations.items()
        }

    def promised(self, reply: Reply) -> bool:
        """Whether what the reply tells must still be in the store: always, unless that was emptied since."""
        emptied_at = self.evidence.emptied_at
        run = self.runs.get(reply.run)
        return emptied_at is None or (run is not None and run.began_at > emptied_at)

    def anew(self, effect: Effect) -> bool:
        """Whether it is of a repeat that nobody could know for one: answered, forgotten with the store, sent again.

        When the broker had the repeat is not known, so it may be anywhere behind those that it had before.
        """
        sent, run = self.sent.get(effect.mark), self.runs.get(effect.run)
        if sent is None or sent.repeated_at is None or run is None or run.began_at <= sent.repeated_at:
            return False
        return any(not self.promised(answer) for answer in self.answers.get(effect.mark, ()))


def _grouped(items: Iterable[Item], key: Callable[[Item], str]) -> Mapping[str, list[Item]]:
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _lost(case: _Case) -> Found:
    """Every confirmed message ends in a reply or in the dead letters."""
    for sent in case.evidence.sent:
        if sent.kind == "malformed":
            if sent.mark not in case.letters:
                yield "lost", f"malformed message {sent.mark} is no dead letter"
        elif sent.mark not in case.answers and sent.mark not in case.letters:
            yield "lost", f"turn {sent.mark} of session {sent.session} has neither a reply nor a dead letter"
        elif sent.deadly and sent.mark not in case.letters:
            yield "lost", f"deadly turn {sent.mark} of session {sent.session} is no dead letter"
        elif sent.kind == "turn" and not sent.deadly and sent.mark in case.letters:
            yield "lost", f"turn {sent.mark} of session {sent.session} was condemned, though nothing is wrong with it"


def _effects_lost(case: _Case) -> Found:
    """What a final reply tells is in the session's conversation."""
    for mark, replies in case.answers.items():
        sent = case.sent.get(mark)
        stored = {effect.mark for effect in case.evidence.conversations.get(replies[0].session, ())}
        if sent and replies[0].kind == "final" and mark not in stored and case.promised(replies[0]):
            yield "lost", f"turn {mark} of session {sent.session} was answered, but its effect is not stored"


def _doubled(case: _Case) -> Found:
    """A turn is in the conversation once."""
    for session, effects in case.conversations.items():
        for mark, times in Counter(effect.mark for effect in effects).items():
            if times > 1:
                yield "doubled", f"turn {mark} is {times} times in the conversation of session {session}"


def _order(case: _Case) -> Found:
    """The conversation has the turns in the order in which the broker accepted them."""
    for session, effects in case.conversations.items():
        places = {sent.mark: place for place, sent in enumerate(case.turns.get(session, ()))}
        unknown = [effect.mark for effect in effects if effect.mark not in places]
        for mark in unknown:
            yield "out of order", f"session {session} has a turn {mark!r} that was never confirmed in it"
        firsts = list(dict.fromkeys(e.mark for e in effects if e.mark in places and not case.anew(e)))
        for before, after in pairwise(firsts):
            if places[before] > places[after]:
                yield "out of order", f"session {session} took turn {before} before {after}"


def _history(case: _Case) -> Found:
    """The run that was saved had been given exactly what is stored before it."""
    for session, effects in case.evidence.conversations.items():
        marks = tuple(effect.mark for effect in effects)
        for place, effect in enumerate(effects):
            run = case.runs.get(effect.run)
            if run is None:
                yield "out of order", f"session {session} has an effect of run {effect.run!r}, which no journal knows"
            elif run.heard != place or run.seen != marks[place - len(run.seen) : place]:
                before = f"{run.heard} turns, the last of them {run.seen[-1:]}"
                stored = f"{place}, the last of them {marks[:place][-1:]}"
                yield (
                    "out of order",
                    f"run {run.id} of session {session} was given {before}; stored before it are {stored}",
                )


def _seq(case: _Case) -> Found:
    """The final replies of a session are numbered in the order of its turns."""
    for session, turns in case.turns.items():
        finals = [(sent, case.answers[sent.mark][0]) for sent in turns if sent.mark in case.answers]
        numbered = [(sent, reply.seq) for sent, reply in finals if reply.kind == "final" and case.promised(reply)]
        for (one, first), (other, second) in pairwise(numbered):
            if first >= second:
                yield "out of order", f"session {session}: turn {one.mark} has seq {first}, {other.mark} has {second}"


def _overlapping(case: _Case) -> Found:
    """Of two runs of one session at the same time at most one is saved.

    A process that was asleep may well run a turn beside its successor; it must not be able to save it.
    """
    for session, effects in case.evidence.conversations.items():
        saved = [case.runs[e.run] for e in effects if e.run in case.runs]
        saved.sort(key=lambda run: run.began_at)
        for place, run in enumerate(saved[1:], 1):
            longest = max(saved[:place], key=_end)
            if run.began_at < _end(longest):
                yield "overlapping", f"session {session}: runs {longest.id} and {run.id} were both saved"


def _end(run: Run) -> float:
    return run.began_at if run.ended_at is None else run.ended_at


def _replies(case: _Case) -> Found:
    """Every turn that could be read gets a final or an error reply, and what it tells is what was saved."""
    for sent in case.evidence.sent:
        if sent.kind == "turn" and sent.mark not in case.answers:
            yield "replies missing", f"turn {sent.mark} of session {sent.session} has no final or error reply"
    told = {mark: replies[0] for mark, replies in case.answers.items()}
    for session, effects in case.conversations.items():
        for effect in effects:
            reply = told.get(effect.mark)
            if reply and reply.kind == "final" and case.promised(reply) and reply.run != effect.run:
                yield (
                    "reply ids reused",
                    f"turn {effect.mark} of session {session}: run {effect.run} is stored, {reply.run} was told",
                )


def _contents(case: _Case) -> Found:
    """A reply id names one content for good."""
    for reply_id, replies in _grouped(case.evidence.replies, lambda r: r.id).items():
        bodies = len({reply.body for reply in replies})
        if bodies > 1 and all(case.promised(reply) for reply in replies):
            yield "reply ids reused", f"{bodies} different replies have the id {reply_id}"


def _stalls(case: _Case) -> dict[str, float]:
    stalls: dict[str, float] = {}
    for turns in case.turns.values():
        answered = [(sent, case.answers[sent.mark][0].at) for sent in turns if sent.mark in case.answers]
        for place, (sent, at) in enumerate(answered):
            thinking = sent.think_s
            for before, before_at in reversed(answered[:place]):
                if before_at <= sent.confirmed_at:
                    break
                thinking += before.think_s
            stalls[sent.mark] = max(0.0, at - sent.confirmed_at - thinking)
    return stalls
