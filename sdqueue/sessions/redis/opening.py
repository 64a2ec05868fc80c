"""Opening records that scripts have read from Redis."""

from __future__ import annotations

from typing import Any

from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.redis.keys import Keys
from sdqueue.sessions.redis.records import decode
from sdqueue.sessions.redis.scripts import DISCARD, ScriptRunner
from sdqueue.sessions.sealing.seal import Sealing


async def open_record(
    sealing: Sealing, scripts: ScriptRunner, keys: Keys, session_id: str, reply: list[Any]
) -> SessionRecord | None:
    """The record of the reply of ``load``; ``None`` where there is none. What nothing can open any more is removed.

    Raises:
        RecordError: it cannot be read.
        StoreUnavailable: Redis, or where the keys are, cannot be reached.
    """
    revision = reply[0]
    if revision == b"":
        return None
    seal = await sealing.reading(session_id, reply[1])
    if seal is None:
        await scripts.call(DISCARD, keys, (revision,))
        return None
    return decode(session_id, reply, seal)
