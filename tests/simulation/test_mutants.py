"""The simulation finds what it is there to find."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.simulation.__main__ import main
from tests.simulation.mutants import MUTANTS, ack_before_save
from tests.simulation.world import run

SEEDS = range(300)
"""The hardest to find needs some forty."""


@pytest.mark.parametrize(("mutant", "said"), MUTANTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_mutant_is_found(mutant: Callable[[], AbstractContextManager[None]], said: str) -> None:
    """None of these seeds fails without it, see test_seeds."""
    with mutant():
        found = next((seed for seed in SEEDS if re.search(said, "\n".join(run(seed).violations))), None)
    assert found is not None, f"{mutant.__name__} ({mutant.__doc__}) lives through {len(SEEDS)} seeds"
    assert not run(found).violations


def test_the_command_says_what_was_broken_and_how_to_see_it(capsys: pytest.CaptureFixture[str]) -> None:
    with ack_before_save():
        assert main(["--seeds", "1", "--processes", "1"]) == 1
    out = capsys.readouterr().out
    assert "seed 0 (python -m tests.simulation --seed 0 --trace):\n  turn " in out
    assert "has no final or error reply" in out
    assert "1 seeds failed" in out


def test_the_command_runs_seeds_on_several_cores(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "4", "--start", "7", "--processes", "2"]) == 0
    assert "4 seeds, " in capsys.readouterr().out


def test_the_command_shows_the_trace_of_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--trace"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("    0.000000  p0       starts\n")
    assert f"trace {run(3).digest}" in out
