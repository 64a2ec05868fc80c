"""InMemorySessionStore: sessions that live as long as the process."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from sdqueue.agents import ChatContext, ChatMessage
from sdqueue.errors import VersionConflict
from sdqueue.sessions import codec
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.ring import TurnRing
from sdqueue.sessions.sealing.seal import UNSEALED, Seal, Sealing
from sdqueue.sessions.stores.foreign import ForeignSaves
from sdqueue.sessions.stores.memory_backlog import MemoryBacklog
from sdqueue.sessions.stores.store import STARTED


@dataclass(frozen=True)
class _Kept:
    """A session at rest: JSON for what can change, shared values for what is frozen."""

    stored: Stored
    head: str
    items: list[ChatMessage]
    turns: TurnRing


@dataclass(frozen=True)
class _Sealed:
    """A session at rest under a seal: all of it in one text, but for the ids of its turns."""

    stored: Stored
    head: str
    turn_ids: frozenset[str]


class InMemorySessionStore(MemoryBacklog):
    """Keeps sessions in this process's memory. Nothing that it hands out or takes in stays connected with it.

    A record that other stores could not write as JSON is refused here too.

    Parameters:
        sealer: encrypts what is kept, which keeps it out of a dump of the memory but for what is worked on. Each save
            then writes the whole session. Default: nothing is encrypted.
    """

    def __init__(self, *, sealer: Sealing | None = None) -> None:
        super().__init__()
        self._sealing = UNSEALED if sealer is None else sealer
        self._kept: dict[str, _Kept | _Sealed] = {}
        self._foreign = ForeignSaves()
        self._begun: dict[str, dict[str, int]] = {}

    async def load(self, session_id: str) -> SessionRecord | None:
        """See :meth:`SessionStore.load <sdqueue.sessions.stores.store.SessionStore.load>`."""
        return self._foreign.loaded(session_id, await self._record(session_id))

    async def _record(self, session_id: str) -> SessionRecord | None:
        kept = self._kept.get(session_id)
        if kept is None:
            return None
        if isinstance(kept, _Sealed):
            return await self._open(session_id, kept)
        await self._sealing.reading(session_id, kept.head)  # it may refuse what is not sealed
        with codec.naming(session_id):
            record = codec.decode_parts(kept.head, (), ())
        record.chat_ctx = ChatContext(list(kept.items))
        record.turns = kept.turns.copy()
        record.mark_stored(kept.stored)
        return record

    async def save(self, session_id: str, record: SessionRecord) -> None:
        """See :meth:`SessionStore.save <sdqueue.sessions.stores.store.SessionStore.save>`."""
        if not isinstance(record, SessionRecord):
            await self._foreign.save(session_id, record, read=self._record, save=self.save)
            return
        seal = await self._sealing.writing(session_id, record.stored)
        kept = self._kept.get(session_id)
        found = Stored() if kept is None else kept.stored
        if found.revision != record.stored.revision:
            raise VersionConflict(session_id, expected=record.stored.version, found=found.version or None)
        saved = record.successor()
        if seal.key_id:
            self._seal(session_id, record, saved, seal)
            return
        items = record.chat_ctx.items
        old = kept.items[: record.stored.items] if isinstance(kept, _Kept) and record.stored.items <= len(items) else []
        with codec.naming(session_id):
            head = codec.encode_head(saved)
            new = [_frozen(message) for message in items[len(old) :]]
            for outcome in record.turns.fresh if record.turns.known else record.turns:
                codec.encode_outcome(outcome)
        self._clear_begun(session_id, [outcome.turn_id for outcome in record.turns.fresh])
        record.mark_stored(saved.stored)
        self._kept[session_id] = _Kept(saved.stored, head, old + new, record.turns.copy())

    async def delete(self, session_id: str) -> None:
        """Forget the session; nothing happens where there is none."""
        self._kept.pop(session_id, None)
        self._begun.pop(session_id, None)
        self._forget_backlog(session_id)

    async def is_current(self, session_id: str, known: Stored) -> bool:
        """Whether it still has this very state."""
        kept = self._kept.get(session_id)
        return kept is not None and known.is_same(kept.stored)

    async def begin(self, session_id: str, turn_id: str) -> int:
        """Count a beginning of this turn, within the life of the process only."""
        counts = self._begun.setdefault(session_id, {})
        counts[turn_id] = counts.get(turn_id, 0) + 1
        return counts[turn_id]

    async def rewind(self, session_id: str, turn_id: str) -> None:
        """Take one beginning back."""
        self._rewind(session_id, turn_id, -1)

    async def rewind_started(self, session_id: str, turn_id: str) -> None:
        """Take one beginning back whose agent had started."""
        self._rewind(session_id, turn_id, STARTED - 1)

    async def aclose(self) -> None:
        """End what the sealer has open; the store itself has nothing to close."""
        await self._sealing.aclose()

    def _seal(self, session_id: str, record: SessionRecord, saved: SessionRecord, seal: Seal) -> None:
        with codec.naming(session_id):
            text = seal.seal("record", codec.encode(saved))
        stored = replace(saved.stored, sealed_by=seal.key_id)
        self._clear_begun(session_id, [outcome.turn_id for outcome in record.turns.fresh])
        record.mark_stored(stored)
        self._kept[session_id] = _Sealed(stored, text, frozenset(outcome.turn_id for outcome in record.turns))

    async def _open(self, session_id: str, kept: _Sealed) -> SessionRecord | None:
        seal = await self._sealing.reading(session_id, kept.head)
        if seal is None:
            if self._kept.get(session_id) is kept:
                del self._kept[session_id]
            return None
        with codec.naming(session_id):
            record = codec.decode(seal.open("record", kept.head))
        record.stored = replace(record.stored, sealed_by=seal.key_id)
        return record

    def _has_ended(self, session_id: str, turn_id: str) -> bool:
        kept = self._kept.get(session_id)
        if isinstance(kept, _Sealed):
            return turn_id in kept.turn_ids
        return kept is not None and kept.turns.get(turn_id) is not None

    def _has_begun(self, session_id: str, turn_id: str) -> bool:
        return turn_id in self._begun.get(session_id, ())

    def _rewind(self, session_id: str, turn_id: str, step: int) -> None:
        counts = self._begun.get(session_id, {})
        if counts.get(turn_id, 0) % STARTED:
            counts[turn_id] += step
            if not counts[turn_id]:
                self._clear_begun(session_id, [turn_id])

    def _clear_begun(self, session_id: str, turn_ids: list[str]) -> None:
        counts = self._begun.get(session_id)
        if counts is None:
            return
        for turn_id in turn_ids:
            counts.pop(turn_id, None)
        if not counts:
            del self._begun[session_id]


def _frozen(message: Any) -> ChatMessage:
    """The message itself where nothing about it can change, else what JSON makes of it."""
    if type(message) is ChatMessage and type(message.role) is str and type(message.content) is str:
        return message
    fields = json.loads(codec.encode_message(message))
    return ChatMessage(fields["role"], fields["content"])
