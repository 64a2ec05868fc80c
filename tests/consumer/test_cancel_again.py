"""A cancel turn that is delivered again before its own end, when what it stopped is settled, stops nothing more."""

from __future__ import annotations

import asyncio

from sdqueue.sessions import AsyncioLockBackend
from tests.consumer.stand import Stand, Waiting


async def test_after_a_crash_it_does_not_stop_the_turn_behind_the_one_that_it_stopped(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}, lock_backend=AsyncioLockBackend()) as first:
        await stand.send("s", "wait", id="running")
        await act.began.acquire()
        await stand.send("s", "wait", id="waiting")
        await stand.send("s", kind="cancel", id="stop")
        await stand.expect_reply("running", kind="error")
        await act.began.acquire()  # the one behind runs, and dies with its process
        first.stop_at_once()
    async with stand.running({"wait": act}) as second:
        await act.began.acquire()
        await second.watcher.expect("turn_received", 2)
        for _ in range(20):
            await asyncio.sleep(0)  # a stop would take its effect now
        act.go_on.set()
        assert (await stand.expect_reply("waiting")).text == "1. waited"
        assert await second.watcher.expect_settled(2) == [("waiting", "completed"), ("stop", "completed")]


async def test_its_repeat_that_comes_before_its_end_does_not_either(stand: Stand) -> None:
    act = Waiting()
    async with stand.running({"wait": act}) as member:
        await stand.send("s", "wait", id="running")
        await act.began.acquire()
        await stand.send("s", "wait", id="waiting")
        await stand.send("s", kind="cancel", id="stop")
        await stand.expect_reply("running", kind="error")
        await act.began.acquire()
        await stand.send("s", kind="cancel", id="stop")
        await member.watcher.expect("turn_received", 4)
        for _ in range(20):
            await asyncio.sleep(0)  # a stop would take its effect now
        act.go_on.set()
        assert (await stand.expect_reply("waiting")).text == "1. waited"
