"""FileSessionStore: one file a session."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from dataclasses import replace

from sdqueue.errors import RecordCorrupt, VersionConflict
from sdqueue.sessions import codec
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.sealing.seal import PLAIN, UNSEALED, Seal, Sealing, is_sealed
from sdqueue.sessions.stores.file_backlog import FileBacklog
from sdqueue.sessions.stores.foreign import ForeignSaves
from sdqueue.sessions.stores.session_folder import SessionFolder, sync, write_whole
from sdqueue.sessions.stores.store import STARTED


class FileSessionStore(FileBacklog):
    """Keeps each session as one JSON file that a person can read, for several processes of one machine.

    A save writes a temporary file, syncs it to the disk and renames it, so a reader finds the old record or
    the new one and never half of one. Comparing the revision and renaming happen under a ``flock``, so of two
    processes one gets :class:`~sdqueue.errors.VersionConflict`. A save that is cancelled may still be
    finished by its thread.

    A save writes the whole record, and every use reads it: nothing about a file says surely and without reading it
    that it is still the one known. For long conversations take ``SQLiteSessionStore``. The directory must be on a
    local file system.

    Parameters:
        directory: where the files are, made when it is needed.
        timeout_s: how long a session's file lock is waited for; it is held for milliseconds, so in practice
            somebody who waits longer waits for a process that was stopped.
        sealer: encrypts what is kept, so that a person cannot read it; a :class:`~sdqueue.Sealer` of the store's own.
            Default: nothing is encrypted.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, timeout_s: float = 10.0, sealer: Sealing | None = None
    ) -> None:
        self._sealing = UNSEALED if sealer is None else sealer
        self._files = SessionFolder(directory, timeout_s=timeout_s)
        self._foreign = ForeignSaves()

    async def load(self, session_id: str) -> SessionRecord | None:
        """See :meth:`SessionStore.load <sdqueue.sessions.stores.store.SessionStore.load>`."""
        return self._foreign.loaded(session_id, await self._record(session_id))

    async def _record(self, session_id: str) -> SessionRecord | None:
        content = await asyncio.to_thread(self._read, session_id)
        if content is None:
            return None
        seal = await self._sealing.reading(session_id, content.partition(b"\n")[0])
        if seal is None:
            await asyncio.to_thread(self._discard, session_id, content)
            return None
        record = await asyncio.to_thread(_decode, session_id, content, seal)
        record.stored = replace(record.stored, sealed_by=seal.key_id)
        return record

    async def save(self, session_id: str, record: SessionRecord) -> None:
        """See :meth:`SessionStore.save <sdqueue.sessions.stores.store.SessionStore.save>`."""
        if not isinstance(record, SessionRecord):
            await self._foreign.save(session_id, record, read=self._record, save=self.save)
            return
        expected, saved = record.stored, record.successor()
        ended = [outcome.turn_id for outcome in record.turns.fresh]
        seal = await self._sealing.writing(session_id, expected)
        with codec.naming(session_id):
            content = _encode(saved, seal)
        await asyncio.to_thread(self._save, session_id, expected, content, ended)
        record.mark_stored(replace(saved.stored, sealed_by=seal.key_id), fresh=len(ended))

    async def delete(self, session_id: str) -> None:
        """Forget the session; nothing happens where there is none.

        Raises:
            StoreUnavailable: the directory cannot be used.
        """
        await asyncio.to_thread(self._delete, session_id)

    async def begin(self, session_id: str, turn_id: str) -> int:
        """Count a beginning of this turn. Returns how many there were.

        Raises:
            StoreUnavailable: the directory cannot be used.
        """
        return await asyncio.to_thread(self._count, session_id, turn_id, 1)

    async def rewind(self, session_id: str, turn_id: str) -> None:
        """Take one beginning back.

        Raises:
            StoreUnavailable: the directory cannot be used.
        """
        await asyncio.to_thread(self._count, session_id, turn_id, -1)

    async def rewind_started(self, session_id: str, turn_id: str) -> None:
        """Take one beginning back whose agent had started.

        Raises:
            StoreUnavailable: the directory cannot be used.
        """
        await asyncio.to_thread(self._count, session_id, turn_id, STARTED - 1)

    async def aclose(self) -> None:
        """End what the sealer has open; the store itself has nothing to close."""
        await self._sealing.aclose()

    def _read(self, session_id: str) -> bytes | None:
        with self._files.trouble():
            try:
                return self._files.path(session_id, "json").read_bytes()
            except FileNotFoundError:
                return None

    def _save(self, session_id: str, expected: Stored, content: bytes, ended: list[str]) -> None:
        with self._files.trouble(), self._files.alone(session_id):
            found = self._read(session_id)
            revision = Stored().revision if found is None else _revision(session_id, found)
            if revision != expected.revision:
                version = int(revision.partition(":")[0])
                raise VersionConflict(session_id, expected=expected.version, found=version or None)
            write_whole(self._files.path(session_id, "json"), content, durable=True)
            self._forget_begun(session_id, ended)

    def _discard(self, session_id: str, content: bytes) -> None:
        """Remove a record that can never be read again, where it still is what was read."""
        with self._files.trouble(), self._files.alone(session_id):
            if self._read(session_id) == content:
                self._files.path(session_id, "json").unlink()
                sync(self._files.directory)

    def _delete(self, session_id: str) -> None:
        with self._files.trouble(), self._files.alone(session_id):
            self._files.path(session_id, "begun").unlink(missing_ok=True)
            self._files.path(session_id, "json").unlink(missing_ok=True)
            self._forget_backlog(session_id)
            sync(self._files.directory)

    def _count(self, session_id: str, turn_id: str, step: int) -> int:
        with self._files.trouble(), self._files.alone(session_id):
            begun = self._load_begun(session_id)
            count = begun.get(turn_id, 0)
            if step == 1 or count % STARTED:
                begun[turn_id] = count = count + step
                self._save_begun(session_id, begun)
            return count

    def _forget_begun(self, session_id: str, ended: Iterable[str]) -> None:
        begun = self._load_begun(session_id)
        left = {turn_id: count for turn_id, count in begun.items() if turn_id not in set(ended)}
        if left != begun:
            self._save_begun(session_id, left)

    def _has_ended(self, session_id: str, turn_id: str, seal: Seal) -> bool:
        content = self._read(session_id)
        if content is None:
            return False
        record = _decode(session_id, content, seal if is_sealed(content) else PLAIN)
        return record.turns.get(turn_id) is not None

    def _has_begun(self, session_id: str, turn_id: str) -> bool:
        return turn_id in self._load_begun(session_id)

    def _load_begun(self, session_id: str) -> dict[str, int]:
        try:
            begun = json.loads(self._files.path(session_id, "begun").read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RecordCorrupt(f"session {session_id!r}: its beginnings are damaged: {error}") from error
        if not isinstance(begun, dict) or not all(type(count) is int for count in begun.values()):
            raise RecordCorrupt(f"session {session_id!r}: its beginnings are damaged")
        return begun

    def _save_begun(self, session_id: str, begun: dict[str, int]) -> None:
        path = self._files.path(session_id, "begun")
        left = {turn_id: count for turn_id, count in begun.items() if count > 0}
        if left:
            # The page cache survives the death of the process, which is what is counted here: no sync.
            write_whole(path, json.dumps(left).encode(), durable=False)
        else:
            path.unlink(missing_ok=True)


def _encode(record: SessionRecord, seal: Seal) -> bytes:
    """A file. One that is sealed has its revision in a second line, as saves are compared without the session's key."""
    text = codec.encode(record)
    if not seal.key_id:
        return text.encode()
    revision = record.stored.revision
    return f"{seal.seal('record', text, revision)}\n{json.dumps(revision)}\n".encode()


def _decode(session_id: str, content: bytes, seal: Seal) -> SessionRecord:
    with codec.naming(session_id):
        if not seal.key_id:
            return codec.decode(content)
        return codec.decode(seal.open("record", content.partition(b"\n")[0], _revision(session_id, content)))


def _revision(session_id: str, content: bytes) -> str:
    """The revision of a file; a damaged one must not be overwritten unseen, so a plain one is read as a whole."""
    if not is_sealed(content):
        return _decode(session_id, content, PLAIN).stored.revision
    try:
        revision = json.loads(content.partition(b"\n")[2])
        int(revision.partition(":")[0])
    except (ValueError, AttributeError) as error:
        raise RecordCorrupt(
            f"session {session_id!r}: its file is damaged: it has no revision; restore it from a backup, or delete it"
        ) from error
    else:
        assert isinstance(revision, str)
        return revision
