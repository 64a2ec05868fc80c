"""An office of dead letters: two clerks at one queue, each with a broker of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sdqueue.brokers import Broker, Message
from sdqueue.deadletters import DeadLetter, DeadLetters
from sdqueue.messages import DeadTurn, partition_of, routing_key

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATIENCE_S = 60.0


class Office:
    """Puts letters into the queue as consumers do, and looks at what is left, independently of what is tested."""

    def __init__(self, broker: Broker, other: Broker) -> None:
        self.broker = broker
        self.other = other
        self.topology = broker.topology
        self.letters = DeadLetters(broker, patience_s=PATIENCE_S)
        self.others = DeadLetters(other, patience_s=PATIENCE_S)

    async def bury(self, turn_id: str, session: str = "s", *, minute: int = 0, **known: Any) -> None:
        """A consumer gives a turn up."""
        fields = {"id": turn_id, "session_id": session, "text": f"of {turn_id}"}
        why = DeadTurn(
            turn_id=turn_id,
            session_id=session,
            died_at=NOON + timedelta(minutes=minute),
            **{"reason": "agent-failed", "error": "no idea", "channel": "default", "attempts": 3} | known,
        )
        await self.put(json.dumps(fields).encode(), why.headers(), message_id=turn_id)

    async def put(self, body: bytes, headers: dict[str, Any], key: str = "0001", **properties: Any) -> None:
        """Somebody publishes to the dead letters."""
        await self.broker.publish(self.topology.dead, key, Message(body, headers=headers, **properties))

    async def bury_many(self, count: int, session: str = "s") -> list[str]:
        names = [f"t{n:05}" for n in range(count)]
        for start in range(0, count, 100):
            await asyncio.gather(*(self.bury(name, session) for name in names[start : start + 100]))
        return names

    async def names(self) -> list[str]:
        return [letter.name for letter in (await self.others.list()).letters]

    async def put_back(self, session: str = "s") -> list[Message]:
        """The turns that wait in a session's partition; they are taken out."""
        return await self.drain(self.topology.partition_queue(partition_of(session, self.topology.partitions)))

    async def drain(self, queue: str) -> list[Message]:
        """All that waits in a queue; it is taken out."""
        expected = await self.other.depth(queue)
        found: list[Message] = []
        done = asyncio.Event()

        def take(delivery: Any) -> None:
            found.append(delivery.message)
            delivery.subscription.ack(delivery)
            if len(found) >= expected:
                done.set()

        subscription = await self.other.subscribe(queue, take, prefetch=1000)
        async with asyncio.timeout(30):
            if expected:
                await done.wait()
        await subscription.close()
        return found

    async def expect_depth(self, queue: str, count: int) -> None:
        """A broker may count with a delay, and counting sends no event."""
        found = -1
        for _ in range(200):
            found = await self.other.depth(queue)
            if found == count:
                break
            await asyncio.sleep(0.05)
        assert found == count


def ids(letters: Sequence[DeadLetter]) -> list[str]:
    return [letter.name for letter in letters]


def key_of(session: str, partitions: int = 4) -> str:
    return routing_key(partition_of(session, partitions))
