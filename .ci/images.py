"""Images that the Docker engine has, can get, or is given as stand-ins from Debian's packages: `python .ci/images.py`.

CI reaches no registry of images. A stand-in bears the name of the image that it stands for and the label
`sdqueue.stand-in`; an image without that label is used as it is.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.servers.containers import ensure_image
from tests.servers.debian import Debian
from tests.servers.install import install_release
from tests.servers.kinds import packages
from tests.servers.process import Unavailable

RECIPES: Final = Path(__file__).parent / "stand-ins"
LABEL: Final = "sdqueue.stand-in"

NEEDLESS: Final = (
    "./proc/*", "./sys/*", "./dev/*", "./run/*", "./tmp/*", "./var/lib/apt/lists/*", "./var/cache/*",
    "./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./var/lib/sdqueue-tests",
    "./usr/bin/kubectl", "./usr/libexec/docker", "./usr/sbin/policy-rc.d",
)  # fmt: skip
"""What of a release no image needs; other tests have put some of it there."""


@dataclass(frozen=True)
class Root:
    """A release of Debian in a folder, of which images are made.

    Parameters:
        name: of its folder.
        packages: what is in it.
    """

    name: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class StandIn:
    """An image made here.

    Parameters:
        names: of those that it stands for.
        recipe: the file that makes it of its root.
        root: what it is made of.
    """

    names: tuple[str, ...]
    recipe: str
    root: Root


SERVERS: Final = Root("trixie", tuple(packages("trixie")))
PYTHON: Final = Root("trixie-python", ("python3", "python3-venv", "ca-certificates"))

STAND_INS: Final = (
    StandIn(("rabbitmq:4-management",), "rabbitmq.Dockerfile", SERVERS),
    StandIn(("valkey/valkey:8", "redis:8"), "valkey.Dockerfile", SERVERS),
    StandIn(("python:3.13-slim",), "python.Dockerfile", PYTHON),
)


def main() -> int:
    """Print a line for each image; returns 1 where one is neither there nor to be had nor made."""
    recipe = _recipe()
    names = [name for stand_in in STAND_INS for name in stand_in.names]
    with ThreadPoolExecutor() as pool:
        missing = {name for name, why in zip(names, pool.map(lambda n: _lacks(n, recipe), names), strict=True) if why}
    try:
        for stand_in in STAND_INS:
            wanted = [name for name in stand_in.names if name in missing]
            for name in stand_in.names:
                print(f"{name}: {'a stand-in is made' if name in wanted else _about(name)}", flush=True)
            if wanted:
                _build(stand_in, wanted, recipe)
    except (Unavailable, subprocess.CalledProcessError) as error:
        print(error, getattr(error, "stdout", "") or "", file=sys.stderr)
        return 1
    return 0


def _recipe() -> str:
    """Tells the stand-ins of another version of these files apart."""
    files = [Path(__file__), *sorted(RECIPES.iterdir())]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _lacks(name: str, recipe: str) -> bool:
    """Whether a stand-in has to be made."""
    try:
        ensure_image(name)
    except Unavailable as why:
        if f"{why}" == "no Docker engine answers":
            raise
        return True
    return _label(name) not in ("", recipe)


def _label(name: str) -> str:
    """Which recipe a stand-in is of; empty for an image that is none."""
    return _docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', name).strip()


def _about(name: str) -> str:
    return "a stand-in is there" if _label(name) else "the engine has it"


def _build(stand_in: StandIn, names: Sequence[str], recipe: str) -> None:
    base = f"sdqueue-stand-in/{stand_in.root.name}:{recipe}"
    if not _docker("image", "ls", "--quiet", base).strip():
        _import(stand_in.root, base)
    tags = [word for name in names for word in ("--tag", name)]
    _docker(
        "build", "--quiet", *tags, "--label", f"{LABEL}={recipe}", "--build-arg", f"BASE={base}",
        "--file", str(RECIPES / stand_in.recipe), str(RECIPES),
    )  # fmt: skip


def _import(root: Root, image: str) -> None:
    """Make an image of a release of Debian, which is made where it is not there."""
    system = Debian("trixie", os.environ, root.name)
    install_release(system, root.packages)
    tar = ["tar", "--directory", str(system.root), *(f"--exclude={path}" for path in NEEDLESS), "--create", "."]
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as packing:
        subprocess.run(
            ["docker", "import", "-", image], stdin=packing.stdout, check=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    if packing.returncode:
        raise Unavailable(f"{system.root} cannot be packed: tar ended with {packing.returncode}")


def _docker(*words: str) -> str:
    return subprocess.run(
        ["docker", *words], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},  # BuildKit would look for BASE in a registry first
    ).stdout  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
