"""Saving records of superdialog's own ``SessionWorker``, so that our stores work in it unchanged."""

from __future__ import annotations

from typing import Any

from sdqueue.errors import VersionConflict
from sdqueue.sessions.record import as_record
from sdqueue.sessions.stores.store import SessionStore


async def save_foreign(store: SessionStore, session_id: str, foreign: Any) -> None:
    """Save a record that has no version to compare: the last writer wins, under the caller's lock.

    Raises:
        StoreUnavailable, RecordError: see :meth:`SessionStore.save`.
    """
    while True:
        record = as_record(foreign, await store.load(session_id))
        try:
            await store.save(session_id, record)
        except VersionConflict:
            continue  # somebody saved in between; the last writer wins over that too
        return
