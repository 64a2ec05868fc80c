"""The exception tree: what the docstring draws is what there is."""

from __future__ import annotations

import inspect
import re

import pytest

from sdqueue import errors
from sdqueue.errors import ReplyTimeout, SdqueueError, TurnFailed, VersionConflict
from sdqueue.messages import OutboundReply

REAL = {n: kind for n, kind in vars(errors).items() if inspect.isclass(kind) and kind.__module__ == errors.__name__}
LINE = re.compile(r"^ {4}(?P<indent>[ │├└─]*)(?P<name>[A-Z]\w+)(?: \((?P<other>\w+)\))?(?: {2,}|$)")


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Name to parent and to the built-in error in brackets, as drawn in the docstring."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := LINE.match(line):
            depth = len(match["indent"]) // 4
            path[depth:] = [match["name"]]
            tree[match["name"]] = (path[depth - 1] if depth else None, match["other"])
    return tree


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    real = {
        name: (
            None if kind is SdqueueError else kind.__bases__[0].__name__,
            kind.__bases__[1].__name__ if len(kind.__bases__) > 1 else None,
        )
        for name, kind in REAL.items()
    }
    assert drawn() == real


@pytest.mark.parametrize("kind", REAL.values(), ids=REAL.keys())
def test_every_error_says_what_it_means(kind: type[Exception]) -> None:
    assert issubclass(kind, SdqueueError)
    assert kind.__doc__


def test_messages_name_the_value_and_what_to_do() -> None:
    conflict = VersionConflict("s", expected=1, found=None)
    assert "'s'" in str(conflict)
    assert "version 1" in str(conflict)
    assert "no record" in str(conflict)
    assert "version 4" in str(VersionConflict("s", expected=1, found=4))
    assert "deleted and created anew" in str(VersionConflict("s", expected=4, found=4))
    late = ReplyTimeout("t", 2.0)
    assert "'t'" in str(late)
    assert "2 s" in str(late)
    assert (late.turn_id, late.timeout_s) == ("t", 2.0)
    reply = OutboundReply(id="t:0", turn_id="t", session_id="s", seq=0, kind="error", text="no")
    failed = TurnFailed(reply)
    assert failed.reply is reply
    assert str(failed) == "turn 't' of session 's' failed: no"
