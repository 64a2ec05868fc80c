"""FileInstallations: the tokens of several workspaces in one file, for the processes of one machine."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sdqueue.errors import StoreUnavailable
from sdqueue_producers.slack.installations.installation import Installation


class FileInstallations:
    """A JSON object by installation id, readable by its owner alone and replaced as a whole.

    Parameters:
        path: of the file; made with the first installation, beside a ``.lock``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def find(self, install: str) -> Installation | None:
        """See :class:`Installations`."""
        return (await asyncio.to_thread(self._read)).get(install)

    async def save(self, installation: Installation) -> None:
        """See :class:`Installations`."""
        await asyncio.to_thread(self._save, installation)

    async def delete(self, install: str, *, until: float) -> bool:
        """See :class:`Installations`."""
        return await asyncio.to_thread(self._delete, install, until)

    def _save(self, installation: Installation) -> None:
        with self._alone():
            self._write(self._read() | {installation.id: installation})

    def _delete(self, install: str, until: float) -> bool:
        with self._alone():
            known = self._read()
            found = known.pop(install, None)
            if found is None or found.installed_at > until:
                return False
            self._write(known)
            return True

    def _read(self) -> dict[str, Installation]:
        try:
            text = self._path.read_text("utf-8")
            return {one: Installation.from_json(json.dumps(fields)) for one, fields in json.loads(text).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            # Without the error's own text, which may show a part of the file.
            raise StoreUnavailable(
                f"{self._path}: the installations cannot be read ({type(error).__name__}); it must be a file that "
                "was written here, readable by this user"
            ) from None

    def _write(self, known: dict[str, Installation]) -> None:
        text = json.dumps({one: json.loads(installation.to_json()) for one, installation in known.items()}, indent=1)
        try:
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # is made 0600
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self._path)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
            self._sync_folder()
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: the installations cannot be written: {error}") from None

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Between reading and writing, no other process writes."""
        try:
            handle = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: its folder cannot be written: {error}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
