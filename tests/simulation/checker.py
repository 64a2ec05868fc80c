"""The checker: whether the promises of the README were kept, from what was sent and what came of it.

It knows nothing of consumers: it reads the accepted turns, the replies, the dead letters and the stored sessions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdqueue.messages import DeadTurn, OutboundReply
from sdqueue.sessions import SessionRecord

if TYPE_CHECKING:
    from tests.simulation.workload import Sent

REASONS: dict[str, set[str]] = {
    "dead": {"agent-failed"},
    "poison": {"poison"},
    "malformed": {"invalid-field"},
    "fine": set(),
}
"""Why a turn may be put away, by its fate."""

STOPPED = {"cancelled", "interrupted"}
"""Why a turn may get an error reply without being a dead letter."""


@dataclass
class History:
    """All that counts of what happened in a world.

    Parameters:
        accepted: the turns in the order in which the broker accepted them, with repeats.
        replies: the bodies of all replies as the receiver got them.
        letters: the dead letters.
        sessions: the records in the store at the end.
        complaints: what is wrong in itself: something left over, a crash of its own.
        replayed: turns that were put back from the dead letters.
        parks: whether the turns behind a dead one wait for its replay.
        may_refuse: why turns that are well may be put away.
        rejects: whether a message that comes while another one runs is refused at once. Later turns do not wait for
            that, so where its consumer dies before the refusal is stored, it is let in behind them.
    """

    accepted: list[Sent] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)
    letters: list[DeadTurn] = field(default_factory=list)
    sessions: dict[str, SessionRecord] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    replayed: set[str] = field(default_factory=set)
    parks: bool = False
    may_refuse: frozenset[str] = frozenset()
    rejects: bool = False


def violations(history: History) -> Iterator[str]:
    """Each broken promise, in words."""
    yield from history.complaints
    invalid = {turn.id for turn in history.accepted if turn.fate == "malformed"}
    contents: dict[str, set[bytes | str]] = defaultdict(set)
    ends: dict[str, dict[str, OutboundReply]] = defaultdict(dict)
    for body in history.replies:
        reply = OutboundReply.decode(body)
        # What is no turn has no session to remember its reply: another consumer says the same at another time.
        contents[reply.id].add(reply.text if reply.turn_id in invalid else body)
        if reply.kind != "delta":
            ends[reply.turn_id][reply.id] = reply
    for reply_id, bodies in contents.items():
        if len(bodies) > 1:
            yield f"reply {reply_id} has {len(bodies)} contents"
    letters: dict[str, set[str]] = defaultdict(set)
    for letter in history.letters:
        letters[letter.turn_id].add(letter.reason)
    sessions: dict[str, list[_Done]] = defaultdict(list)
    for turn in dict.fromkeys(history.accepted):
        done = sessions[turn.session_id]
        replies = list(ends[turn.id].values())
        yield from _of_turn(history, turn, replies, letters[turn.id])
        # Behind a dead turn others wait only where sessions are parked; a refused one keeps nobody waiting.
        in_place = turn.id not in history.replayed or (history.parks and not letters[turn.id] & history.may_refuse)
        in_order = in_place and not (history.rejects and turn.kind == "message")
        done += [_Done(turn, reply.seq, in_order) for reply in replies if reply.kind == "final"]
    for session_id, done in sessions.items():
        yield from _of_session(session_id, done, history.sessions.get(session_id))


@dataclass(frozen=True)
class _Done:
    """A turn that was answered.

    Parameters:
        turn: it.
        seq: the number of its final reply.
        in_order: whether it had to take effect where it stood, and not only when it was put back.
    """

    turn: Sent
    seq: int
    in_order: bool


def _of_turn(history: History, turn: Sent, replies: list[OutboundReply], letters: set[str]) -> Iterator[str]:
    """Each turn has its end, and the one that it deserves."""
    name = f"turn {turn.id} ({turn.kind}, {turn.fate})"
    if not replies:
        yield f"{name} has no final or error reply"
    condemned = letters - REASONS[turn.fate] - history.may_refuse
    if condemned:
        yield f"{name} is a dead letter because of {', '.join(sorted(condemned))}"
    if any(reply.kind == "error" and reply.metadata.get("reason") not in STOPPED for reply in replies) and not letters:
        yield f"{name} got an error reply but is no dead letter"
    finals = [reply.id for reply in replies if reply.kind == "final"]
    if len(finals) > 1:
        yield f"{name} was answered as {' and '.join(finals)}"
    if finals and turn.fate in ("poison", "malformed"):  # what others die of is mended some day
        yield f"{name} cannot be answered, yet it was"


def _of_session(session_id: str, done: list[_Done], record: SessionRecord | None) -> Iterator[str]:
    """Its turns took effect once each, in the order in which they were accepted.

    Parameters:
        done: in that order.
    """
    seqs = [one.seq for one in done if one.in_order]
    if seqs != sorted(seqs):
        names = [one.turn.id for one in sorted(done, key=lambda one: one.seq) if one.in_order]
        yield f"session {session_id}: answered in the order {names}"
    if sorted(one.seq for one in done) != list(range(1, len(done) + 1)):
        yield f"session {session_id}: its final replies have the numbers {sorted(one.seq for one in done)}"
    effects: list[str] = []
    for one in sorted(done, key=lambda one: one.seq):
        if one.turn.kind == "reset":
            effects.clear()
        elif one.turn.kind != "cancel":
            effects.append(one.turn.id)
    items = record.chat_ctx.items if record is not None else []
    lines = [line for item in items if item.role in ("user", "system") for line in item.content.split("\n")]
    found = [line.split(" ")[0] for line in lines]
    if found != effects:
        yield f"session {session_id}: took effect {found}, but answered were {effects}"
