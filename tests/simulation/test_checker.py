"""The checker finds each kind of broken promise, and nothing in a history that is as it should be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdqueue.agents import ChatContext, ChatMessage
from sdqueue.messages import DeadTurn, OutboundReply
from sdqueue.sessions import SessionRecord
from tests.simulation.checker import History, violations
from tests.simulation.workload import Fate, Sent


def _turn(turn_id: str, fate: Fate = "fine", kind: str = "message") -> Sent:
    return Sent(turn_id, "s", kind, fate, turn_id.encode())


def _final(turn_id: str, seq: int, text: str = "yes") -> bytes:
    reply = OutboundReply(id=f"{turn_id}:0", turn_id=turn_id, session_id="s", seq=seq, kind="final", text=text)
    return reply.to_bytes()


def _error(turn_id: str, reason: str) -> bytes:
    reply = OutboundReply(
        id=f"{turn_id}:0", turn_id=turn_id, session_id="s", seq=0, kind="error", text="no", metadata={"reason": reason}
    )
    return reply.to_bytes()


def _letter(turn_id: str, reason: str) -> DeadTurn:
    return DeadTurn(reason=reason, error="-", turn_id=turn_id, session_id="s")


def _record(*effects: str) -> dict[str, SessionRecord]:
    return {"s": SessionRecord(chat_ctx=ChatContext([ChatMessage("user", f"{effect} fine 0 0") for effect in effects]))}


@pytest.fixture
def good() -> History:
    """Two turns answered, one of them sent twice, one stopped, one dead, one that is no turn."""
    one = _final("one", 1)
    return History(
        accepted=[
            _turn("one"),
            _turn("two"),
            _turn("one"),
            _turn("no", "malformed"),
            _turn("bad", "dead"),
            _turn("off"),
        ],
        replies=[
            one,
            _final("two", 2),
            one,
            _error("no", "invalid-field"),
            _error("no", "invalid-field"),
            _error("bad", "agent-failed"),
            _error("off", "cancelled"),
        ],
        letters=[_letter("no", "invalid-field"), _letter("bad", "agent-failed"), _letter("bad", "agent-failed")],
        sessions=_record("one", "two"),
    )


def test_a_good_history_has_no_violations(good: History) -> None:
    assert not list(violations(good))


def test_a_reset_ends_the_effects_before_it(good: History) -> None:
    good.accepted.append(_turn("reset", kind="reset"))
    good.accepted.append(_turn("three"))
    good.replies += [_final("reset", 3), _final("three", 4)]
    good.sessions = _record("three")
    assert not list(violations(good))
    good.sessions = _record("one", "two", "three")
    assert "took effect ['one', 'two', 'three']" in " ".join(violations(good))


def test_a_lost_turn(good: History) -> None:
    good.replies = [body for body in good.replies if b'"two"' not in body]
    assert "turn two (message, fine) has no final or error reply" in list(violations(good))


def test_an_effect_that_was_answered_but_not_kept(good: History) -> None:
    good.sessions = _record("one")
    (said,) = violations(good)
    assert said == "session s: took effect ['one'], but answered were ['one', 'two']"


def test_a_doubled_effect(good: History) -> None:
    good.sessions = _record("one", "two", "two")
    (said,) = violations(good)
    assert "took effect ['one', 'two', 'two']" in said


def test_effects_out_of_order(good: History) -> None:
    good.sessions = _record("two", "one")
    assert list(violations(good)) == ["session s: took effect ['two', 'one'], but answered were ['one', 'two']"]


def test_answers_out_of_order(good: History) -> None:
    good.replies = [_final("one", 2), _final("two", 1), *good.replies[3:]]
    good.sessions = _record("two", "one")
    assert list(violations(good)) == ["session s: answered in the order ['two', 'one']"]


def test_a_number_that_was_given_twice(good: History) -> None:
    good.replies = [_final("one", 1), _final("two", 1), *good.replies[3:]]
    assert list(violations(good)) == ["session s: its final replies have the numbers [1, 1]"]


def test_a_turn_that_was_answered_twice(good: History) -> None:
    again = OutboundReply(id="two:1", turn_id="two", session_id="s", seq=3, kind="final", text="yes")
    good.replies.append(again.to_bytes())
    assert "turn two (message, fine) was answered as two:0 and two:1" in list(violations(good))


def _replayed(good: History, *, parks: bool) -> list[str]:
    """The dead turn is put back and answered at last, as the third."""
    good.replies.append(
        OutboundReply(id="bad:1", turn_id="bad", session_id="s", seq=3, kind="final", text="yes").to_bytes()
    )
    good.accepted.append(_turn("after"))
    good.replies.append(_final("after", 4))
    good.replayed, good.parks = {"bad"}, parks
    good.sessions = _record("one", "two", "bad", "after")
    assert not list(violations(good)), "in its place"
    good.replies = [body for body in good.replies if b':1"' not in body and b"after" not in body]
    good.replies += [
        OutboundReply(id="bad:1", turn_id="bad", session_id="s", seq=4, kind="final", text="yes").to_bytes(),
        _final("after", 3),
    ]
    good.sessions = _record("one", "two", "after", "bad")
    return list(violations(good))


def test_a_replay_comes_late_where_the_session_went_on(good: History) -> None:
    assert not _replayed(good, parks=False)


def test_a_replay_must_not_come_late_where_the_session_is_parked(good: History) -> None:
    assert _replayed(good, parks=True) == ["session s: answered in the order ['one', 'two', 'after', 'bad']"]


def test_a_message_may_come_late_where_its_channel_rejects(good: History) -> None:
    good.accepted.insert(1, _turn("note", kind="assist"))
    good.replies = [_final("one", 2), _final("note", 1), _final("two", 3), *good.replies[3:]]
    good.sessions = _record("note", "one", "two")
    assert list(violations(good)) == ["session s: answered in the order ['note', 'one', 'two']"]
    good.rejects = True
    assert not list(violations(good))


def test_an_effect_of_a_turn_that_was_stopped(good: History) -> None:
    good.sessions = _record("one", "two", "off")
    (said,) = violations(good)
    assert "took effect ['one', 'two', 'off']" in said


def test_two_contents_under_one_reply_id(good: History) -> None:
    good.replies.append(_final("one", 1, "no"))
    assert list(violations(good)) == ["reply one:0 has 2 contents"]


def test_an_innocent_turn_that_was_condemned(good: History) -> None:
    good.letters.append(_letter("two", "poison"))
    assert list(violations(good)) == ["turn two (message, fine) is a dead letter because of poison"]


def test_a_dead_turn_without_a_letter(good: History) -> None:
    good.letters = [letter for letter in good.letters if letter.turn_id != "bad"]
    assert list(violations(good)) == ["turn bad (message, dead) got an error reply but is no dead letter"]


def test_a_turn_that_cannot_be_answered_and_was(good: History) -> None:
    good.accepted = [replace(turn, fate="poison") if turn.id == "two" else turn for turn in good.accepted]
    assert list(violations(good)) == ["turn two (message, poison) cannot be answered, yet it was"]


def test_what_is_wrong_in_itself(good: History) -> None:
    good.complaints.append("3 locks are left")
    assert list(violations(good)) == ["3 locks are left"]
