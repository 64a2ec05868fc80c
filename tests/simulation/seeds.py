"""Seeds: many worlds, side by side on all cores."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulation.world import Outcome, run

AT_A_TIME = 20


def many(seeds: range, processes: int) -> Iterator[Outcome]:
    """The outcomes of these seeds, without their traces, as they come."""
    if processes == 1:
        yield from map(brief, seeds)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(brief, seeds, chunksize=AT_A_TIME)


def brief(seed: int) -> Outcome:
    """The outcome of one seed, without its trace."""
    outcome = run(seed)
    return Outcome(seed, outcome.violations, (), outcome.digest, outcome.counts)
