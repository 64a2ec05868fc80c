"""The consumer in a few hundred made-up worlds; `make simulate` runs thousands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.world import run

BLOCKS = [range(start, start + 50) for start in range(0, 300, 50)]

HAPPENS = {
    "a call is refused": r": refused",
    "a call is done but not answered": r": no answer",
    "a call is done late": r": will be done late",
    "a process is killed": r" killed$",
    "a process is stopped and goes on": r" continues$",
    "a process is told to end": r" told to end$",
    "a process is restarted": r" p\d/3 +starts$",
    "a subscription is lost": r" lost world\.turns\.\d+: ",
    "the broker is away": r" broker +is away$",
    "the store is away": r" store +is away$",
    "a stale save is refused": r"save .*: VersionConflict$",
    "a lock is taken over": r"tries .*: the lock of session",
    "a turn is completed": r": completed$",
    "a turn is a duplicate": r": duplicate$",
    "a turn is superseded": r": superseded$",
    "a turn is forwarded": r": forwarded$",
    "a turn is released": r": released$",
    "a turn is no turn": r": dead invalid-field$",
    "a turn is dead": r": dead agent-failed$",
    "a turn is poison": r": dead poison$",
    "a turn is deferred": r": deferred$",
    "a turn comes back from the backlog": r" deferred s\d ",
    "a turn is refused, its session has too many": r": dead backlog-full$",
    "a turn is rejected": r": dead busy$",
    "turns are collected": r"agent begins s\d\.\d s\d",
    "a turn is replayed": r"desk/\d+ +replays",
    "a letter is discarded": r"desk/\d+ +discards",
    "a consumer hands a queue over": r" released world\.turns\.\d+: it belongs to",
    "a consumer stands by": r"stands by for [1-9]",
    "a turn fails passingly": r"tries .* again: ConnectionError",
    "a suspect survives": r" child +agent begins",
    "a defect gives a generation up": r"given up after an unexpected error",
}
"""What the worlds must contain, or they would show nothing."""


@pytest.mark.parametrize("seeds", BLOCKS, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_every_promise_is_kept_in_every_world(seeds: range) -> None:
    broken = {seed: violations for seed in seeds if (violations := run(seed).violations)}
    said = [
        "\n  ".join([f"python -m tests.simulation --seed {seed} --trace", *violations])
        for seed, violations in broken.items()
    ]
    assert not broken, "\n" + "\n".join(said)


def test_all_kinds_of_trouble_happen_in_these_worlds() -> None:
    missing = dict(HAPPENS)
    for seed in range(200):
        text = "\n".join(run(seed).trace)
        missing = {what: shape for what, shape in missing.items() if not re.search(shape, text, re.MULTILINE)}
        if not missing:
            return
    pytest.fail(f"in 200 worlds none of this happened: {', '.join(missing)}")


def test_a_seed_replays_exactly_in_another_process_with_other_hashes() -> None:
    """All of the trace, to the last digit: the order of no set and no address may matter."""
    program = "from tests.simulation.world import run\nfor s in range(40): print(s, *run(s).trace, sep='\\n')"
    traces = []
    for hashes in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hashes},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        traces.append(done.stdout.splitlines())
    assert traces[0] == traces[1]
    assert len(traces[0]) > 10_000


def test_another_seed_is_another_world() -> None:
    assert len({run(seed).digest for seed in range(20)}) == 20
