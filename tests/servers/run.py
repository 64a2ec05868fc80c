"""The servers of one test run, shared by all its processes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Final, Self

from tests.servers.keeper import held
from tests.servers.kinds import KINDS, Kind
from tests.servers.provide import NoServer, Server, find_private_source

END_TIMEOUT_S: Final = 20.0


class Run:
    """A folder in which each server's keeper writes down how to reach it.

    Parameters:
        folder: the folder that :meth:`begin` made; workers get it from the process that began the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: dict[str, Server] = {}
        """What this process has got, by marker."""
        self._lock: IO[str] | None = None

    @classmethod
    def begin(cls) -> Self:
        """Begin a run, which lasts until :meth:`end` or the death of this process."""
        run = cls(Path(tempfile.mkdtemp(prefix="sdqueue-tests-")))
        run._lock = (run.folder / "run.lock").open("w")
        fcntl.flock(run._lock, fcntl.LOCK_EX)
        return run

    def get(self, kind: Kind) -> Server:
        """The server, started by whoever asks first.

        Raises:
            NoServer: there is none; the message says what was tried.
        """
        state = self.folder / f"{kind.marker}.json"
        log = self.folder / f"{kind.marker}.log"
        with (self.folder / f"{kind.marker}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not state.exists():
                with log.open("ab") as out:
                    subprocess.run(
                        [sys.executable, "-m", "tests.servers.keeper", kind.marker, str(self.folder)],
                        cwd=Path(__file__).parents[2], stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True,
                    )  # fmt: skip
        if not state.exists():
            raise NoServer(f"no {kind.name}: its keeper ended:\n{log.read_text(errors='replace')}")
        about = json.loads(state.read_text())
        if "missing" in about:
            raise NoServer(about["missing"])
        self.used[kind.marker] = Server(**about)
        return self.used[kind.marker]

    def private_source(self, kind: Kind) -> str:
        """Where private servers come from: looked for once a run, since an engine may take its time over an image.

        Raises:
            NoServer: from nowhere; the message says what was tried.
        """
        found = self.folder / f"{kind.marker}.source"
        with (self.folder / f"{kind.marker}.source-lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not found.exists():
                try:
                    about = {"source": find_private_source(kind, os.environ)}
                except (NoServer, ValueError) as error:
                    about = {"missing": f"{error}"}
                found.write_text(json.dumps(about))
        about = json.loads(found.read_text())
        if "missing" in about:
            raise NoServer(about["missing"])
        return str(about["source"])

    def private_sources(self) -> dict[str, str]:
        """Where private servers came from so far, by marker."""
        found = {marker: self.folder / f"{marker}.source" for marker in KINDS}
        about = {marker: json.loads(path.read_text()) for marker, path in found.items() if path.exists()}
        return {marker: said["source"] for marker, said in about.items() if "source" in said}

    def servers(self) -> list[Server]:
        """Those that were got so far."""
        states = (self.folder / f"{marker}.json" for marker in KINDS)
        found = (json.loads(state.read_text()) for state in states if state.exists())
        return [Server(**about) for about in found if "missing" not in about]

    def end(self) -> None:
        """Stop the servers and remove the folder; only the process that began the run does it."""
        keepers = list(self.folder.glob("*.keeper"))
        for keeper in keepers:
            if held(keeper):
                os.kill(int(keeper.read_text()), signal.SIGTERM)
        deadline = time.monotonic() + END_TIMEOUT_S
        for keeper in keepers:
            while held(keeper):
                if time.monotonic() > deadline:
                    os.kill(int(keeper.read_text()), signal.SIGKILL)  # its server dies with it
                time.sleep(0.02)
        if self._lock is not None:
            self._lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)
