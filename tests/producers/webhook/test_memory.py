"""Which of two ways a reply goes: on the request that is held, or by callback, and never both."""

from __future__ import annotations

import asyncio

from sdqueue_producers import MemoryState
from sdqueue_producers.webhook.memory import TurnMemory


async def test_a_callback_gives_a_holder_the_time_to_say_that_its_client_is_there() -> None:
    memory = TurnMemory(MemoryState(), 60)
    posting = asyncio.create_task(memory.way("t", wait_s=60))
    await asyncio.sleep(0)  # it has looked, and nobody has chosen yet
    assert await memory.choose("t", "held") == "held"
    assert await posting == "held"


async def test_where_nobody_holds_it_is_the_callback_and_a_late_holder_is_told() -> None:
    memory = TurnMemory(MemoryState(), 60)
    assert await memory.way("t", wait_s=0.1) == "callback"
    assert await memory.choose("t", "held") == "callback"
    assert await memory.way("t", wait_s=10) == "callback"


async def test_of_many_who_choose_at_once_all_hear_the_same() -> None:
    memory = TurnMemory(MemoryState(), 60)
    ways = await asyncio.gather(*(memory.choose("t", way) for way in ("held", "callback", "held")))
    assert len(set(ways)) == 1
