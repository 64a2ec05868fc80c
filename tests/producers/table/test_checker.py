"""The checker by itself: clean observations are clean, and each forged violation is caught, in its column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.producers.table.checker import check
from tests.producers.table.observations import Observations, Run, Sent, Shown

MARKS = ("p.1.0", "p.1.1", "p.1.2")


def clean() -> Observations:
    """Two conversations, with three messages and one."""
    return Observations(
        sent=(*(Sent(mark, "1", at) for at, mark in enumerate(MARKS)), Sent("p.2.0", "2", 1)),
        runs=(*(Run(mark, f"turn {mark}", n, n) for n, mark in enumerate(MARKS, 1)), Run("p.2.0", "turn 2", 1, 2)),
        stored={"1": MARKS, "2": ("p.2.0",)},
        shown=(*(Shown("1", f"{n} {mark}", n + 0.5) for n, mark in enumerate(MARKS, 1)), Shown("2", "1 p.2.0", 9)),
    )


def stored(*marks: str) -> Callable[[Observations], Observations]:
    return lambda seen: replace(seen, stored={**seen.stored, "1": marks})


def shown(*texts: str) -> Callable[[Observations], Observations]:
    others = (Shown("2", "1 p.2.0", 9),)
    return lambda seen: replace(seen, shown=(*(Shown("1", text, n) for n, text in enumerate(texts)), *others))


def test_nothing_is_found_in_what_kept_every_promise() -> None:
    findings = check(clean())
    assert findings.clean
    assert not findings.counts
    assert findings.sent == 4
    assert findings.longest_s == 8


def test_a_repeated_run_of_the_same_turn_is_no_violation() -> None:
    """The agent may run again after a crash; what counts is the effect."""
    seen = clean()
    assert check(replace(seen, runs=(*seen.runs, Run("p.1.0", "turn p.1.0", 1, 9)))).clean


@pytest.mark.parametrize(
    ("column", "forge"),
    [
        ("lost", stored(*MARKS[:2])),
        ("lost", lambda seen: replace(seen, stored={"2": ("p.2.0",)})),
        ("lost", lambda seen: replace(seen, sent=(*seen.sent, Sent("p.1.3", "1", 4, accepted=False)))),
        ("doubled", stored(*MARKS, MARKS[1])),
        ("doubled", lambda seen: replace(seen, runs=(*seen.runs, Run(MARKS[0], "another turn", 4, 9)))),
        ("doubled", shown("1 p.1.0", "2 p.1.1", "3 p.1.2", "4 p.1.2")),
        ("out of order", stored(MARKS[1], MARKS[0], MARKS[2])),
        ("out of order", lambda seen: replace(seen, runs=tuple(reversed(seen.runs)))),
        ("out of order", shown("2 p.1.1", "1 p.1.0", "3 p.1.2")),
        ("out of order", shown("1 p.1.0", "3 p.1.1", "4 p.1.2")),
        ("missing", shown("1 p.1.0", "3 p.1.2")),
        ("missing", lambda seen: replace(seen, shown=())),
        ("seen twice", shown("1 p.1.0", "2 p.1.1", "2 p.1.1", "3 p.1.2")),
        ("seen twice", shown("1 p.1.0", "2 p.1.1", "3 p.1.2", "1 p.1.0")),
        ("astray", shown("1 p.1.0", "2 p.1.1", "3 p.1.2", "1 p.2.0")),
        ("astray", shown("1 p.1.0", "2 p.1.1", "3 p.1.2", "Something went wrong.")),
        ("astray", stored(*MARKS, "p.2.0")),
        ("strange", lambda seen: replace(seen, strange=("answered with 500",))),
    ],
)
def test_a_violation_is_caught_in_its_column(column: str, forge: Callable[[Observations], Observations]) -> None:
    findings = check(forge(clean()))
    assert findings.counts[column]
    assert not findings.clean
    assert any(detail.startswith(f"{column}: ") for detail in findings.details)


def test_an_answer_may_be_seen_twice_only_as_often_as_was_told_and_only_where_nothing_recognises_it() -> None:
    twice = shown("1 p.1.0", "1 p.1.0", "2 p.1.1", "2 p.1.1", "3 p.1.2")(clean())
    assert not check(replace(twice, ambiguous={"resent": 2})).clean
    assert not check(replace(twice, may_double=True)).clean
    assert not check(replace(twice, may_double=True, ambiguous={"resent": 1, "found": 5})).clean
    told = check(replace(twice, may_double=True, ambiguous={"resent": 2}))
    assert told.clean
    assert told.counts["seen twice"] == told.ambiguous == 2


def test_what_nobody_told_is_not_excused_by_what_may_be_seen_twice() -> None:
    seen = replace(stored(*MARKS[:2])(clean()), may_double=True, ambiguous={"resent": 9})
    assert check(seen).counts["lost"] == 1
    assert not check(seen).clean
