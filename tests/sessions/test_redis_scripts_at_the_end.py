"""ScriptRunner where its event loop ends while Redis does not answer."""

from __future__ import annotations

import asyncio

from sdqueue.sessions.redis.scripts import LOAD, ScriptRunner
from tests.sessions.test_redis_scripts import FakeLink


async def test_what_waits_behind_a_batch_that_is_cancelled_is_cancelled_and_not_sent() -> None:
    """A task that begins while the loop ends is destroyed, which asyncio logs as an error."""
    link = FakeLink()
    runner = ScriptRunner(link, in_flight=1)
    link.go.clear()
    before = asyncio.all_tasks()
    first = runner.call(LOAD, (b"k",), ("first",))
    while not link.batches:
        await asyncio.sleep(0)
    later = runner.call(LOAD, (b"k",), ("later",))
    (under_way,) = asyncio.all_tasks() - before
    under_way.cancel()
    await asyncio.gather(first, later, return_exceptions=True)
    assert (first.cancelled(), later.cancelled()) == (True, True)
    assert asyncio.all_tasks() == before
    assert len(link.batches) == 1
    await runner.settled()
