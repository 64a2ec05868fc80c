"""What of a session record travels to and from the scripts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sdqueue.errors import RecordCorrupt, VersionConflict
from sdqueue.sessions import codec
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.ring import TurnRing
from sdqueue.sessions.sealing.seal import PLAIN, Seal


@dataclass(frozen=True, slots=True)
class Saving:
    """A save on its way, made before it is sent so that the record may change meanwhile.

    Parameters:
        args: for ``lua/record.lua``.
        expected: what Redis must have.
        saved: what it has then.
        fresh: how many new outcomes the record had.
    """

    session_id: str
    args: list[Any]
    expected: Stored
    saved: Stored
    fresh: int

    @classmethod
    def of(
        cls, session_id: str, record: SessionRecord, ttl_ms: int, *, seal: Seal = PLAIN, whole: bool = False
    ) -> Saving:
        """The save of a record.

        Parameters:
            session_id, record: what to save.
            ttl_ms: the life of its keys.
            seal: seals its parts.
            whole: write everything, where the store lacks what it should have.

        Raises:
            RecordError: the record holds something that JSON cannot.
        """
        expected, items, ring, successor = record.stored, record.chat_ctx.items, record.turns, record.successor()
        saved = successor.stored
        if seal.key_id != expected.sealed_by:
            saved, whole = replace(saved, sealed_by=seal.key_id), True
        kept = 0 if whole or not expected.version or expected.items > len(items) else expected.items
        with codec.naming(session_id):
            head = seal.seal("head", codec.encode_head(successor))
            messages = [
                seal.seal("message", codec.encode_message(message), n) for n, message in enumerate(items[kept:], kept)
            ]
            args = [expected.revision, saved.revision, head, len(items), ttl_ms, kept, len(messages), *messages]
            args += _ring_args(ring, seal, whole=whole or not expected.version or not ring.known)
        return cls(session_id, args, expected, saved, len(ring.fresh))

    def finish(self, record: SessionRecord, answer: bytes) -> bool:
        """Note on the record that it was saved. Returns whether it was; if not, it must be sent whole.

        Raises:
            VersionConflict: somebody else has saved or deleted it since.
        """
        if answer == b"saved":
            record.mark_stored(self.saved, fresh=self.fresh)
            return True
        if answer == b"short":
            return False
        found, _, _ = answer.partition(b":")
        raise VersionConflict(self.session_id, expected=self.expected.version, found=int(found) or None)


def _ring_args(ring: TurnRing, seal: Seal, *, whole: bool) -> list[Any]:
    rows: list[Any] = []
    count = 0
    for outcome in ring if whole else ring.fresh:
        now = ring.outcomes.get(outcome.turn_id)
        if now is not None:
            if now is not outcome:
                continue  # replaced since; the later one comes
            text = seal.seal_outcome(now.turn_id, codec.encode_outcome(now))
            rows += [turn_bytes(now.turn_id), repr(float(now.at)), text]
        elif outcome.turn_id in ring.ids:
            rows += [turn_bytes(outcome.turn_id), repr(float(ring.ids[outcome.turn_id])), b""]
        else:
            continue
        count += 1
    ended = [turn_bytes(outcome.turn_id) for outcome in ring.fresh]
    remembered = len(ring.outcomes) + len(ring.ids)
    return [int(whole), len(ring.outcomes), remembered, count, *rows, len(ended), *ended]


def turn_bytes(turn_id: str) -> bytes:
    """A turn id, or a session's, as Redis keeps it. Lone surrogates are legal in JSON, so they can get this far."""
    return turn_id.encode("utf-8", "surrogatepass")


def decode(session_id: str, reply: list[Any], seal: Seal) -> SessionRecord:
    """The record of the reply of ``load``.

    Parameters:
        session_id: the session.
        reply: has one.
        seal: opens its parts.

    Raises:
        RecordError: it cannot be read.
    """
    with codec.naming(session_id):
        revision, head, items, history, turns, ids = reply
        if head is None or items is None:
            raise RecordCorrupt("the stored session record is damaged: it has no head")
        record = codec.decode_parts(seal.open("head", head), seal.open_messages(history), seal.open_outcomes(turns))
        found = record.stored.revision.encode("utf-8", "surrogatepass")
        if len(history) != int(items) or found != revision:
            raise RecordCorrupt(
                f"the stored session record is damaged: it has {len(history)} messages and revision {found!r}, "
                f"but {int(items)} and {revision!r} were saved; see whether Redis evicts keys (maxmemory-policy)"
            )
        known = record.turns.outcomes
        pairs = [
            (member.decode("utf-8", "surrogatepass"), float(at)) for member, at in zip(ids[::2], ids[1::2], strict=True)
        ]
        record.turns.ids = {turn_id: at for turn_id, at in pairs if turn_id not in known}
    record.stored = replace(record.stored, sealed_by=seal.key_id)
    return record
