"""FileSessionKeys: the keys of sessions as files."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator

from sdqueue.errors import RecordCorrupt
from sdqueue.sessions.stores.session_folder import SessionFolder, write_whole


class FileSessionKeys:
    """Keeps the key of each session in a small file of its own, for several processes of one machine.

    Erasing replaces the file. What the disk or the file system keeps of replaced files, as in snapshots, is out of its
    reach; it is of use only to somebody who has the master key.

    Parameters:
        directory: where the files are, made when it is needed; on a local file system.
        timeout_s: how long a file lock is waited for.
    """

    def __init__(self, directory: str | os.PathLike[str], *, timeout_s: float = 10.0) -> None:
        self._files = SessionFolder(directory, timeout_s=timeout_s)

    async def get(self, session_id: str) -> bytes | None:
        """See :meth:`SessionKeys.get <sdqueue.sessions.sealing.keys.SessionKeys.get>`."""
        return await asyncio.to_thread(self._get, session_id)

    async def swap(self, session_id: str, expected: bytes | None, entry: bytes) -> bytes | None:
        """See :meth:`SessionKeys.swap <sdqueue.sessions.sealing.keys.SessionKeys.swap>`."""
        return await asyncio.to_thread(self._swap, session_id, expected, entry)

    async def sessions(self) -> AsyncIterator[str]:
        """See :meth:`SessionKeys.sessions <sdqueue.sessions.sealing.keys.SessionKeys.sessions>`."""
        for session_id in await asyncio.to_thread(self._sessions):
            yield session_id

    async def aclose(self) -> None:
        """Nothing to end."""

    # A file is the session's id as one line of JSON, as file names cannot hold every id, and then the entry.

    def _get(self, session_id: str) -> bytes | None:
        with self._files.trouble():
            try:
                content = self._files.path(session_id, "key").read_bytes()
            except FileNotFoundError:
                return None
            return content.partition(b"\n")[2]

    def _swap(self, session_id: str, expected: bytes | None, entry: bytes) -> bytes | None:
        with self._files.trouble(), self._files.alone(session_id):
            found = self._get(session_id)
            if found != expected:
                return found
            content = json.dumps(session_id).encode() + b"\n" + entry
            write_whole(self._files.path(session_id, "key"), content, durable=True)
            return entry

    def _sessions(self) -> list[str]:
        found: list[str] = []
        with self._files.trouble():
            if not self._files.directory.exists():
                return found
            for path in sorted(self._files.directory.glob("*.key")):
                line = path.read_bytes().partition(b"\n")[0]
                try:
                    session_id = json.loads(line)
                except ValueError:
                    session_id = None
                if not isinstance(session_id, str):
                    raise RecordCorrupt(f"{path} is damaged: it names no session; restore it from a backup")
                found.append(session_id)
        return found
