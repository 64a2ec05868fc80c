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

REASONS = {"dead": {"agent-failed"}, "poison": {"poison"}, "malformed": {"invalid-field"}, "fine": set()}
"""Why a turn may be put away, by its fate."""


@dataclass
class History:
    """All that counts of what happened in a world.

    Parameters:
        accepted: the turns in the order in which the broker accepted them, with repeats.
        replies: the bodies of all replies as the receiver got them.
        letters: the dead letters.
        sessions: the records in the store at the end.
        complaints: what is wrong in itself: something left over, a crash of its own.
    """

    accepted: list[Sent] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)
    letters: list[DeadTurn] = field(default_factory=list)
    sessions: dict[str, SessionRecord] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


def violations(history: History) -> Iterator[str]:
    """Each broken promise, in words."""
    yield from history.complaints
    invalid = {turn.id for turn in history.accepted if turn.fate == "malformed"}
    contents: dict[str, set[bytes | str]] = defaultdict(set)
    ends: dict[str, OutboundReply] = {}
    for body in history.replies:
        reply = OutboundReply.decode(body)
        # What is no turn has no session to remember its reply: another consumer says the same at another time.
        contents[reply.id].add(reply.text if reply.turn_id in invalid else body)
        if reply.kind != "delta":
            ends.setdefault(reply.turn_id, reply)
    for reply_id, bodies in contents.items():
        if len(bodies) > 1:
            yield f"reply {reply_id} has {len(bodies)} contents"
    letters: dict[str, set[str]] = defaultdict(set)
    for letter in history.letters:
        letters[letter.turn_id].add(letter.reason)
    sessions: dict[str, list[Sent]] = defaultdict(list)
    for turn in dict.fromkeys(history.accepted):
        sessions[turn.session_id].append(turn)
        yield from _of_turn(turn, ends.get(turn.id), letters[turn.id])
    for session_id, turns in sessions.items():
        yield from _of_session(session_id, turns, ends, history.sessions.get(session_id))


def _of_turn(turn: Sent, end: OutboundReply | None, letters: set[str]) -> Iterator[str]:
    """Each turn has its end, and the one that it deserves."""
    if end is None:
        yield f"turn {turn.id} ({turn.kind}, {turn.fate}) has no final or error reply"
        return
    condemned = letters - REASONS[turn.fate]
    if condemned:
        yield f"turn {turn.id} ({turn.kind}, {turn.fate}) is a dead letter because of {', '.join(sorted(condemned))}"
    reason = end.metadata.get("reason")
    if end.kind == "error" and reason != "cancelled" and not letters:
        yield f"turn {turn.id} got an error reply ({reason}) but is no dead letter"
    if end.kind == "final" and turn.fate != "fine":
        yield f"turn {turn.id} cannot be answered, yet it was"


def _of_session(
    session_id: str, turns: list[Sent], ends: dict[str, OutboundReply], record: SessionRecord | None
) -> Iterator[str]:
    """Its turns took effect once each, in the order in which they were accepted."""
    done = [turn for turn in turns if turn.id in ends and ends[turn.id].kind == "final"]
    seqs = [ends[turn.id].seq for turn in done]
    if seqs != list(range(1, len(done) + 1)):
        yield f"session {session_id}: its final replies, in the order of their turns, have the numbers {seqs}"
    effects: list[str] = []
    for turn in done:
        if turn.kind == "reset":
            effects.clear()
        elif turn.kind != "cancel":
            effects.append(turn.id)
    items = record.chat_ctx.items if record is not None else []
    found = [item.content.split(" ")[0] for item in items if item.role in ("user", "system")]
    if found != effects:
        yield f"session {session_id}: took effect {found}, but answered and in this order accepted were {effects}"
