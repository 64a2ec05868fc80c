"""The tests on another Python, that of another release of Debian: ``python -m tests.servers.pythons``.

All tests that need no server and no browser run there, and those of superdialog's agents and sessions with the servers
of that release, on the newest superdialog that its Python can install and on the lowest that is supported. It prints
what ran on what, or that it did not run, and why; a release that cannot be had is no failure.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests import schedule
from tests.servers.debian import Debian
from tests.servers.install import install_release
from tests.servers.kinds import packages
from tests.servers.pip import pip_settings
from tests.servers.process import Unavailable

ROOT: Final = Path(__file__).parents[2]

PACKAGES: Final = ("python3-venv", "ca-certificates", "git", "make", "kubectl")
SUPERDIALOG: Final = ("tests/agents/superdialog", "tests/superdialog_sessions")
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def main() -> int:
    """Run it, print the table, and return the exit code: 0 where nothing that ran has failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.pythons")
    parser.add_argument("suite", nargs="?", default="trixie", help="the release of Debian, by default trixie")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest for the tests that need no server, after --")
    given = parser.parse_args()
    system = Debian(given.suite, os.environ)
    lines: list[str] = []
    try:
        for line in _runs(Python(system), given.pytest):
            lines.append(line)  # one by one: what has run is told, also where the next cannot
    except Unavailable as why:
        lines.append(f"{system.name}: NOT RUN: {why}")
    print("\n== What ran on what\n" + "\n".join(lines), flush=True)
    return int(any("FAILED" in line for line in lines))


def _runs(python: Python, arguments: list[str]) -> Iterator[str]:
    alone = "not rabbitmq and not redis and not browser and not engine"
    yield python.test("all that need no server", "-m", alone, *arguments)
    yield python.test("superdialog's agents and sessions", *SUPERDIALOG)
    lowest = _lowest_superdialog()
    if python.version("superdialog") != lowest:
        python.pip("install", f"superdialog=={lowest}")
        yield python.test("superdialog's agents and sessions", *SUPERDIALOG)


def _lowest_superdialog() -> str:
    """The lowest release that the package's extra allows."""
    (wanted,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["superdialog"]
    found = re.search(r">=([\d.]+)", wanted)
    assert found, f"{wanted!r} has no lowest release"
    return found[1]


class Python:
    """The Python of a release of Debian, with this package and all that its tests need.

    Parameters:
        system: the release; installed where it is not there.

    Raises:
        Unavailable: it cannot be had.
    """

    def __init__(self, system: Debian) -> None:
        self._system = system
        _install(system)
        wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()).hexdigest()[:16]
        self._venv = Path("/var/lib/sdqueue-tests") / wanted
        if not system.has(self._venv / "whole"):
            print(f"Making {self._venv} in {system.name}.", flush=True)
            self._call("python3", "-m", "venv", "--clear", str(self._venv))
            self.pip("install", "--editable", f"{ROOT}[dev]")
            (system.root / (self._venv / "whole").relative_to("/")).touch()
        self.pip("install", "--upgrade", "superdialog")
        self.name = self._call(str(self._venv / "bin" / "python"), "--version").strip()

    def version(self, package: str) -> str:
        """The release of an installed package."""
        ask = f"from importlib.metadata import version; print(version({package!r}))"
        return self._call(str(self._venv / "bin" / "python"), "-c", ask).strip()

    def pip(self, *arguments: str) -> None:
        """Run pip.

        Raises:
            Unavailable: it failed.
        """
        self._call(str(self._venv / "bin" / "python"), "-m", "pip", "--quiet", *arguments)

    def test(self, what: str, *arguments: str) -> str:
        """Run pytest, showing what it prints; returns what came of it in a line."""
        on = f"{self.name}, superdialog {self.version('superdialog')}"
        print(f"\n== {on}: {what}", flush=True)
        started = time.monotonic()
        command = (self._venv / "bin" / "python", "-m", "pytest", "-q", *schedule.ARGUMENTS, *arguments)
        process = subprocess.Popen(
            self._system.command(command, ROOT), env=_environment(), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        result = "ended without a result"
        for line in process.stdout:
            print(line, end="", flush=True)
            if re.search(r"\d+ (passed|failed|error).* in [\d.]+s", line):
                result = line.strip("= \n")
        bad = "FAILED: " if process.wait() else ""
        return f"{on}, {what}: {bad}{result}, {time.monotonic() - started:.0f} s"

    def _call(self, *command: str) -> str:
        result = subprocess.run(
            self._system.command(command, ROOT), env=_environment(), stdin=subprocess.DEVNULL, capture_output=True,
            text=True,
        )  # fmt: skip
        if result.returncode:
            said = "\n".join((result.stdout + result.stderr).splitlines()[-15:])
            raise Unavailable(f"{' '.join(command)} ended with {result.returncode}:\n{said}")
        return result.stdout


def _install(system: Debian) -> None:
    """See that the release is there, with a Python that can make environments."""
    install_release(system, [*packages(system.suite), *PACKAGES])
    for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(name).exists():  # the machine's own, since it may know authorities that Debian does not
            inside = system.root / name.removeprefix("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.unlink(missing_ok=True)
            shutil.copyfile(name, inside)


def _environment() -> Mapping[str, str]:
    """The machine's, with the index that its pip uses, and without what names folders that are not in the release."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON", "SDQUEUE_", "VIRTUAL_ENV"))}
    for name, value in pip_settings().items():
        kept[f"PIP_{name.replace('-', '_').upper()}"] = value
    return {**kept, "PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


if __name__ == "__main__":
    sys.exit(main())
