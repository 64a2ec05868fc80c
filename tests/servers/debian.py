"""Another release of Debian in a folder, so that the tests can run on servers that this machine does not have.

``debootstrap`` fills the folder, as root. A program of it runs in a mount namespace of its own, in which the folder is
the root of the file system, so what is mounted there is gone with the program. It has the machine's network,
processes and the folder that it works in.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from tests.servers.process import Unavailable
from tests.servers.system import MACHINE, System

CACHE_VARIABLE: Final = "SDQUEUE_TEST_CACHE"
DEFAULT_MIRROR: Final = "http://deb.debian.org/debian"

NAMESPACE: Final = ("unshare", "--mount", "--propagation", "private")

# $1 the release's folder, $2 the first step of the path of $3, where the program works; then the program.
# The shell becomes the program, so no process stands between it and whoever started it.
_ENTER: Final = """
root=$1 top=$2 folder=$3; shift 3
mount --bind "$root" "$root"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir -p "$root$top"
mount --rbind "$top" "$root$top"
cd "$root"
pivot_root . .
umount --lazy .
cd "$folder"
exec "$@"
"""

# $1 the suite, $2 the folder, $3 the mirror; then the packages.
_BOOTSTRAP: Final = """
suite=$1 root=$2 mirror=$3; shift 3
debootstrap --variant=minbase "$suite" "$root" "$mirror"
printf '#!/bin/sh\\nexit 101\\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
chroot "$root" apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@"
chroot "$root" apt-get clean
"""

# $1 the folder; then the packages.
_ADD: Final = """
root=$1; shift
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
chroot "$root" apt-get update -qq
chroot "$root" apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@"
chroot "$root" apt-get clean
"""


class Debian(System):
    """A release of Debian in a folder of the cache.

    Parameters:
        suite: its name, such as ``trixie``.
        environ: ``SDQUEUE_TEST_CACHE`` names the cache; by default it is ``sdqueue-tests`` in the user's.
        folder: its name in the cache, where there is to be another one of the release.
    """

    def __init__(self, suite: str, environ: Mapping[str, str], folder: str = "") -> None:
        self.suite = suite
        self.name = f"Debian {suite}"
        self.place = f"{self.name} here"
        users = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.root = Path(environ.get(CACHE_VARIABLE) or users / "sdqueue-tests").resolve() / (folder or suite)

    @property
    def installed(self) -> bool:
        """Whether it is there, whole."""
        return self.root.exists()

    def find(self, *names: str) -> Path | None:
        """The first of these commands that it has, as a path inside it."""
        folders = (Path("/usr/local/sbin"), Path("/usr/sbin"), Path("/usr/bin"))
        return next((f / name for name in names for f in folders if (self.root / "usr" / f.name / name).exists()), None)

    def has(self, path: Path) -> bool:
        """Whether it has such a file."""
        return (self.root / path.relative_to("/")).exists()

    def lacks(self, program: str) -> str:
        """What to say when there is no such program."""
        if self.installed:
            return f"{self.name} in {self.root} has no {program}; remove that folder to have it made anew"
        return (
            cannot_enter()
            or f"{self.name} is not in {self.root.parent}; `make servers SERVERS={self.suite}` installs it"
        )

    def command(self, words: Sequence[str | Path], folder: Path) -> list[str]:
        """As in :class:`System`.

        Raises:
            Unavailable: the folder is where the release has its own programs.
        """
        folder = folder.resolve()
        top = Path(*folder.parts[:2])
        if top.name in ("bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr"):
            raise Unavailable(f"{self.name} cannot work in {folder}: set TMPDIR to a folder outside of {top}")
        enter = [*NAMESPACE, "sh", "-ec", _ENTER, "enter", self.root, top, folder, *words]
        return [str(word) for word in enter]

    def install(self, packages: Sequence[str]) -> None:
        """Make it, with these packages, unless it is there. Takes about 40 s and 500 MB.

        Raises:
            Unavailable: it cannot be made; the message has the end of what ``debootstrap`` or ``apt-get`` said.
        """
        why_not = cannot_enter()
        if why_not:
            raise Unavailable(why_not)
        if not shutil.which("debootstrap"):
            raise Unavailable("debootstrap is not installed")
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with (self.root.parent / f"{self.root.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.installed:
                return
            said = ""
            for mirror in mirrors():
                said = self._bootstrap(mirror, packages)
                if not said:
                    return
        raise Unavailable(f"{self.name} could not be installed:\n{said}")

    def add(self, packages: Sequence[str]) -> None:
        """Install those of these packages that it does not have yet.

        Raises:
            Unavailable: they cannot be installed.
        """
        with (self.root.parent / f"{self.root.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            missing = [p for p in packages if not (self.root / f"var/lib/dpkg/info/{p}.list").exists()]
            if missing:
                result = subprocess.run(
                    [*NAMESPACE, "sh", "-ec", _ADD, "add", str(self.root), *missing],
                    env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    text=True,
                )  # fmt: skip
                if result.returncode:
                    said = "\n".join(result.stdout.splitlines()[-15:])
                    raise Unavailable(f"{' and '.join(missing)} could not be installed in {self.name}:\n{said}")

    def _bootstrap(self, mirror: str, packages: Sequence[str]) -> str:
        """Make it whole or not at all; returns what went wrong."""
        draft = self.root.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        result = subprocess.run(
            [*NAMESPACE, "sh", "-ec", _BOOTSTRAP, "bootstrap", self.suite, str(draft), mirror, *packages],
            env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if result.returncode:
            shutil.rmtree(draft, ignore_errors=True)
            return "\n".join(result.stdout.splitlines()[-15:]) or f"ended with {result.returncode}"
        draft.rename(self.root)
        return ""


def system_of(suite: str | None, environ: Mapping[str, str]) -> System:
    """The system with the servers of a suite: the machine, where it is of that suite or none is asked for."""
    return MACHINE if suite in (None, _suite_here()) else Debian(suite, environ)


@cache
def _suite_here() -> str:
    try:
        about = platform.freedesktop_os_release()
    except OSError:
        return ""
    return about.get("VERSION_CODENAME", "") if about.get("ID") == "debian" else ""


@cache
def cannot_enter() -> str | None:
    """Why no other release can be run here, ``None`` where it can."""
    if not shutil.which("unshare") or not shutil.which("pivot_root", path="/usr/sbin:/sbin:/usr/bin"):
        return "this machine has no unshare and pivot_root (Linux, package util-linux)"
    if os.geteuid():
        return "only root can run another release of Debian"
    tried = subprocess.run([*NAMESPACE, "true"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return f"no mount namespace can be made here: {tried.stdout.strip()}" if tried.returncode else None


def mirrors() -> list[str]:
    """Where to get Debian from: the mirrors that the machine's own apt uses, then Debian's."""
    found: list[str] = []
    if shutil.which("apt-get"):
        asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
        listed = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = [line for line in listed.stdout.split() if line.startswith(("http://", "https://"))]
    return list(dict.fromkeys([mirror.rstrip("/") for mirror in found] + [DEFAULT_MIRROR]))


def _environment() -> dict[str, str]:
    """The proxy of the machine's apt serves ``debootstrap`` and the release's apt as well."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    if shutil.which("apt-config"):
        asked = ["apt-config", "dump", "--format", "%v", "Acquire::http::Proxy"]
        proxy = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()
        if proxy.startswith("http"):
            environment["http_proxy"] = proxy
    return environment
