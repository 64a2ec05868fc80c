"""Before a run: see that servers and a browser can be had, and on Debian as root install what is missing.

``python -m tests.servers.install``. A server that cannot be had is no failure: whether tests may be skipped is decided
by the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.servers.debian import Debian
from tests.servers.kinds import KINDS, packages
from tests.servers.process import Unavailable
from tests.servers.provide import find_source, sources
from tests.servers.system import MACHINE

POLICY: Final = Path("/usr/sbin/policy-rc.d")

BROWSER: Final = {"chromium": "chromium", "chromium-driver": "chromedriver"}
"""Debian's packages for tests of pages, each with its program."""


def main() -> int:
    """Print a line for each kind of server, and install what those without a source need."""
    missing = []
    for kind in KINDS.values():
        try:
            found, tried = find_source(kind, os.environ)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        told = "; ".join(reason for reason in tried if not reason.endswith("is not set"))
        wanted = kind.release(os.environ).name or kind.name
        print(f"{wanted}: {found or 'not found'}" + (f" ({told})" if told else ""), flush=True)
        if not found:
            missing.append(kind.release(os.environ))
    _look_for_browser()
    install_here([] if shutil.which("openssl") else ["openssl"])  # for deploy/security
    if missing and "local" in sources(os.environ):
        install_here([release.package for release in missing if release.system(os.environ) is MACHINE])
        for system in {release.suite: release.system(os.environ) for release in missing}.values():
            if isinstance(system, Debian):
                _install_debian(system)
    return 0


def _look_for_browser() -> None:
    lacking = [package for package, program in BROWSER.items() if not shutil.which(program)]
    print(f"Chromium: {'not found' if lacking else shutil.which('chromium')}", flush=True)
    install_here(lacking)


def install_here(packages: Sequence[str]) -> None:
    """Install packages of this machine's Debian where that can be done, and say so where it cannot."""
    why_not = cannot_install()
    if why_not and packages:
        print(f"Not installing {' and '.join(packages)}: {why_not}. Tests that need them will not run.", flush=True)
    elif packages:
        install(packages)


def _install_debian(system: Debian) -> None:
    try:
        install_release(system, packages(system.suite))
    except Unavailable as why:
        print(f"{system.name} is not here: {why}. Tests that need it will not run.", flush=True)


def install_release(system: Debian, packages: Sequence[str]) -> None:
    """See that a release is there, with these packages.

    Raises:
        Unavailable: it cannot be had.
    """
    if not system.installed:
        print(f"Installing {system.name} in {system.root}: it takes about a minute, and 500 MB.", flush=True)
        if not shutil.which("debootstrap"):
            if why_not := cannot_install():
                raise Unavailable(f"debootstrap is not installed, and cannot be: {why_not}")
            install(["debootstrap"])
        system.install(packages)
    system.add(packages)


def cannot_install() -> str | None:
    """Why packages cannot be installed, ``None`` where they can."""
    if not Path("/etc/debian_version").exists() or not shutil.which("apt-get"):
        return "this is not Debian"
    return "only root can" if os.geteuid() else None


def install(packages: Sequence[str]) -> None:
    """Install Debian packages without starting their services."""
    print(f"Installing {' and '.join(packages)} with apt-get; no service is started.", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with services_off():
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", *packages],
        ):
            result = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if result.returncode:
                print(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}", flush=True)


@contextmanager
def services_off() -> Iterator[None]:
    """Tell Debian's package scripts to start no service; a policy that exists already stays as it is."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


if __name__ == "__main__":
    sys.exit(main())
