"""Debounce: which lists of members are believed, and when."""

from __future__ import annotations

from collections.abc import Iterable

from sdqueue.consumer.debounce import AFTER_GAP_S, CALM_S, LONGEST_S, Debounce

BEAT = 0.5


def members(names: str) -> frozenset[str]:
    return frozenset(names)


def watched(debounce: Debounce, seen: Iterable[tuple[float, str]]) -> list[tuple[float, str]]:
    """What is believed, and from when on, of what is seen."""
    return [(now, names) for now, names in seen if debounce.see(members(names), now)]


def standing(names: str, start: float, seconds: float) -> list[tuple[float, str]]:
    return [(start + n * BEAT, names) for n in range(int(seconds / BEAT) + 1)]


def test_the_first_of_a_pool_begins_at_once() -> None:
    assert watched(Debounce("a"), [(0.0, "a")]) == [(0.0, "a")]


def test_one_that_joins_others_waits_like_them() -> None:
    newcomer, other = Debounce("b"), Debounce("a")
    assert watched(other, [(0.0, "a")]) == [(0.0, "a")]
    assert watched(newcomer, standing("ab", 10, 3)) == watched(other, standing("ab", 10, 3)) == [(10 + CALM_S, "ab")]


def test_many_that_start_together_are_believed_once() -> None:
    names = "abcdefgh"
    seen = [(n * 0.2, names[: n + 1]) for n in range(8)] + standing(names, 1.6, 3)
    assert watched(Debounce("a"), seen) == [(0.0, "a"), (1.4 + CALM_S + 0.2, names)]


def test_a_list_that_goes_back_changes_nothing() -> None:
    debounce = Debounce("a")
    seen = [(0.0, "a"), (1.0, "ab"), (1.5, "a"), (2.0, "ab"), (2.5, "a"), *standing("a", 3, 9)]
    assert watched(debounce, seen) == [(0.0, "a")]


def test_constant_change_is_followed_in_the_end() -> None:
    seen = [(0.0, "a")] + [(10 + n * BEAT, "a" + "bc"[n % 2]) for n in range(12)]
    assert watched(Debounce("a"), seen) == [(0.0, "a"), (10 + LONGEST_S, "ab")]


def test_after_a_gap_the_first_to_come_back_does_not_take_everything() -> None:
    """The others sign again one by one, and nothing has changed."""
    debounce = Debounce("a")
    assert watched(debounce, standing("abc", 0, 2)) == [(CALM_S, "abc")]
    assert not debounce.see(members("a"), 10.0, after_gap=True)
    assert debounce.patient
    assert watched(debounce, [(10.5, "a"), (11.0, "a"), (11.5, "ab"), (12.5, "ab"), (12.9, "abc")]) == []
    assert not debounce.patient


def test_who_does_not_come_back_after_a_gap_is_gone() -> None:
    debounce = Debounce("a")
    watched(debounce, standing("abc", 0, 2))
    assert not debounce.see(members("ab"), 10.0, after_gap=True)
    assert watched(debounce, standing("ab", 10.5, 5)) == [(10 + AFTER_GAP_S, "ab")]
    assert watched(debounce, standing("a", 20, 5)) == [(20 + CALM_S, "a")]


def test_a_pool_that_was_emptied_once_more_is_waited_for_anew() -> None:
    debounce = Debounce("a")
    watched(debounce, standing("abc", 0, 2))
    assert not debounce.see(members("a"), 10.0, after_gap=True)
    assert not debounce.see(members("a"), 12.0, after_gap=True)
    assert not debounce.see(members("a"), 14.5)
    assert debounce.see(members("a"), 15.0)
