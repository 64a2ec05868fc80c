"""The journal: what the agents saw, an append-only file for each process.

Each event is one ``write`` to a file opened for appending, so that a process that is killed in the middle leaves whole
lines, and what was written before the kill is there.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final

from tests.chaos.evidence import Run

FOLDER: Final = "CHAOS_JOURNAL"
"""The environment variable that tells agents where to write."""


class Journal:
    """The file of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid = 0
        self._file = -1

    def write(self, event: str, **fields: Any) -> None:
        """Append an event with the time."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            path = self._folder / f"{self._pid}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        line = {"event": event, "pid": self._pid, "mono": time.monotonic(), "wall": time.time(), **fields}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def first_time(self, name: str) -> bool:
        """Whether nobody has asked this before, in any process."""
        try:
            os.close(os.open(self._folder / f"{name}.once", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def events(folder: Path) -> list[dict[str, Any]]:
    """What all processes have written, by time. A line that is being written is left out."""
    found: list[dict[str, Any]] = []
    for path in folder.glob("*.jsonl"):
        lines = path.read_bytes().split(b"\n")
        found += [json.loads(line) for line in lines[:-1]]
    return sorted(found, key=lambda event: event["mono"])


def runs(folder: Path) -> tuple[Run, ...]:
    """The runs that the journals tell of."""
    written = events(folder)
    ends = {event["run"]: event["mono"] for event in written if event["event"] == "end"}
    return tuple(
        Run(e["run"], e["mark"], e["session"], e["mono"], ends.get(e["run"]), e["heard"], tuple(e["seen"]))
        for e in written
        if e["event"] == "begin"
    )
