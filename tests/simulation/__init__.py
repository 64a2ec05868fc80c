"""Deterministic simulation: the consumer's own code in a world where time, chance and failures are made up.

One seed is one world: a few consumer processes on one memory broker, store and lock service, under a clock that jumps
from event to event. All that happens follows from the seed, so a seed that fails replays exactly::

    python -m tests.simulation --seeds 1000             # as many worlds
    python -m tests.simulation --seed 1234 --trace      # one of them, step by step

The way through the files: ``world`` runs a seed; ``loop`` and ``nature`` make time and chance; ``process`` is what can
be killed and stopped, ``member`` is one with a consumer in it; ``wire`` is every await that touches a backend, with
``broker``, ``store`` and ``locks`` at its ends; ``profile`` says what goes wrong in a seed and how often; ``trouble``
kills, stops and cuts off; ``workload`` sends turns to ``agent``; ``checker`` judges; ``mutants`` are defects that it
must find.
"""
