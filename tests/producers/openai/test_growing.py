"""A text that cannot be taken back: what is shown is the final text, or the client is told that it is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdqueue_producers.openai.growing import Diverged, Growing

from sdqueue.messages import OutboundReply

TEXTS = st.text(alphabet="ab", max_size=6)


def delta(text: str, attempt: int, index: int, *, restart: bool = False) -> OutboundReply:
    place = {"attempt": attempt, "index": index, "restart": restart, "offset": "0"}
    return OutboundReply(
        id=f"t:0.{attempt}-w.{index}", turn_id="t", session_id="s", seq=1, kind="delta", text=text,
        metadata={"stream": place},
    )  # fmt: skip


@settings(deadline=None)
@given(attempts=st.lists(st.lists(TEXTS, max_size=4), min_size=1, max_size=3), lost=st.sets(st.integers(0, 9)))
def test_what_was_shown_is_always_the_final_text_or_an_error(attempts: list[list[str]], lost: set[int]) -> None:
    growing, shown, number = Growing(), "", 0
    final = "".join(attempts[-1])
    try:
        for attempt, pieces in enumerate(attempts, 1):
            begun = False
            for index, piece in enumerate(pieces):
                number += 1
                if number not in lost:  # the first delta that arrives of another attempt says that it is one
                    shown += growing.add(delta(piece, attempt, index, restart=attempt > 1 and not begun))
                    begun = True
        shown += growing.finish(final)
    except Diverged:
        assert not final.startswith(shown) or len(attempts) > 1
        return
    assert shown == growing.shown == final


def test_a_second_start_that_says_the_same_goes_on_where_the_first_one_ended() -> None:
    growing = Growing()
    assert growing.add(delta("one ", 1, 0)) == "one "
    assert growing.add(delta("one", 2, 0, restart=True)) == ""
    assert growing.add(delta(" two", 2, 1)) == "two"
    assert growing.add(delta(" three", 2, 2)) == " three"
    assert growing.finish("one two three.") == "."


def test_a_second_start_that_differs_is_noticed_at_once() -> None:
    growing = Growing()
    growing.add(delta("one ", 1, 0))
    with pytest.raises(Diverged):
        growing.add(delta("uno", 2, 0, restart=True))


def test_behind_a_lost_delta_nothing_is_shown_until_the_end() -> None:
    growing = Growing()
    assert growing.add(delta("a", 1, 0)) == "a"
    assert growing.add(delta("c", 1, 2)) == ""
    assert growing.finish("abc") == "bc"


def test_an_answer_that_ends_with_less_than_was_shown_is_no_good_end() -> None:
    growing = Growing()
    growing.add(delta("hello ", 1, 0))
    with pytest.raises(Diverged):
        growing.finish("hello")
