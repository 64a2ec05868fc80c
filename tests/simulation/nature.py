"""Nature: clocks and chance of the whole interpreter, for the length of one simulated world."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import datetime, tzinfo
from typing import Any
from unittest.mock import patch

import sdqueue.consumer.consumer
from tests.simulation.loop import VirtualLoop

EPOCH = 1_767_225_600.0
"""Seconds since 1970 at which every world begins; any number does."""


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.fromtimestamp(time.time(), tz)


@contextmanager
def made_up(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """Let all clocks show the loop's time, and all chance follow from the seed.

    ``random`` is what spreads retries (tenacity and we), ``os.urandom`` what ids and tokens are made of. The watch over
    the event loop is a thread and measures real time, so it is left out.
    """
    bits = random.Random(f"{seed} urandom")
    before = random.getstate()
    with ExitStack() as stack:
        for place, name, value in (
            (time, "monotonic", loop.time),
            (time, "time", lambda: EPOCH + loop.time()),
            (time, "time_ns", lambda: int((EPOCH + loop.time()) * 1e9)),
            (os, "urandom", bits.randbytes),
            (random, "_urandom", bits.randbytes),
            (sdqueue.consumer.consumer, "LoopWatch", lambda _: nullcontext()),
            *((module, "datetime", _Datetime) for module in _modules_with_datetime()),
        ):
            stack.enter_context(patch.object(place, name, value))
        random.seed(f"{seed} random")
        try:
            yield
        finally:
            random.setstate(before)


def _modules_with_datetime() -> list[Any]:
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("sdqueue.")]
    return [module for module in modules if vars(module).get("datetime") is datetime]
