"""Script and ScriptRunner: Lua scripts, those of many sessions sent together.

redis-py takes far longer to send one command than Redis takes to answer it, so the calls that many sessions make at
the same time travel in one pipeline.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

from redis.exceptions import NoScriptError

from sdqueue.errors import StoreUnavailable
from sdqueue.sessions.redis.connection import CONNECTION_ERRORS, Command, Link, unavailable
from sdqueue.sessions.redis.keys import Keys

BATCH: Final = 200
"""Calls in one pipeline at most, so that no caller waits for many others' replies."""
IN_FLIGHT: Final = 3
"""Pipelines under way at once, each on a connection of its own."""

_FOLDER: Final = resources.files(__package__) / "lua"


class Script:
    """A Lua script made of the files named, in this order.

    Parameters:
        parts: names of files, without ``.lua``.
        folder: where they are.
    """

    def __init__(self, *parts: str, folder: Traversable = _FOLDER) -> None:
        self.text = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


ACQUIRE: Final = Script("keys", "lock", "acquire")
WITHDRAW: Final = Script("keys", "lock", "withdraw")
RENEW: Final = Script("keys", "renew")
LOAD: Final = Script("keys", "record", "load")
SAVE: Final = Script("keys", "record", "save")
DELETE: Final = Script("keys", "delete")
DISCARD: Final = Script("keys", "discard")
BEGIN: Final = Script("keys", "record", "begin")
REWIND: Final = Script("keys", "record", "rewind")
LEASE: Final = Script("keys", "lock", "record", "backlog", "lease")
COMMIT: Final = Script("keys", "lock", "record", "commit")
ABANDON: Final = Script("keys", "lock", "record", "abandon")
DEFER: Final = Script("keys", "backlog", "defer")
DEFERRED: Final = Script("keys", "backlog", "deferred")
UNDEFER: Final = Script("keys", "backlog", "undefer")
STANDING: Final = Script("keys", "backlog", "standing")
REFUSE: Final = Script("keys", "backlog", "refuse")
BACKLOGGED: Final = Script("backlogged")
UNLIST: Final = Script("unlist")
KEYGET: Final = Script("keyget")
KEYGONE: Final = Script("keygone")
KEYSLISTED: Final = Script("keyslisted")
KEYSWAP: Final = Script("keyswap")


class ScriptRunner:
    """Sends the calls made within one turn of the event loop, and while others are under way, together.

    Parameters:
        link: where to.
        in_flight: how many batches may be under way at once.
        timeout_s: how long a batch may take; default: the link's.
    """

    def __init__(self, link: Link, *, in_flight: int = IN_FLIGHT, timeout_s: float | None = None) -> None:
        self.link = link
        self._in_flight = in_flight
        self._timeout_s = link.timeout_s if timeout_s is None else timeout_s
        self._queue: deque[_Call] = deque()
        self._batches: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._closed = False
        self._made = 0
        self._sent = 0

    def call(self, script: Script, keys: Keys, args: Sequence[Any]) -> asyncio.Future[Any]:
        """Run a script. Awaiting the result raises StoreUnavailable where it has none.

        A caller that is cancelled gives up the answer, not the call.
        """
        return self._enqueue(("EVALSHA", script.sha, len(keys), *keys, *args), script)

    def command(self, *command: Any) -> asyncio.Future[Any]:
        """Run a plain command, likewise."""
        return self._enqueue(command, None)

    async def settled(self) -> None:
        """Wait until every call made before has been answered or has failed, whoever waits for it."""
        made = self._made
        while self._sent < made:
            if self._batches:
                await asyncio.wait(self._batches, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0)  # the queue is sent at the end of this turn of the loop
        if self._batches:
            await asyncio.wait(self._batches.copy())

    async def aclose(self) -> None:
        """Let what was called be sent, then refuse further calls. Idempotent."""
        self._closed = True
        await self.settled()

    def _enqueue(self, command: Command, script: Script | None) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self._closed:
            answer.set_exception(StoreUnavailable(f"the connection to Redis at {self.link.url} was closed by aclose()"))
            return answer
        self._queue.append((command, script, answer))
        self._made += 1
        if not self._scheduled and len(self._batches) < self._in_flight:
            self._scheduled = True
            loop.call_soon(self._send)
        return answer

    def _send(self) -> None:
        self._scheduled = False
        queue = self._queue
        while queue and len(self._batches) < self._in_flight:
            batch = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
            self._sent += len(batch)
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._batches.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        if task.cancelled():  # the event loop is ending: it would destroy a task that begins now
            while self._queue:
                _, _, answer = self._queue.popleft()
                answer.cancel()
                self._sent += 1
            return
        self._send()

    async def _run(self, batch: list[_Call]) -> None:
        try:
            replies = await self._execute(batch)
        except asyncio.CancelledError:  # the event loop is ending
            for _, _, answer in batch:
                answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who wait
            replies = [error] * len(batch)
        for (_, _, answer), reply in zip(batch, replies, strict=True):
            if answer.done():
                continue
            if not isinstance(reply, Exception):
                answer.set_result(reply)
            elif isinstance(reply, CONNECTION_ERRORS):
                answer.set_exception(unavailable(self.link, reply))
            else:
                answer.set_exception(reply)

    async def _execute(self, batch: list[_Call]) -> list[Any]:
        replies = await self.link.execute([command for command, _, _ in batch], self._timeout_s)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            commands = [_with_text(*batch[i][:2]) for i in missing]
            for i, reply in zip(missing, await self.link.execute(commands, self._timeout_s), strict=True):
                replies[i] = reply
        return replies


_Call = tuple[Command, Script | None, asyncio.Future[Any]]


def _with_text(command: Command, script: Script | None) -> Command:
    """The same call with the script's text, which Redis then knows: it forgets scripts at a restart or a failover."""
    assert script is not None
    return ("EVAL", script.text, *command[2:])
