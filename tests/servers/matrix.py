"""The tests that need servers, on one release of them after the other: ``python -m tests.servers.matrix``.

It prints for each what ran on what, or that it did not run, and why. A release that cannot be had is no failure.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests import schedule
from tests.servers import install
from tests.servers.kinds import KINDS, SERVERS_VARIABLE
from tests.servers.provide import find_source

ROOT: Final = Path(__file__).parents[2]

SUITES: Final = tuple(dict.fromkeys(f"{release.suite}" for kind in KINDS.values() for release in kind.releases))

SHORT: Final = (
    "tests/brokers/test_rabbitmq.py", "tests/brokers/test_rabbitmq_facts.py", "tests/brokers/test_rabbitmq_failures.py",
    "tests/brokers/test_rabbitmq_topology.py", "tests/sessions/test_redis_lock.py",
    "tests/sessions/test_redis_services.py", "tests/sessions/test_redis_store.py", "tests/cli/test_pool.py",
    "tests/chaos/test_chaos.py",
)  # fmt: skip
"""What tells a release apart within some three minutes."""


@dataclass(frozen=True)
class Part:
    """A run of pytest.

    Parameters:
        what: for people.
        arguments: for pytest.
    """

    what: str
    arguments: tuple[str, ...]


PARTS: Final = (
    Part("one node each", ("tests", "-m", "(rabbitmq or redis) and not cluster and not engine")),
    Part("a cluster of three RabbitMQ nodes", ("tests", "-m", "cluster")),
)
SHORT_PARTS: Final = (Part("the short form", (*SHORT, "-m", "(rabbitmq or redis) and not cluster and not engine")),)


def main() -> int:
    """Run it, print the table, and return the exit code: 0 where nothing that ran has failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.matrix")
    parser.add_argument("suites", nargs="*", help=f"releases of Debian, by default all: {', '.join(SUITES)}")
    parser.add_argument("--short", action="store_true", help="only what tells a release apart")
    given = parser.parse_args()
    lines, failed = [], False
    for suite in given.suites or SUITES:
        os.environ[SERVERS_VARIABLE] = suite
        print(f"\n== {suite}", flush=True)
        if install.main():
            return 2
        why_not = _missing()
        for part in SHORT_PARTS if given.short else PARTS:
            if why_not:
                lines.append(f"{suite}, {part.what}: NOT RUN: {why_not}")
                continue
            good, line = _run(part)
            failed |= not good
            lines.append(f"{suite}, {part.what}: {line}")
    print("\n== What ran on what\n" + "\n".join(lines), flush=True)
    return int(failed)


def _missing() -> str:
    """Why the servers asked for cannot be had; empty where they can."""
    reasons = []
    for kind in KINDS.values():
        found, tried = find_source(kind, os.environ)
        if not found:
            reasons.append(f"no {kind.release(os.environ).name} ({'; '.join(tried)})")
    return "; ".join(reasons)


def _run(part: Part) -> tuple[bool, str]:
    """Run pytest, showing what it prints; whether all is good, and what came of it in a line."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", *schedule.ARGUMENTS, *part.arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    servers, result = "", "ended without a result"
    for line in process.stdout:
        print(line, end="", flush=True)
        if found := re.match(r"sdqueue servers: (.*)", line):
            servers = found[1]
        if re.search(r"\d+ (passed|failed|error).* in [\d.]+s", line):
            result = line.strip("= \n")
    code = process.wait()
    where = servers or " and ".join(kind.release(os.environ).name for kind in KINDS.values())
    return code == 0, f"{'' if code == 0 else 'FAILED: '}{result}, on {where}, {time.monotonic() - started:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
