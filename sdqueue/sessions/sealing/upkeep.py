"""Rotating master keys and erasing the keys of sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sdqueue.errors import RecordError
from sdqueue.sessions.sealing.entry import KeyEntry
from sdqueue.sessions.sealing.keyring import Keyring
from sdqueue.sessions.sealing.keys import SessionKeys

_AT_ONCE: Final = 64


@dataclass
class Rotation:
    """What came of a rotation.

    Parameters:
        rewrapped: so many keys were wrapped anew.
        already: so many were under the first master key before.
        erased: so many sessions have no key any more.
        failed: why the others could not be wrapped anew, by session.
    """

    rewrapped: int = 0
    already: int = 0
    erased: int = 0
    failed: dict[str, str] = field(default_factory=dict)


async def rotate(
    keys: SessionKeys, keyring: Keyring, *, on_progress: Callable[[Rotation], object] | None = None
) -> Rotation:
    """Wrap the keys of all sessions under the first master key of the keyring. The records stay as they are.

    Sessions may be worked on meanwhile. It may be interrupted and run again: what is done stays done.

    Parameters:
        keys: the store of keys.
        keyring: has the new master key first, and the old ones behind it.
        on_progress: told now and then how far it is.

    Raises:
        StoreUnavailable: the key store cannot be reached.
    """
    result = Rotation()
    batch: list[str] = []
    async for session_id in keys.sessions():
        batch.append(session_id)
        if len(batch) == _AT_ONCE:
            await asyncio.gather(*(_rewrap(keys, keyring, each, result) for each in batch))
            batch.clear()
            if on_progress is not None:
                on_progress(result)
    await asyncio.gather(*(_rewrap(keys, keyring, each, result) for each in batch))
    return result


async def erase_key(keys: SessionKeys, session_id: str) -> bool:
    """Erase the key of a session: what it has sealed can never be opened again, wherever copies of it are.

    That it was erased is remembered, so that remains of the session read as no session.

    Returns:
        Whether the session had a key.

    Raises:
        StoreUnavailable: the key store cannot be reached; the key may have been erased or not.
        RecordError: the entry cannot be read.
    """
    while True:
        found = await keys.get(session_id)
        entry = KeyEntry() if found is None else KeyEntry.load(session_id, found)
        if not entry.key_id:
            return False
        tombstone = entry.without_key().dump()
        if await keys.swap(session_id, found, tombstone) == tombstone:
            return True


async def _rewrap(keys: SessionKeys, keyring: Keyring, session_id: str, result: Rotation) -> None:
    while True:
        found = await keys.get(session_id)
        if found is None:
            return
        try:
            entry = KeyEntry.load(session_id, found)
            if not entry.key_id:
                result.erased += 1
                return
            if entry.master == keyring.first:
                keyring.unwrap(session_id, entry)
                result.already += 1
                return
            data_key = keyring.unwrap(session_id, entry)
        except RecordError as error:
            result.failed[session_id] = str(error)
            return
        new = entry.rewrapped(*keyring.wrap(session_id, entry.key_id, data_key)).dump()
        if await keys.swap(session_id, found, new) == new:
            result.rewrapped += 1
            return
