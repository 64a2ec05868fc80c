"""How a run is spread over workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest, schedule

ROOT = Path(__file__).parents[1]

TESTS = """
import pytest

@pytest.mark.parametrize("n", range({count}))
def test_it(n): pass
"""


def test_every_file_that_is_named_exists() -> None:
    assert [name for name in schedule.LONGEST if not (ROOT / name).is_file()] == []


def test_there_are_two_workers_a_core_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}
    for cores in (1, 2, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        told[cores] = schedule.workers()
    assert told == {1: 2, 2: 4, 64: schedule.MOST_WORKERS}


def test_the_environment_says_how_many_before_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "3")
    assert conftest.pytest_xdist_auto_num_workers() is None
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS")
    assert conftest.pytest_xdist_auto_num_workers() == schedule.workers()


def test_the_longest_files_are_taken_first_and_the_order_within_a_file_stays(tmp_path: Path) -> None:
    """Given a long file of one test, and others; when one worker takes them; then the long one is first, and the
    others follow by their number of tests."""
    longest = schedule.LONGEST[-1]
    for name, count in {"tests/test_a.py": 2, "tests/test_z.py": 3, longest: 1}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TESTS.format(count=count))
    command = [
        sys.executable, "-m", "pytest", "-v", "-p", "tests.conftest", "-p", "no:cacheprovider", "-n", "1",
        *schedule.ARGUMENTS[2:], "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path),
        "--import-mode", "importlib", str(tmp_path / "tests"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    order = [Path(line.split()[-1]).name for line in done.stdout.splitlines() if " PASSED " in line]
    assert order == [
        f"{Path(longest).name}::test_it[0]",
        *(f"test_z.py::test_it[{n}]" for n in range(3)),
        *(f"test_a.py::test_it[{n}]" for n in range(2)),
    ]
