"""SealedDeltaLog: streamed answers sealed with the keys of their sessions, in any log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from sdqueue.sessions import codec
from sdqueue.sessions.sealing.seal import Sealing
from sdqueue.streaming.log import DeltaLog, LogEntry
from sdqueue.streaming.offset import StreamOffset


class SealedDeltaLog:
    """Seals what goes into a log and opens what comes out; whoever reads it needs the keys.

    An answer whose session was erased is as one that was forgotten.

    Parameters:
        log: keeps the entries.
        sealer: a :class:`~sdqueue.Sealer` on the keys of the store. Both are closed with this.
    """

    def __init__(self, log: DeltaLog, sealer: Sealing) -> None:
        self.log = log
        self._sealing = sealer

    async def append(self, session_id: str, turn_id: str, entries: Sequence[LogEntry]) -> None:
        """See :class:`~sdqueue.streaming.DeltaLog`.

        Raises:
            RecordError, StoreUnavailable: see :meth:`Sealing.writing`.
        """
        # Readers can do without, so within an attempt a key that is in memory will do, and no append waits for the key
        # store. What begins an attempt, or ends the turn, may be of a session that was begun anew after an erasure.
        anew = any(entry.offset.number <= 1 for entry in entries)
        seal = await self._sealing.writing(session_id, forgettable=not anew)
        sealed = [
            replace(entry, body=seal.seal("delta", entry.body, _place(turn_id, entry.offset))) for entry in entries
        ]
        await self.log.append(session_id, turn_id, sealed)

    async def read(
        self, session_id: str, turn_id: str, *, after: StreamOffset, wait_s: float
    ) -> Sequence[LogEntry] | None:
        """See :class:`~sdqueue.streaming.DeltaLog`.

        Raises:
            RecordError, StoreUnavailable: see :meth:`Sealing.reading`.
        """
        deadline, erased = time.monotonic() + wait_s, False
        while True:
            left = max(deadline - time.monotonic(), 0)
            found = await self.log.read(session_id, turn_id, after=after, wait_s=left)
            if not found:
                return None if erased else found
            opened = [entry for entry in [await self._open(session_id, turn_id, each) for each in found] if entry]
            if opened:
                return opened
            # All that is there is of an erased session. What was said since may stand behind it.
            after, erased = found[-1].offset, True

    async def _open(self, session_id: str, turn_id: str, entry: LogEntry) -> LogEntry | None:
        """An entry as it was written; ``None`` where its key was erased."""
        seal = await self._sealing.reading(session_id, entry.body)
        if seal is None:
            return None
        with codec.naming(session_id):
            body = seal.open("delta", entry.body, _place(turn_id, entry.offset))
        return replace(entry, body=body.decode() if isinstance(body, bytes) else body)

    async def aclose(self) -> None:
        """See :class:`~sdqueue.streaming.DeltaLog`."""
        await self.log.aclose()
        await self._sealing.aclose()


def _place(turn_id: str, offset: StreamOffset) -> str:
    return f"{offset} {turn_id}"
