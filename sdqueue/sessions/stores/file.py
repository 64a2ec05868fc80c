"""FileSessionStore: one file a session."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable

from sdqueue.errors import RecordCorrupt, VersionConflict
from sdqueue.sessions import codec
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.stores.file_backlog import FileBacklog
from sdqueue.sessions.stores.foreign import ForeignSaves
from sdqueue.sessions.stores.session_folder import SessionFolder, sync, write_whole


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
    """

    def __init__(self, directory: str | os.PathLike[str], *, timeout_s: float = 10.0) -> None:
        self._files = SessionFolder(directory, timeout_s=timeout_s)
        self._foreign = ForeignSaves()

    async def load(self, session_id: str) -> SessionRecord | None:
        """See :meth:`SessionStore.load <sdqueue.sessions.stores.store.SessionStore.load>`."""
        return self._foreign.loaded(session_id, await self._read(session_id))

    async def _read(self, session_id: str) -> SessionRecord | None:
        return await asyncio.to_thread(self._load, session_id)

    async def save(self, session_id: str, record: SessionRecord) -> None:
        """See :meth:`SessionStore.save <sdqueue.sessions.stores.store.SessionStore.save>`."""
        if not isinstance(record, SessionRecord):
            await self._foreign.save(session_id, record, read=self._read, save=self.save)
            return
        expected, saved = record.stored, record.successor()
        ended = [outcome.turn_id for outcome in record.turns.fresh]
        with codec.naming(session_id):
            text = codec.encode(saved)
        await asyncio.to_thread(self._save, session_id, expected, text, ended)
        record.mark_stored(saved.stored, fresh=len(ended))

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

    async def aclose(self) -> None:
        """Nothing to close; for the symmetry with other stores."""

    def _load(self, session_id: str) -> SessionRecord | None:
        with self._files.trouble(), codec.naming(session_id):
            try:
                text = self._files.path(session_id, "json").read_bytes()
            except FileNotFoundError:
                return None
            return codec.decode(text)

    def _save(self, session_id: str, expected: Stored, text: str, ended: list[str]) -> None:
        with self._files.trouble(), self._files.alone(session_id):
            # Only the revision is needed, but a damaged file must not be overwritten unseen: it is read as a
            # whole.
            record = self._load(session_id)
            found = Stored() if record is None else record.stored
            if found.revision != expected.revision:
                raise VersionConflict(session_id, expected=expected.version, found=found.version or None)
            write_whole(self._files.path(session_id, "json"), text.encode(), durable=True)
            self._forget_begun(session_id, ended)

    def _delete(self, session_id: str) -> None:
        with self._files.trouble(), self._files.alone(session_id):
            self._files.path(session_id, "begun").unlink(missing_ok=True)
            self._files.path(session_id, "json").unlink(missing_ok=True)
            self._forget_backlog(session_id)
            sync(self._files.directory)

    def _count(self, session_id: str, turn_id: str, step: int) -> int:
        with self._files.trouble(), self._files.alone(session_id):
            begun = self._load_begun(session_id)
            begun[turn_id] = begun.get(turn_id, 0) + step
            self._save_begun(session_id, begun)
            return begun[turn_id]

    def _forget_begun(self, session_id: str, ended: Iterable[str]) -> None:
        begun = self._load_begun(session_id)
        left = {turn_id: count for turn_id, count in begun.items() if turn_id not in set(ended)}
        if left != begun:
            self._save_begun(session_id, left)

    def _has_ended(self, session_id: str, turn_id: str) -> bool:
        record = self._load(session_id)
        return record is not None and record.turns.get(turn_id) is not None

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
