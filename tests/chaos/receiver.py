"""The receiver: reads what comes out, the replies of the channel and the dead letters, and loses none."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from tests.chaos.evidence import Letter, Reply
from tests.chaos.plan import CHANNEL
from tests.chaos.producer import LOST

EGRESS: Final[dict[str, Any]] = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-overflow": "reject-publish",
    "x-delivery-limit": 1_000_000,
}
"""How the wire contract wants an egress queue."""


class Receiver:
    """Reads until closed; a connection that is lost is replaced.

    Parameters:
        urls: of the broker's nodes, tried in turn.
        namespace: of the topology, which exists already.
    """

    def __init__(self, urls: Sequence[str], namespace: str) -> None:
        self.replies: list[Reply] = []
        self.letters: list[Letter] = []
        self.changed = asyncio.Event()
        """Set whenever something came."""
        self._urls = itertools.cycle(urls)
        self._namespace = namespace
        self._task: asyncio.Task[None] | None = None
        self._reading = asyncio.Event()
        self._seen: set[str] = set()

    async def open(self) -> None:
        """Return when it reads."""
        self._task = asyncio.create_task(self._keep_reading())
        reading = asyncio.create_task(self._reading.wait())
        await asyncio.wait({self._task, reading}, return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        if self._task.done():
            self._task.result()

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @property
    def answered(self) -> set[str]:
        """The marks of turns that have a final or error reply, and of dead letters."""
        return self._seen

    async def _keep_reading(self) -> None:
        while True:
            try:
                connection = await aio_pika.connect(next(self._urls), heartbeat=4)
            except (*LOST, asyncio.CancelledError):
                _unless_cancelled()
                await asyncio.sleep(0.2)
                continue
            lost = asyncio.Event()
            connection.close_callbacks.add(lambda *_, lost=lost: lost.set())
            try:
                await self._consume(connection)
                self._reading.set()
                await lost.wait()
            except LOST:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                _unless_cancelled()
                await asyncio.sleep(0.2)
            finally:
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(2):
                        await connection.close()

    async def _consume(self, connection: aio_pika.abc.AbstractConnection) -> None:
        channel = await connection.channel()
        await channel.set_qos(500)
        replies = await channel.declare_queue(f"{self._namespace}.replies.{CHANNEL}", durable=True, arguments=EGRESS)
        await replies.bind(f"{self._namespace}.replies", f"{CHANNEL}.#")
        dead = await channel.get_queue(f"{self._namespace}.dead", ensure=False)
        await replies.consume(self._taking(self._on_reply))
        await dead.consume(self._taking(self._on_letter))

    def _taking(
        self, take: Callable[[AbstractIncomingMessage], str | None]
    ) -> Callable[[AbstractIncomingMessage], Any]:
        async def on_message(message: AbstractIncomingMessage) -> None:
            mark = take(message)
            if mark is not None:
                self._seen.add(mark)
            self.changed.set()
            with contextlib.suppress(Exception):  # the channel has gone: it comes again, and is the same
                await message.ack()

        return on_message

    def _on_reply(self, message: AbstractIncomingMessage) -> str | None:
        body = json.loads(message.body)
        mark = str(body["metadata"].get("mark", body["turn_id"]))
        self.replies.append(
            Reply(
                id=body["id"],
                mark=mark,
                session=body["session_id"],
                seq=body["seq"],
                kind=body["kind"],
                run=body["text"] if body["kind"] == "final" else "",
                at=time.monotonic(),
                body=message.body,
            )
        )
        return mark if body["kind"] in ("final", "error") else None

    def _on_letter(self, message: AbstractIncomingMessage) -> str:
        mark = message.message_id or _mark_of(message.body)
        self.letters.append(Letter(mark, str(message.headers.get("sdqueue-reason", "")), time.monotonic()))
        return mark


def _mark_of(body: bytes) -> str:
    try:
        return str(json.loads(body)["metadata"]["mark"])
    except (ValueError, KeyError, TypeError):
        return ""


def _unless_cancelled() -> None:
    """aiormq cancels what waits on a connection that is lost; only a cancellation of this task itself ends it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
