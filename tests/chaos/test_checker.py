"""The checker on evidence made up by hand: it finds nothing in what is right, and each wrong in its own column."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checker import check
from tests.chaos.evidence import Effect, Evidence, Letter, Reply, Run, Sent


def sent(mark: str, at: float, **fields: Any) -> Sent:
    return Sent(mark, fields.pop("session", "s"), fields.pop("kind", "turn"), at, think_s=1.0, **fields)


def run(name: str, mark: str, began: float, *seen: str) -> Run:
    return Run(name, mark, "s", began, began + 1, len(seen), seen)


def reply(mark: str, name: str, seq: int, at: float, kind: str = "final") -> Reply:
    return Reply(f"{mark}:0", mark, "s", seq, kind, name, at, f"{mark} {name} {seq} {kind}".encode())


RIGHT = Evidence(
    sent=(sent("a", 10), sent("b", 11), sent("x", 12, session="", kind="malformed"), sent("c", 13)),
    replies=(reply("a", "r1", 1, 11.5), reply("a", "r1", 1, 20), reply("b", "r3", 2, 13.5), reply("c", "r4", 3, 15)),
    letters=(Letter("x", "not-json", 12.5),),
    # The second run of b was not saved: its process was asleep, and woke up beside the third.
    runs=(run("r1", "a", 10.2), run("r2", "b", 11.6, "a"), run("r3", "b", 12, "a"), run("r4", "c", 13.6, "a", "b")),
    conversations={"s": (Effect("a", "r1"), Effect("b", "r3"), Effect("c", "r4"))},
)


def test_nothing_is_found_in_a_run_as_it_should_be() -> None:
    """Repeated replies, and a run beside another that was not saved, are no violations."""
    findings = check(RIGHT)
    assert findings.clean, findings.details
    assert findings.sent == 4
    assert findings.stalls_s == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.0})


WRONG: dict[str, tuple[Evidence, dict[str, int]]] = {
    "no reply and no letter": (
        replace(RIGHT, replies=RIGHT.replies[:3], conversations={"s": RIGHT.conversations["s"][:2]}),
        {"lost": 1, "replies missing": 1},
    ),
    "a letter without a reply": (
        replace(
            RIGHT,
            sent=(*RIGHT.sent[:3], sent("c", 13, deadly=True)),
            replies=RIGHT.replies[:3],
            letters=(*RIGHT.letters, Letter("c", "poison", 15)),
            conversations={"s": RIGHT.conversations["s"][:2]},
        ),
        {"replies missing": 1},
    ),
    "a malformed message is no dead letter": (replace(RIGHT, letters=()), {"lost": 1}),
    "a neighbour was condemned": (replace(RIGHT, letters=(*RIGHT.letters, Letter("c", "poison", 15))), {"lost": 1}),
    "poison was answered": (replace(RIGHT, sent=(*RIGHT.sent[:3], sent("c", 13, deadly=True))), {"lost": 1}),
    "an answered turn is not stored": (
        replace(RIGHT, conversations={"s": (Effect("a", "r1"), Effect("b", "r3"))}),
        {"lost": 1},
    ),
    "a turn took effect twice": (
        replace(
            RIGHT,
            runs=(*RIGHT.runs, run("r5", "c", 16, "a", "b", "c")),
            conversations={"s": (*RIGHT.conversations["s"], Effect("c", "r5"))},
        ),
        {"doubled": 1, "reply ids reused": 1},
    ),
    "the effects are in another order": (
        replace(
            RIGHT,
            runs=(run("r1", "a", 11.6, "b"), run("r3", "b", 10.2), *RIGHT.runs[3:]),
            conversations={"s": (Effect("b", "r3"), Effect("a", "r1"), Effect("c", "r4"))},
            replies=(*RIGHT.replies[:2], replace(RIGHT.replies[2], seq=1), RIGHT.replies[3]),
        ),
        # Once for the effects, once for the numbers, once because the third run was given another order.
        {"out of order": 3},
    ),
    "the numbers of the replies are in another order": (
        replace(RIGHT, replies=(*RIGHT.replies[:2], replace(RIGHT.replies[2], seq=4), RIGHT.replies[3])),
        {"out of order": 1},
    ),
    "a run was given an old history": (
        replace(RIGHT, runs=(*RIGHT.runs[:3], run("r4", "c", 13.6, "a"))),
        {"out of order": 1},
    ),
    "a turn of another session": (
        replace(RIGHT, conversations={"s": RIGHT.conversations["s"], "other": (Effect("z", "r9"),)}),
        {"out of order": 2},
    ),
    "two runs at the same time were saved": (
        replace(RIGHT, runs=(run("r1", "a", 10.2), run("r3", "b", 11, "a"), *RIGHT.runs[3:])),
        {"overlapping": 1},
    ),
    "a reply id with two contents": (
        replace(RIGHT, replies=(*RIGHT.replies, reply("a", "r1", 9, 30))),
        {"reply ids reused": 1},
    ),
    "another run was told than was saved": (
        replace(RIGHT, replies=(*RIGHT.replies[:2], reply("b", "r2", 2, 13.5), RIGHT.replies[3])),
        {"reply ids reused": 1},
    ),
    "messages are left": (replace(RIGHT, left_over=3), {"left over": 3}),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_violation_is_found_in_its_column(name: str) -> None:
    evidence, counts = WRONG[name]
    findings = check(evidence)
    assert dict(+findings.counts) == counts, findings.details


def test_a_turn_without_identity_may_take_effect_twice_but_not_be_lost() -> None:
    anonymous = replace(RIGHT, sent=(*RIGHT.sent, sent("n", 14, kind="anonymous")))
    assert dict(check(anonymous).counts) == {"lost": 1}

    twice = replace(
        anonymous,
        replies=(*RIGHT.replies, reply("n", "r5", 4, 15), replace(reply("n", "r6", 5, 16), id="made-up:0")),
        runs=(*RIGHT.runs, run("r5", "n", 15, "a", "b", "c"), run("r6", "n", 16.5, "a", "b", "c", "n")),
        conversations={"s": (*RIGHT.conversations["s"], Effect("n", "r5"), Effect("n", "r6"))},
    )
    assert check(twice).clean, check(twice).details


def test_what_was_answered_before_the_store_was_emptied_need_not_be_in_it() -> None:
    emptied = replace(
        RIGHT,
        emptied_at=13.55,
        runs=(*RIGHT.runs[:3], run("r4", "c", 13.6)),
        replies=(*RIGHT.replies[:3], reply("c", "r4", 1, 15)),
        conversations={"s": (Effect("c", "r4"),)},
    )
    assert check(emptied).clean, check(emptied).details

    lost = replace(emptied, conversations={})
    assert dict(check(lost).counts) == {"lost": 1}


def test_a_repeat_of_what_was_answered_before_the_store_was_emptied_is_a_new_turn() -> None:
    again = replace(
        RIGHT,
        sent=(replace(RIGHT.sent[0], repeated_at=15.1), *RIGHT.sent[1:]),
        emptied_at=13.55,
        runs=(*RIGHT.runs[:3], run("r4", "c", 13.6), run("r5", "a", 15.2, "c")),
        replies=(*RIGHT.replies[:3], reply("c", "r4", 1, 15), reply("a", "r5", 2, 17)),
        conversations={"s": (Effect("c", "r4"), Effect("a", "r5"))},
    )
    assert check(again).clean, check(again).details

    late = {"out of order": 1}
    never_repeated = replace(again, sent=RIGHT.sent)
    assert dict(check(never_repeated).counts) == late
    begun_before_the_repeat = replace(again, sent=(replace(RIGHT.sent[0], repeated_at=15.3), *RIGHT.sent[1:]))
    assert dict(check(begun_before_the_repeat).counts) == late
    never_emptied = replace(again, emptied_at=None)
    assert check(never_emptied).counts["out of order"] > 0
