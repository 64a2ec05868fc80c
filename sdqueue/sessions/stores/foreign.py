"""ForeignSaves: how our stores take the records of superdialog's own ``SessionWorker``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from sdqueue.errors import VersionConflict
from sdqueue.sessions import codec
from sdqueue.sessions.locks.asyncio import AsyncioLockBackend
from sdqueue.sessions.record import SessionRecord, Stored, as_record

REMEMBERED: Final = 100_000
"""A store knows what it handed out of so many sessions; superdialog's worker keeps a thousand agents by default."""


@dataclass(frozen=True)
class _Known:
    """The state of a session that whoever saves foreign records has.

    Parameters:
        stored: which one it is.
        notes: so many notes were saved of a machine that has not answered since the session was loaded; ``None`` where
            something else was saved since.
    """

    stored: Stored
    notes: int | None = 0


class ForeignSaves:
    """Compare-and-set for records that have no version.

    superdialog's worker makes a new record for every save and keeps its agents, however old they are. What a save was
    made from is therefore what this store last handed out or took of the session, and a save made from anything else
    than what is stored is refused, where it would undo the turns of another process. A store belongs to one worker for
    that reason: what others load through it passes for known.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Known] = OrderedDict()
        # That worker saves evicted sessions without their lock; a session's saves must happen as they were called.
        self._line = AsyncioLockBackend()

    def loaded(self, session_id: str, record: SessionRecord | None) -> SessionRecord | None:
        """Remember what was handed out; returns it."""
        self._know(session_id, _Known(Stored() if record is None else record.stored))
        return record

    async def save(
        self,
        session_id: str,
        foreign: Any,
        *,
        read: Callable[[str], Awaitable[SessionRecord | None]],
        save: Callable[[str, SessionRecord], Awaitable[None]],
    ) -> None:
        """Save a foreign record; one that changes nothing is not written.

        A session that this store has neither loaded nor saved before is overwritten.

        Parameters:
            read: loads the session, without :meth:`loaded`.
            save: saves a record of ours.

        Raises:
            VersionConflict: somebody else has saved or deleted the session meanwhile; nothing was changed.
            StoreUnavailable, RecordError: see :meth:`SessionStore.save`.
        """
        async with self._line.acquire(session_id):
            while True:
                known, base = self._known.get(session_id), await read(session_id)
                if known is not None:
                    _check(session_id, known.stored, base)
                with codec.naming(session_id):
                    record, notes = _next(foreign, base, known)
                try:
                    if base is None or _differ(session_id, record, base):
                        await save(session_id, record)
                except VersionConflict as error:
                    if known is not None:
                        error.add_note(_ADVICE)
                        raise
                    continue  # overwritten, as what was there before
                self._know(session_id, _Known(record.stored, notes))
                return

    def _know(self, session_id: str, known: _Known) -> None:
        self._known[session_id] = known
        self._known.move_to_end(session_id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


_ADVICE: Final = (
    "superdialog's SessionWorker still has the agent of the older version. Let it go with close_session, which raises "
    "this once more, and repeat the turn; or give the worker max_sessions=0, so that it keeps none."
)


def _check(session_id: str, known: Stored, base: SessionRecord | None) -> None:
    found = Stored() if base is None else base.stored
    if found.revision != known.revision:
        error = VersionConflict(session_id, expected=known.version, found=found.version or None)
        error.add_note(_ADVICE)
        raise error


def _next(foreign: Any, base: SessionRecord | None, known: _Known | None) -> tuple[SessionRecord, int | None]:
    """The record to be saved, and how many notes of a machine that has not answered yet it has."""
    record = as_record(foreign, base)
    if base is not None and _has_moved(record, base):
        # What an agent of ours has dumped says nothing of the turns that another one has answered since.
        record.agent_state = None
    if base is None or known is None or known.notes is None or not _is_unbuilt(record):
        return record, None
    # A DialogMachine builds its state at its first turn. Until then it reports an empty one, with the notes that wait
    # for it, though it has been given what is stored and will go on from that.
    items = [*base.chat_ctx.items, *record.chat_ctx.items[known.notes :]]
    context = replace(base.chat_ctx, items=items)
    waiting = replace(base, chat_ctx=context, metadata=record.metadata, last_turn_at=record.last_turn_at)
    return waiting, len(record.chat_ctx.items)


def _has_moved(record: SessionRecord, base: SessionRecord) -> bool:
    return record.chat_ctx != base.chat_ctx or (
        codec.encode_head(replace(base, flow_state=record.flow_state)) != codec.encode_head(base)
    )


def _is_unbuilt(record: SessionRecord) -> bool:
    flow = record.flow_state
    return (
        flow is not None
        and not any((flow.userdata, flow.node_slots, flow.node_spoken_flags, flow.visit_count, flow.transition_log))
        and all(message.role == "system" for message in record.chat_ctx.items)
    )


def _differ(session_id: str, record: SessionRecord, base: SessionRecord) -> bool:
    """Whether there is anything to write."""
    at = base.last_turn_at
    with codec.naming(session_id):
        return record.chat_ctx != base.chat_ctx or (
            codec.encode_head(replace(record, last_turn_at=at)) != codec.encode_head(base)
        )
