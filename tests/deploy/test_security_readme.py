"""The commands of deploy/security/README.md, as they are written there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import refuse
from tests.servers.process import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"

pytestmark = pytest.mark.engine


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Where the commands run; what they have started is gone afterwards."""
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        refuse("no docker compose", os.environ)
    (tmp_path / "deploy").symlink_to(DEPLOY)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SDQUEUE_")}
    images = {name: value for name, value in os.environ.items() if re.fullmatch("SDQUEUE_(RABBITMQ|REDIS)_IMAGE", name)}
    environment = ours | images | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COMPOSE_PROJECT_NAME": f"sdqueue-security-{os.getpid()}",
        "SDQUEUE_AMQPS_PORT": str(free_port()),
        "SDQUEUE_REDISS_PORT": str(free_port()),
        "SDQUEUE_MADE": str(tmp_path / "made"),
    }  # fmt: skip
    yield environment
    command = ["docker", "compose", "-f", str(DEPLOY / "security" / "compose.yaml"), "down", "--volumes"]
    subprocess.run(command, env=environment, capture_output=True, timeout=120)


@pytest.mark.timeout(400)
def test_the_commands_of_the_page_work_as_they_are_written(tmp_path: Path, environment: dict[str, str]) -> None:
    page = (DEPLOY / "security" / "README.md").read_text()
    console = re.search(r"```console\n(.*?)```", page, re.DOTALL)
    assert console is not None
    commands = [line.removeprefix("$ ") for line in console[1].splitlines()]
    ports = '--amqps-port "$SDQUEUE_AMQPS_PORT" --rediss-port "$SDQUEUE_REDISS_PORT"'
    commands[0] += f" {ports}"  # those of the page may be taken
    script = "\n".join(["set -e", "trap 'kill $(jobs -p)' EXIT", *commands])
    with (tmp_path / "said").open("w") as said:
        code = subprocess.run(
            ["bash", "-c", script], env=environment, cwd=tmp_path, stdout=said, stderr=said
        ).returncode
    told = (tmp_path / "said").read_text()
    assert code == 0, told
    assert "hello" in told
    assert "has the 3 rights of a producer" in told
