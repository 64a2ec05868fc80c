"""The programs that the tests of `deploy/` call, where this machine has none: `python .ci/tools.py FOLDER`.

What this machine's own Debian has is installed. It has neither kubectl nor Docker's Compose in release 12; trixie has
both, and its programs run here. The folder gets `bin/` for PATH and `docker/` for DOCKER_CONFIG; a program that the
machine has is not put there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.servers.debian import Debian
from tests.servers.install import install_here, install_release
from tests.servers.process import Unavailable

PLUGINS: Final = Path("usr/libexec/docker/cli-plugins")

OWN: Final = {"systemd": "systemd-analyze"}
"""Package by package: the program in it, of this machine's release."""

COMMANDS: Final = {"kubectl": Path("usr/bin/kubectl")}
"""Package by package: the program in it."""

DOCKER_PLUGINS: Final = {"docker-compose": "compose", "docker-buildx": "buildx"}
"""Package by package: the command that the plugin adds to `docker`."""


def main(folder: Path) -> int:
    """Fill the folder; returns 1 where something cannot be had."""
    commands = {name: path for name, path in COMMANDS.items() if not shutil.which(path.name)}
    plugins = {name: command for name, command in DOCKER_PLUGINS.items() if not _docker_has(command)}
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "docker" / "cli-plugins").mkdir(parents=True, exist_ok=True)
    config = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    if (config / "config.json").exists():
        shutil.copy(config / "config.json", folder / "docker")
    for plugin in (config / "cli-plugins").glob("*"):
        _link(folder / "docker" / "cli-plugins" / plugin.name, plugin)
    trixie = Debian("trixie", os.environ)
    try:
        install_here([package for package, program in OWN.items() if not shutil.which(program)])
        if commands or plugins:
            install_release(trixie, [*commands, *plugins])
    except Unavailable as why:
        print(why, file=sys.stderr)
        return 1
    for path in commands.values():
        _link(folder / "bin" / path.name, trixie.root / path)
    for name in plugins:
        _link(folder / "docker" / "cli-plugins" / name, trixie.root / PLUGINS / name)
    from_trixie = [path.name for path in commands.values()] + [f"docker {command}" for command in plugins.values()]
    print(f"From {trixie.name}: {', '.join(from_trixie) or 'nothing'}.")
    return 0


def _docker_has(command: str) -> bool:
    """Whether this machine's `docker` has the command; one without the plugin answers with its own version or help."""
    if not shutil.which("docker"):
        return False
    asked = subprocess.run(["docker", command, "version"], capture_output=True, text=True)
    return asked.returncode == 0 and command in asked.stdout.lower()


def _link(at: Path, to: Path) -> None:
    at.unlink(missing_ok=True)
    at.symlink_to(to)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
