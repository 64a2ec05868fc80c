"""Releasing a parked session: its dead turn has been dealt with, and the turns behind it may run."""

from __future__ import annotations

from dataclasses import replace

from sdqueue.sessions.lease import leasing_for
from sdqueue.sessions.locks.lock import LockBackend
from sdqueue.sessions.stores.backlog import TurnBacklog
from sdqueue.sessions.stores.offers import offers
from sdqueue.sessions.stores.store import SessionStore


async def unpark(store: SessionStore, locks: LockBackend, session_id: str, turn_id: str) -> bool:
    """Let the turns of a session run again that wait for this dead one. For commands: no agent is needed.

    It may be repeated, and should be where it raised: a session that is not parked any more is listed again, so that
    somebody looks at its backlog.

    Parameters:
        store: where the session is.
        locks: what serialises work on it.
        session_id: the session.
        turn_id: the dead turn.

    Returns:
        Whether it was parked by this turn until now. One that is parked by another turn stays parked.

    Raises:
        LockLost, VersionConflict, StoreUnavailable, RecordError: see :meth:`SessionWorker.acquire
            <sdqueue.SessionWorker.acquire>`; the session may be parked still.
    """
    async with leasing_for(store, locks).lease(session_id) as lease:
        record = lease.record
        if record is not None and record.parked_by not in (None, turn_id):
            return False
        # Before the save, and under the lock: who finds the session parked takes it off the list, and must be one who
        # has looked before this line. A crash between the two leaves a parked session listed, which does no harm.
        if offers(store, TurnBacklog):
            await store.enlist(session_id)
        if record is None or record.parked_by is None:
            return False
        await lease.save(replace(record, parked_by=None))
        return True
