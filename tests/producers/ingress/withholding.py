"""A broker in memory whose confirms the test holds back, and a state that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Self

from sdqueue_producers import MemoryState

from sdqueue.brokers import MemoryBroker, Message, Topology
from sdqueue.errors import BrokerUnavailable, PublishRejected, StoreUnavailable


class Withholding(MemoryBroker):
    """Takes turns at once, and confirms them only when told to; ``give_up`` is as if all their time were over."""

    def __init__(self) -> None:
        super().__init__(Topology(partitions=4))
        self.asked: list[str] = []
        self.within_s: list[float] = []
        self.taken = asyncio.Event()
        self.confirm = asyncio.Event()
        self.give_up = asyncio.Event()
        self.refuse: set[str] = set()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.apply()
        return self

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        if exchange != self.topology.turns:
            await super().publish(exchange, routing_key, message, timeout=timeout)
            return
        self.asked.append(message.message_id or "")
        self.within_s.append(timeout)
        self.taken.set()
        if message.message_id in self.refuse:
            raise PublishRejected("the queue is full")
        told = {asyncio.create_task(event.wait()) for event in (self.confirm, self.give_up)}
        try:
            await asyncio.wait(told, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in told:
                task.cancel()
        if not self.confirm.is_set():
            raise BrokerUnavailable("no confirm")
        await super().publish(exchange, routing_key, message, timeout=timeout)


class AwayState(MemoryState):
    """Cannot be reached; or, ``hanging``, does not answer."""

    def __init__(self, *, hanging: bool = False) -> None:
        super().__init__()
        self._hanging = hanging

    async def _fail(self) -> None:
        if self._hanging:
            await asyncio.Event().wait()
        raise StoreUnavailable("refused")

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        await self._fail()
        raise AssertionError

    async def set(self, values: Mapping[str, str], *, ttl_s: float | None) -> None:
        await self._fail()
