"""How a run is spread over the workers of pytest-xdist: how many there are, and which file each takes next.

A worker takes whole files, so that a module's private servers are started once. The longest files come first: taken
last, one of them would keep one worker busy while the others have nothing left to do.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

ARGUMENTS: Final = ("-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
"""What pytest-xdist is told; its own order would be that of the number of tests."""

WORKERS_A_CORE: Final = 2
"""Most tests wait: for servers, for processes, for time to pass."""

MOST_WORKERS: Final = 8
"""They share one RabbitMQ and one Redis."""

LONGEST: Final = (
    "tests/cli/test_keys.py",
    "tests/cli/test_producer.py",
    "tests/cli/test_pool.py",
    "tests/simulation/test_seeds.py",
    "tests/cli/test_dead.py",
    "tests/agents/superdialog/test_playbook.py",
    "tests/producers/webchat/test_page.py",
    "tests/cli/test_producer_stuck.py",
    "tests/test_servers.py",
    "tests/chaos/test_chaos.py",
    "tests/chaos/test_failover.py",
    "tests/consumer/test_ownership_rabbitmq.py",
    "tests/agents/superdialog/test_machine.py",
    "tests/brokers/test_rabbitmq_failures.py",
    "tests/producers/egress/test_zombies.py",
    "tests/cli/test_dev.py",
    "tests/cli/test_llm.py",
    "tests/consumer/test_ownership.py",
    "tests/brokers/test_sqlite_processes.py",
    "tests/cli/test_commands.py",
    "tests/producers/slack/test_killed_egress.py",
    "tests/superdialog_sessions/test_two_processes.py",
    "tests/consumer/test_children.py",
    "tests/producers/slack/test_end_to_end.py",
)
"""The files that take longest, as measured; what is not here comes after these, the files of most tests first."""


def workers() -> int:
    """How many workers ``-n auto`` means."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(WORKERS_A_CORE * cores, MOST_WORKERS)


def in_order(items: list[pytest.Item], root: Path) -> list[pytest.Item]:
    """These tests, file by file in the order in which workers should take them; within a file nothing changes."""
    files = {item: item.path.relative_to(root).as_posix() for item in items}
    tests = Counter(files.values())
    rank = {file: number for number, file in enumerate(LONGEST)}
    return sorted(items, key=lambda item: (rank.get(files[item], len(LONGEST)), -tests[files[item]], files[item]))
