"""Before a run: see that servers can be had, and on Debian as root install what is missing.

``python -m tests.servers.install``. It always ends well: whether tests may be skipped is decided by the run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.servers.kinds import KINDS, Kind
from tests.servers.process import Unavailable
from tests.servers.provide import sources

POLICY: Final = Path("/usr/sbin/policy-rc.d")


def main() -> None:
    """Print a line for each kind of server, and install the packages of those that have no source."""
    missing = []
    for kind in KINDS.values():
        found, tried = _source(kind)
        told = "; ".join(reason for reason in tried if not reason.endswith("is not set"))
        print(f"{kind.name}: {found or 'not found'}" + (f" ({told})" if told else ""), flush=True)
        if not found:
            missing.append(kind)
    if not missing or "local" not in sources(os.environ):
        return
    packages = [kind.package for kind in missing]
    why_not = cannot_install()
    if why_not:
        print(f"Not installing {' and '.join(packages)}: {why_not}. Tests that need them will not run.", flush=True)
        return
    install(packages)


def _source(kind: Kind) -> tuple[str | None, list[str]]:
    """Where a run will get it, or ``None``, and why not from the sources before."""
    tried: list[str] = []
    for source in sources(os.environ):
        try:
            return _check(kind, source), tried
        except Unavailable as why:
            tried.append(f"{source}: {why}")
    return None, tried


def _check(kind: Kind, source: str) -> str:
    if source == "environment":
        url = os.environ.get(kind.address)
        if not url:
            raise Unavailable(f"{kind.address} is not set")

        async def ask() -> str:
            return await kind.version(url)

        return f"{asyncio.run(ask())} at {kind.address}"
    if source == "container":
        from tests.servers.containers import ensure_image  # slow to import, and not always needed

        image = os.environ.get(kind.image_variable) or kind.image
        ensure_image(image)
        return f"container {image}"
    missing = kind.local.missing()
    if missing:
        raise Unavailable(missing)
    return "installed here"


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
    main()
