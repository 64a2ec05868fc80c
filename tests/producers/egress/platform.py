"""A platform that shows messages, and fails as it is told; the channel that connects to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdqueue_producers import (
    Address,
    Ambiguous,
    BaseChannel,
    Bucket,
    Caps,
    Outgoing,
    Permanent,
    Ref,
    RetryAfter,
    Sent,
    Stream,
)


@dataclass
class Shown:
    """A message as people see it."""

    address: Any
    key: str
    text: str
    texts: list[str] = field(default_factory=list)
    open: bool = False


class FakePlatform:
    """Shows messages by their address, in the order in which they came.

    ``faults`` are taken one a call: ``None``: nothing is wrong; an exception: raised and nothing happens; ``cut``: it
    happens, and nobody learns of it; a callable is called.
    """

    def __init__(self, *, recognises: bool = False, indexed_after: int = 0) -> None:
        self.messages: list[Shown] = []
        self.faults: deque[Any] = deque()
        self.calls: list[tuple[str, str]] = []
        self.recognises = recognises
        self.indexed_after = indexed_after
        self.changed = asyncio.Event()
        self.in_flight: dict[Any, int] = {}
        self.most_in_flight = 0
        self.busy = 0
        self.most_busy = 0
        self.latency = 0.0
        self.hold: Callable[[str, Any], Any] | None = None

    def texts(self, address: Any = None) -> list[str]:
        return [message.text for message in self.messages if address is None or message.address == address]

    async def call(self, kind: str, address: Any, name: str, effect: Callable[[], Any]) -> Any:
        self.calls.append((kind, name))
        self.changed.set()
        key = str(address)
        self.in_flight[key] = self.in_flight.get(key, 0) + 1
        self.busy += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight[key])
        self.most_busy = max(self.most_busy, self.busy)
        try:
            if self.hold is not None:
                await self.hold(kind, address)
            if self.latency:
                await asyncio.sleep(self.latency)
            fault = self.faults.popleft() if self.faults else None
            if callable(fault) and not isinstance(fault, type):
                fault = fault()
            if isinstance(fault, BaseException):
                raise fault
            result = effect()
            self.changed.set()
            if fault == "cut":
                raise Ambiguous("the connection was cut")
            return result
        finally:
            self.in_flight[key] -= 1
            self.busy -= 1

    def post(self, address: Any, key: str, text: str, *, open: bool = False) -> int:  # noqa: A002
        if self.recognises:
            for number, message in enumerate(self.messages):
                if message.key == key:
                    return number
        self.messages.append(Shown(address, key, text, [text], open))
        return len(self.messages) - 1

    def edit(self, number: int, text: str) -> None:
        message = self.messages[number]
        message.text = text
        message.texts.append(text)

    def find(self, key: str) -> int | None:
        if self.indexed_after > 0:
            self.indexed_after -= 1
            return None
        return next((number for number, message in enumerate(self.messages) if message.key == key), None)

    async def until(self, true: Callable[[], bool], *, timeout: float = 100_000.0) -> None:
        async with asyncio.timeout(timeout):
            while not true():
                self.changed.clear()
                if not true():
                    await self.changed.wait()


class FakeChannel(BaseChannel):
    name = "fake"

    def __init__(self, platform: FakePlatform, caps: Caps | None = None, buckets: Sequence[Bucket] = ()) -> None:
        self.platform = platform
        self.caps = caps if caps is not None else Caps()
        self._buckets = buckets
        self.outgoings: list[Outgoing] = []

    def buckets(self, address: Address) -> Sequence[Bucket]:
        if address == "nonsense":
            raise Permanent("bad-address", f"address {address!r} is none")
        return [Bucket(bucket.key.format(address=address), bucket.count, bucket.per_s) for bucket in self._buckets]

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        assert len(outgoing.text) <= self.caps.max_chars
        self.outgoings.append(outgoing)
        number = await self.platform.call(
            "deliver", address, outgoing.key, lambda: self.platform.post(address, outgoing.key, outgoing.text)
        )
        return Sent(number if self.caps.can_edit else None)

    async def edit(self, address: Address, ref: Ref, outgoing: Outgoing) -> Sent:
        assert len(outgoing.text) <= (self.caps.max_edit_chars or self.caps.max_chars)
        await self.platform.call("edit", address, outgoing.key, lambda: self.platform.edit(ref, outgoing.text))
        return Sent(ref)

    async def find(self, address: Address, outgoing: Outgoing) -> Sent | None:
        number = await self.platform.call("find", address, outgoing.key, lambda: self.platform.find(outgoing.key))
        return None if number is None else Sent(number)

    async def stream(self, address: Address, outgoing: Outgoing) -> Stream | None:
        number = await self.platform.call(
            "stream", address, outgoing.key, lambda: self.platform.post(address, outgoing.key, "", open=True)
        )
        return FakeStream(self.platform, address, number)


class FakeStream:
    def __init__(self, platform: FakePlatform, address: Any, number: int) -> None:
        self.ref = number
        self._platform = platform
        self._address = address

    async def append(self, text: str) -> None:
        def append() -> None:
            message = self._platform.messages[self.ref]
            if not message.open:
                raise Permanent("stream-expired", "the stream is over")
            self._platform.edit(self.ref, message.text + text)

        await self._platform.call("append", self._address, str(self.ref), append)

    async def finish(self, outgoing: Outgoing, appended: str) -> Sent:
        def finish() -> None:
            message = self._platform.messages[self.ref]
            if not message.open:
                raise Permanent("stream-expired", "the stream is over")
            assert message.text == appended
            message.open = False
            self._platform.edit(self.ref, outgoing.text)

        await self._platform.call("finish", self._address, outgoing.key, finish)
        return Sent(self.ref)


def server_error() -> RetryAfter:
    return RetryAfter(None, "HTTP 500")
