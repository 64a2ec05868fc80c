"""Docker engines: the tests' own containers go with the run, and CI starts an engine only where none answers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

from tests.conftest import refuse
from tests.servers.containers import LABEL, ensure_image
from tests.servers.debian import cannot_enter
from tests.servers.kinds import RABBITMQ, REDIS
from tests.servers.process import Unavailable, free_port

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engine() -> docker.DockerClient:
    """The engine that answers, which has the images of servers or can get them."""
    try:
        for kind in (RABBITMQ, REDIS):
            ensure_image(kind.image(os.environ))
        return docker.from_env()
    except (Unavailable, DockerException) as why:
        refuse(f"{why}", os.environ)


# Containers of the tests


DIES = """
import os, signal, time
from pathlib import Path

os.chdir(FOLDER)

async def test_dies(redis_url, private_redis, redis_group):
    assert (await private_redis()).running
    redis_group.launch("--port", "{port}")
    Path("running.new").write_text(os.environ["SDQUEUE_TEST_RUN_FOLDER"])
    Path("running.new").rename("running")
    while not Path("counted").exists():
        time.sleep(0.02)
    END
"""


@pytest.mark.parametrize(
    ("end", "code"), [("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL), ("assert True", 0), ("assert 0", 1)]
)
async def test_a_run_leaves_no_container_however_it_ends(
    tmp_path: Path, engine: docker.DockerClient, end: str, code: int
) -> None:
    """No fixture runs after SIGKILL, and nobody else stops a container: not Ryuk, which is one more image to get."""
    (tmp_path / "test_inner.py").write_text(DIES.replace("FOLDER)", f"{str(tmp_path)!r})").replace("END", end))
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider",
        "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), str(tmp_path / "test_inner.py"),
    ]  # fmt: skip
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SDQUEUE_TEST_RUN"))}
    environ = {**ours, "SDQUEUE_TEST_SOURCES": "container", "TMPDIR": str(tmp_path)}
    run = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    reading = asyncio.create_task(run.communicate())
    while not reading.done() and not (tmp_path / "running").exists():
        await asyncio.wait([reading], timeout=0.05)
    assert not reading.done(), (await reading)[0].decode()
    folder = Path((tmp_path / "running").read_text())
    assert len(containers_of(engine, folder)) == 3  # they are there, and are found
    (tmp_path / "counted").touch()
    said = (await reading)[0].decode()

    assert run.returncode == code, said
    async with asyncio.timeout(30):
        while containers_of(engine, folder):
            await asyncio.sleep(0.1)


def containers_of(engine: docker.DockerClient, folder: Path) -> list[str]:
    """The names of a run's containers."""
    found = engine.api.containers(all=True, filters={"label": f"{LABEL}={folder}"})
    return [container["Names"][0] for container in found]


# Engines of CI


def bash(script: str, *arguments: object, **environ: str) -> subprocess.Popen[str]:
    """Run a script to which the functions of `.ci/engine.sh` are known, `$1` the first argument."""
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", f". .ci/engine.sh\n{script}", "bash", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **environ}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_an_engine_that_answers_is_used_and_not_stopped(tmp_path: Path, engine: docker.DockerClient) -> None:
    process = bash('start_engine "$1"; stop_engine "$1"', tmp_path)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    assert said.startswith("A Docker engine answers: ")
    assert list(tmp_path.iterdir()) == []
    assert engine.ping()


def test_no_other_engine_is_started_for_one_that_is_named_and_silent(tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    process = bash('start_engine "$1"', tmp_path, DOCKER_HOST=address)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert f"No Docker engine answers at DOCKER_HOST={address}" in said
    assert list(tmp_path.iterdir()) == []


# A machine in the machine: a network, a /run and a place for images of its own, as far as an engine sees.
_ALONE = """
mount -t tmpfs tmpfs /run
mount --bind "$1" /var/lib/docker
unset DOCKER_HOST
docker info >/dev/null 2>&1 && { echo 'an engine answers already'; exit 1; }
start_engine "$1/ours"
echo "pid $(cat "$1/ours/dockerd.pid")"
"""


@pytest.fixture
def alone(tmp_path: Path) -> list[str]:
    """Begins a command that is run where no engine answers."""
    if why := cannot_enter():
        refuse(why, os.environ)
    if not shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
        refuse("dockerd is not installed", os.environ)
    Path("/var/lib/docker").mkdir(parents=True, exist_ok=True)
    return ["unshare", "--mount", "--net", "--propagation", "private"]


@pytest.mark.parametrize("end", ['stop_engine "$1/ours"', "kill -KILL $$"])
def test_an_engine_is_started_where_none_answers_and_goes_with_the_script(
    tmp_path: Path, alone: list[str], end: str
) -> None:
    """Also when the script is killed, and by its number, so that no other engine is touched."""
    script = f". .ci/engine.sh\n{_ALONE}\n{end}\n"
    started = subprocess.run(
        [*alone, "bash", "-euo", "pipefail", "-c", script, "bash", str(tmp_path)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
    )  # fmt: skip
    assert started.returncode == (0 if "stop" in end else -signal.SIGKILL), started.stdout
    assert "Started a Docker engine" in started.stdout
    pid = next(line.split()[1] for line in started.stdout.splitlines() if line.startswith("pid "))
    deadline = time.monotonic() + 30
    while Path("/proc", pid, "exe").exists():
        assert time.monotonic() < deadline, f"dockerd {pid} is still there"
        time.sleep(0.1)
