"""FileBacklog: the backlogs of sessions as files."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sdqueue.errors import RecordCorrupt
from sdqueue.sessions.locks.file import safe_name
from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.sealing.seal import Seal, Sealing
from sdqueue.sessions.stores.backlog import REFUSALS, Deferred, Kept, Standing
from sdqueue.sessions.stores.sealed_turns import open_refusal, open_turns, seal_refusal, seal_turns
from sdqueue.sessions.stores.session_folder import SessionFolder, sync, write_whole
from sdqueue.sessions.stores.turn_folder import Entry, TurnFolder

_NEWEST: Final = "newest"
"""The file that remembers the position given last, where the turn that had it is gone."""


class FileBacklog:
    """The part of :class:`~sdqueue.FileSessionStore` that is a :class:`~sdqueue.TurnBacklog`.

    A turn is a file in the folder ``….backlog`` of its session: its id as one line of JSON, then its message. Refused
    ones are in ``….refused``, and the folder ``backlogged`` has a file for each session that is listed. A crash
    in the middle of an append leaves the first of its turns; the repeat appends the others.
    """

    _files: SessionFolder
    _sealing: Sealing

    async def defer(self, session_id: str, turns: Sequence[Deferred], *, limit: int) -> list[Kept]:
        """See :meth:`TurnBacklog.defer <sdqueue.sessions.stores.backlog.TurnBacklog.defer>`."""
        sealed = await seal_turns(self._sealing, session_id, turns)
        return await asyncio.to_thread(self._defer, session_id, sealed, limit)

    async def deferred(self, session_id: str, *, after: int = 0, count: int) -> list[Deferred]:
        """See :meth:`TurnBacklog.deferred <sdqueue.sessions.stores.backlog.TurnBacklog.deferred>`."""
        while True:
            turns = await asyncio.to_thread(self._deferred, session_id, after, count)
            opened, erased = await open_turns(self._sealing, session_id, turns)
            if not erased:
                return opened
            await self.undefer(session_id, erased)

    async def undefer(self, session_id: str, turn_ids: Sequence[str]) -> None:
        """See :meth:`TurnBacklog.undefer <sdqueue.sessions.stores.backlog.TurnBacklog.undefer>`."""
        await asyncio.to_thread(self._undefer, session_id, list(turn_ids))

    async def standing(self, session_id: str, turn_id: str) -> Standing:
        """See :meth:`TurnBacklog.standing <sdqueue.sessions.stores.backlog.TurnBacklog.standing>`."""
        waiting, refused = await asyncio.to_thread(self._standing, session_id, turn_id)
        return Standing(waiting, await open_refusal(self._sealing, session_id, turn_id, refused))

    async def refuse(self, session_id: str, outcome: TurnOutcome, *, retention: Retention) -> TurnOutcome | None:
        """See :meth:`TurnBacklog.refuse <sdqueue.sessions.stores.backlog.TurnBacklog.refuse>`."""
        text = await seal_refusal(self._sealing, session_id, outcome)
        seal = await self._sealing.writing(session_id)
        horizon = outcome.at - retention.ids_s
        kept = await asyncio.to_thread(self._refuse, session_id, outcome, text.encode(), horizon, seal)
        if kept is None:
            return None
        return await open_refusal(self._sealing, session_id, outcome.turn_id, kept) or outcome

    async def backlogged(self) -> dict[str, str]:
        """See :meth:`TurnBacklog.backlogged <sdqueue.sessions.stores.backlog.TurnBacklog.backlogged>`."""
        return await asyncio.to_thread(self._backlogged)

    async def enlist(self, session_id: str) -> None:
        """See :meth:`TurnBacklog.enlist <sdqueue.sessions.stores.backlog.TurnBacklog.enlist>`."""
        await asyncio.to_thread(self._enlist, session_id)

    async def unlist(self, session_id: str, mark: str) -> None:
        """See :meth:`TurnBacklog.unlist <sdqueue.sessions.stores.backlog.TurnBacklog.unlist>`."""
        await asyncio.to_thread(self._unlist, session_id, mark)

    def _has_ended(self, session_id: str, turn_id: str, seal: Seal) -> bool:
        """Whether the session's record knows how this turn ended."""
        raise NotImplementedError

    def _has_begun(self, session_id: str, turn_id: str) -> bool:
        """Whether this turn was begun without an end."""
        raise NotImplementedError

    def _forget_backlog(self, session_id: str) -> None:
        self._turns(session_id).clear()
        self._refusals(session_id).clear()
        self._listing(session_id).unlink(missing_ok=True)

    def _defer(self, session_id: str, turns: list[Deferred], limit: int) -> list[Kept]:
        with self._files.trouble(), self._files.alone(session_id):
            folder = self._turns(session_id)
            entries = list(folder.entries())
            waiting = {entry.turn for entry in entries}
            refused = {entry.turn for entry in self._refusals(session_id).entries()}
            place = max([time.time_ns() // 1000, _newest(folder), *(entry.number for entry in entries[-1:])])
            kept: list[Kept] = []
            new: list[tuple[Entry, bytes]] = []
            for turn in turns:
                entry = Entry.of(place + len(new) + 1, turn.turn_id)
                if entry.turn in waiting:
                    kept.append(Kept.THERE)
                elif entry.turn not in refused and len(waiting) < limit:
                    waiting.add(entry.turn)
                    new.append((entry, json.dumps(turn.turn_id).encode() + b"\n" + turn.body))
                    kept.append(Kept.ADDED)
                else:
                    kept.append(Kept.LEFT_OUT)
            if new:
                folder.add(new)
                write_whole(folder.path / _NEWEST, b"%d" % new[-1][0].number, durable=False)
            if any(kept):
                self._list(session_id)
            return kept

    def _deferred(self, session_id: str, after: int, count: int) -> list[Deferred]:
        folder = self._turns(session_id)
        with self._files.trouble():
            if not folder.path.exists():
                return []
        with self._files.trouble(), self._files.alone(session_id):  # not in the middle of an append
            entries = [entry for entry in folder.entries() if entry.number > after]
            contents = [(entry, folder.read(entry)) for entry in entries[:count]]
        return [_turn(session_id, entry, content) for entry, content in contents if content is not None]

    def _undefer(self, session_id: str, turn_ids: list[str]) -> None:
        with self._files.trouble(), self._files.alone(session_id):
            folder, names = self._turns(session_id), set(map(safe_name, turn_ids))
            folder.remove(entry for entry in folder.entries() if entry.turn in names)

    def _standing(self, session_id: str, turn_id: str) -> tuple[int, bytes | None]:
        with self._files.trouble():
            return self._turns(session_id).count(), self._refusal(session_id, turn_id)

    def _refuse(self, session_id: str, outcome: TurnOutcome, text: bytes, horizon: float, seal: Seal) -> bytes | None:
        with self._files.trouble(), self._files.alone(session_id):
            turn_id = outcome.turn_id
            if self._turns(session_id).find(turn_id) or self._has_ended(session_id, turn_id, seal):
                return None
            first = self._refusal(session_id, turn_id)
            if first is not None:
                return first
            if self._has_begun(session_id, turn_id):
                return None
            folder = self._refusals(session_id)
            folder.add([(Entry.of(_microseconds(outcome.at), turn_id), text)])
            excess, oldest = folder.count() - REFUSALS, _microseconds(horizon)
            old = itertools.takewhile(
                lambda each: each[0] < excess or each[1].number < oldest, enumerate(folder.entries())
            )
            folder.remove(entry for _, entry in old)
            return text

    def _refusal(self, session_id: str, turn_id: str) -> bytes | None:
        folder = self._refusals(session_id)
        entry = folder.find(turn_id)
        return None if entry is None else folder.read(entry)

    def _backlogged(self) -> dict[str, str]:
        found: dict[str, str] = {}
        with self._files.trouble():
            try:
                paths = [path for path in self._listings.iterdir() if path.suffix != ".tmp"]
            except FileNotFoundError:
                return found
            for path in paths:
                listing = _read_listing(path)
                if listing is not None:
                    found |= dict([listing])
        return found

    def _enlist(self, session_id: str) -> None:
        with self._files.trouble(), self._files.alone(session_id):
            self._list(session_id)

    def _list(self, session_id: str) -> None:
        if not self._listings.exists():
            self._listings.mkdir(exist_ok=True)
            sync(self._listings.parent)
        write_whole(self._listing(session_id), json.dumps([session_id, secrets.token_hex(8)]).encode(), durable=True)

    def _unlist(self, session_id: str, mark: str) -> None:
        with self._files.trouble(), self._files.alone(session_id):
            path = self._listing(session_id)
            if _read_listing(path) == (session_id, mark):
                path.unlink()

    @property
    def _listings(self) -> Path:
        return self._files.directory / "backlogged"

    def _listing(self, session_id: str) -> Path:
        return self._listings / safe_name(session_id)

    def _turns(self, session_id: str) -> TurnFolder:
        return TurnFolder(self._files.path(session_id, "backlog"))

    def _refusals(self, session_id: str) -> TurnFolder:
        return TurnFolder(self._files.path(session_id, "refused"))


def _newest(folder: TurnFolder) -> int:
    try:
        return int((folder.path / _NEWEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return 0  # then the clock alone says what comes next


def _turn(session_id: str, entry: Entry, content: bytes) -> Deferred:
    line, _, body = content.partition(b"\n")
    try:
        turn_id = json.loads(line)
    except ValueError:
        turn_id = None
    if not isinstance(turn_id, str) or safe_name(turn_id) != entry.turn:
        raise RecordCorrupt(f"session {session_id!r}: the turn {entry} of its backlog is damaged")
    return Deferred(turn_id, body, entry.number)


def _read_listing(path: Path) -> tuple[str, str] | None:
    try:
        listing = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        listing = None
    if not (isinstance(listing, list) and len(listing) == 2 and all(isinstance(part, str) for part in listing)):
        raise RecordCorrupt(f"{path} is damaged: it names no session; remove it, and send that session another turn")
    return listing[0], listing[1]


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
