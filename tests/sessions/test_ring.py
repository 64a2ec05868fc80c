"""TurnRing: what is remembered, how long, and in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sdqueue.sessions.ring import Retention, TurnOutcome, TurnRing


def outcome(turn_id: str, at: float = 0.0, *replies: str) -> TurnOutcome:
    return TurnOutcome(turn_id, at, replies)


def test_an_unknown_turn_is_unknown() -> None:
    assert TurnRing().get("t") is None


def test_old_turns_keep_their_ids_only() -> None:
    ring = TurnRing()
    for n in range(5):
        ring.add(outcome(f"t{n}", n, "reply"), Retention(replies=2))
    assert ring.get("t4") == outcome("t4", 4, "reply")
    assert ring.get("t2") == TurnOutcome("t2", 2)
    assert list(ring.outcomes) == ["t3", "t4"]
    assert list(ring.ids) == ["t0", "t1", "t2"]


def test_ids_are_kept_as_long_as_promised_and_no_longer() -> None:
    ring, retention = TurnRing(), Retention(replies=1, ids_s=10.0)
    ring.add(outcome("old", 0.0), retention)
    ring.add(outcome("new", 10.0), retention)
    assert ring.get("old") is not None
    ring.add(outcome("newer", 10.5), retention)
    assert ring.get("old") is None
    assert ring.get("new") is not None


def test_a_turn_with_an_empty_id_is_forgotten_as_others_are() -> None:
    """An id that is falsy must not keep all the ids behind it for ever."""
    ring, retention = TurnRing(), Retention(replies=1, ids_s=10.0)
    ring.add(outcome("", 0.0), retention)
    ring.add(outcome("a", 1.0), retention)
    ring.add(outcome("b", 100.0), retention)
    assert list(ring) == [outcome("b", 100.0)]


def test_a_second_outcome_replaces_the_first_and_is_the_newest() -> None:
    ring = TurnRing()
    for turn_id in ("a", "b", "a"):
        ring.add(outcome(turn_id, len(ring.fresh), str(len(ring.fresh))), Retention())
    assert [o.turn_id for o in ring] == ["b", "a"]
    assert ring.get("a") == outcome("a", 2, "2")


def test_an_outcome_without_replies_keeps_its_state() -> None:
    ring = TurnRing()
    ring.add(TurnOutcome("t", 1.0, None, "superseded", "other"), Retention())
    assert ring.get("t") == TurnOutcome("t", 1.0, (), "superseded", "other")
    assert ring.fresh == [ring.get("t")]


def test_a_copy_is_independent() -> None:
    ring = TurnRing()
    ring.add(outcome("a"), Retention())
    ring.known = True
    copy = ring.copy()
    assert (copy, copy.fresh, copy.known) == (ring, ring.fresh, True)
    copy.add(outcome("b"), Retention())
    assert ring.get("b") is None
    assert len(ring.fresh) == 1


@given(
    turns=st.lists(st.tuples(st.integers(0, 8), st.floats(0, 50)), max_size=60),
    replies=st.integers(0, 5),
    ids_s=st.floats(0, 100),
)
def test_the_ring_is_bounded_and_forgets_from_its_old_end(
    turns: list[tuple[int, float]], replies: int, ids_s: float
) -> None:
    """Whatever is added: no turn twice, at most so many replies, the newest always known, no young id forgotten."""
    ring, now = TurnRing(), 1_000.0
    ended: dict[str, float] = {}
    for number, pause in turns:
        now += pause
        ring.add(outcome(str(number), now, "r"), Retention(replies, ids_s))
        ended[str(number)] = now
        assert len(ring.outcomes) <= replies
        assert not ring.outcomes.keys() & ring.ids.keys()
        assert ring.get(str(number)) is not None
        known = [o.turn_id for o in ring]
        assert known == sorted(known, key=lambda turn: (ended[turn], known.index(turn)))
        assert all(turn in known for turn, at in ended.items() if at >= now - ids_s)
