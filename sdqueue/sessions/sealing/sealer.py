"""Sealer: the seals of sessions, made of a keyring and a store of keys."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from typing import Final

from sdqueue.errors import RecordSealed, VersionConflict
from sdqueue.sessions import codec
from sdqueue.sessions.record import Stored
from sdqueue.sessions.sealing.entry import KeyEntry
from sdqueue.sessions.sealing.keyring import Keyring
from sdqueue.sessions.sealing.keys import SessionKeys
from sdqueue.sessions.sealing.seal import PLAIN, Seal, is_sealed, parse
from sdqueue.sessions.sealing.session_seal import SessionSeal

CACHE_S: Final = 60.0
"""Seconds that a process uses a session's key without asking for it again: so long an erasure may go unnoticed."""


class Sealer:
    """Seals what a store keeps, each session under a random key of its own, which a master key wraps.

    Give each store its own: it is closed together with it. ::

        sealer = Sealer(Keyring.parse(os.environ["KEYS"]), RedisSessionKeys(url=...))
        store = RedisSessionStore(url=..., sealer=sealer)

    Parameters:
        keyring: the master keys.
        keys: where the wrapped keys of sessions live.
        accept_plain: whether sessions that were saved without a seal can be read; their next save seals them. Turn it
            off when all are sealed, so that nobody with access to the store can put a session of his own there.
        cached: so many sessions' keys are kept in memory, the least recently used is dropped first.
        cache_s: see :data:`CACHE_S`.
    """

    def __init__(
        self,
        keyring: Keyring,
        keys: SessionKeys,
        *,
        accept_plain: bool = True,
        cached: int = 10_000,
        cache_s: float = CACHE_S,
    ) -> None:
        from sdqueue.sessions.sealing.aes import Cipher  # not before it is needed: it belongs to an extra

        self._cipher = Cipher
        self._keyring = keyring
        self._keys = keys
        self._accept_plain = accept_plain
        self._cached = cached
        self._cache_s = cache_s
        self._cache: OrderedDict[str, tuple[SessionSeal, float]] = OrderedDict()

    async def reading(self, session_id: str, stored: str | bytes | None) -> Seal | None:
        """See :meth:`Sealing.reading <sdqueue.sessions.sealing.seal.Sealing.reading>`."""
        if stored is None:
            return PLAIN
        if not is_sealed(stored):
            if not self._accept_plain:
                raise RecordSealed(
                    f"session {session_id!r} is not sealed, and this process takes only sealed ones; see who wrote it, "
                    "or set SDQUEUE_ENCRYPTION_ACCEPT_PLAIN=true where there are sessions of before"
                )
            return PLAIN
        with codec.naming(session_id):
            wanted = parse(stored).key_id
        seal = self._known(session_id)
        if seal is not None and seal.key_id == wanted:
            return seal
        found = await self._keys.get(session_id)
        entry = KeyEntry() if found is None else KeyEntry.load(session_id, found)
        if wanted in entry.erased:
            return None
        if entry.key_id != wanted:
            raise RecordSealed(
                f"session {session_id!r} is sealed with its key {wanted}, but the key store has "
                f"{entry.key_id or 'none for it'}; see whether SDQUEUE_KEYS_URL is that of where it was saved, or was "
                "restored from an older backup. Without the key the session is lost: `sdqueue keys erase` removes it"
            )
        return self._made(session_id, entry)

    async def writing(self, session_id: str, stored: Stored | None = None) -> Seal:
        """See :meth:`Sealing.writing <sdqueue.sessions.sealing.seal.Sealing.writing>`.

        What does not add to a saved record never takes the key from memory: it would be lost with a key that was
        erased a moment ago.
        """
        sealed_by = "" if stored is None else stored.sealed_by
        seal = self._known(session_id)
        if seal is not None and seal.key_id == sealed_by:
            return seal
        expected: bytes | None = None
        before = KeyEntry()
        while True:
            new, dumped = self._new(session_id, before.erased)
            found = await self._keys.swap(session_id, expected, dumped)
            if found == dumped:
                return self._made(session_id, new)
            entry = KeyEntry() if found is None else KeyEntry.load(session_id, found)
            if stored is not None and stored.sealed_by in entry.erased:
                raise VersionConflict(session_id, expected=stored.version, found=None)
            if entry.key_id:
                return self._made(session_id, entry)
            expected, before = found, entry

    async def aclose(self) -> None:
        """End the connections of the key store, and forget the keys. Idempotent."""
        self._cache.clear()
        await self._keys.aclose()

    def _new(self, session_id: str, erased: tuple[str, ...]) -> tuple[KeyEntry, bytes]:
        key_id = secrets.token_hex(8)
        entry = KeyEntry(key_id, *self._keyring.wrap(session_id, key_id, secrets.token_bytes(32)), erased)
        return entry, entry.dump()

    def _made(self, session_id: str, entry: KeyEntry) -> SessionSeal:
        seal = SessionSeal(session_id, entry.key_id, self._cipher(self._keyring.unwrap(session_id, entry)))
        self._cache[session_id] = seal, time.monotonic() + self._cache_s
        self._cache.move_to_end(session_id)
        while len(self._cache) > self._cached:
            self._cache.popitem(last=False)
        return seal

    def _known(self, session_id: str) -> SessionSeal | None:
        seal, until = self._cache.get(session_id, (None, 0.0))
        if seal is None or time.monotonic() > until:
            return None
        self._cache.move_to_end(session_id)
        return seal
