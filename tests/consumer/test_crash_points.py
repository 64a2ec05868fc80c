"""The crash table of the design (section 5) with real processes, which die by SIGKILL at each of its points."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from sdqueue.brokers import Delivery, Message
from sdqueue.brokers.sqlite import SQLiteBroker
from sdqueue.brokers.topology import Topology
from sdqueue.sessions import SQLiteSessionStore
from tests.consumer.stand import Changes

CRASHES = {"delivery": 1, "acquire": 1, "agent": 1, "save": 1, "reply confirmed": 2}
"""Where the first process dies, and how often its turn's reply is out in the end."""


@pytest.mark.parametrize(("point", "copies"), CRASHES.items())
async def test_the_next_process_ends_what_the_dead_one_began(tmp_path: Path, point: str, copies: int) -> None:
    topology = Topology("poison", partitions=1)
    bodies: list[bytes] = []
    changes = Changes()

    def on_reply(delivery: Delivery) -> None:
        delivery.subscription.ack(delivery)
        bodies.append(delivery.message.body)
        changes.wake()

    async with SQLiteBroker(topology, tmp_path / "broker.db") as broker:
        await broker.apply()
        await broker.subscribe(await broker.declare_egress("default"), on_reply, prefetch=100)
        for turn_id in ("first", "second"):
            body = json.dumps({"session_id": "s", "text": turn_id, "id": turn_id}).encode()
            await broker.publish(topology.turns, "0000", Message(body))
        mortal = await _consumer(tmp_path, DIE_AT=point)
        assert await mortal.wait() == -9
        survivor = await _consumer(tmp_path)
        try:
            await changes.until(lambda: len(bodies) == 1 + copies, lambda: bodies)
        finally:
            survivor.terminate()
            assert await survivor.wait() == 0

    replies = [json.loads(body) for body in bodies]
    assert len(set(bodies)) == 2, "a repeated reply is not the same, byte for byte"
    assert [r["id"] for r in replies] == ["first:0"] * copies + ["second:0"]
    assert [r["text"].split(" in ")[0] for r in replies[-2:]] == ["1. first", "2. second"]
    store = SQLiteSessionStore(tmp_path / "sessions.db")
    record = await store.load("s")
    await store.aclose()
    assert record is not None
    assert (record.seq, record.agent_state) == (2, {"heard": 2})
    assert record.turns.outcomes["first"].replies == (bodies[0].decode(),)


async def _consumer(folder: Path, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.consumer.acting", str(folder), env=os.environ | environment
    )
