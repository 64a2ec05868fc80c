"""Deltas: the pieces of a streamed answer, sent while it is being made."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sdqueue.consumer.replies import Addressee, make_reply
from sdqueue.messages import StreamPosition
from sdqueue.streaming import LogEntry, LogLine, StreamOffset

WINDOW: Final = 4
"""Unconfirmed deltas of a turn. Pieces that come while there are so many go out together as the next one, so a fast
agent or a slow broker makes larger deltas and never a queue of them."""


@dataclass(frozen=True)
class DeltaForm:
    """What the deltas of a turn have in common.

    Parameters:
        to: who they are for.
        seq: the number of the final reply to come.
        replay: how often the turn was put back from the dead letters.
        consumer: who says it.
    """

    to: Addressee
    seq: int
    replay: int
    consumer: str

    def make(self, attempt: int, word: str, index: int, text: str) -> LogEntry:
        """A delta with its place.

        Raises:
            AgentResultError: the text cannot be written as JSON.
        """
        offset = StreamOffset.of(attempt, index, replay=self.replay)
        position = StreamPosition(attempt=attempt, index=index, restart=attempt > 1 and index == 0, offset=str(offset))
        body = make_reply(
            self.to,
            "delta",
            text,
            seq=self.seq,
            part=f"{self.replay}.{attempt}-{word}.{index}",
            stream=position.model_dump(),
            attempt=attempt,
            consumer=self.consumer,
        )
        return LogEntry(offset, body)


class DeltaSender:
    """Sends what an agent says, in order, and waits for nobody.

    A delta is given to the broker once and not repeated: the final reply has the whole text. It is given before the
    final reply, on the same channel, so that it arrives before it.

    Parameters:
        form: what the deltas are made with.
        attempt: the number of this start of the agent.
        send: begins to publish a body, and returns the tasks that wait for the confirms.
        log: keeps deltas for those who read on later; ``None``: nobody does.
    """

    def __init__(
        self,
        form: DeltaForm,
        attempt: int,
        send: Callable[[str], Sequence[asyncio.Task[None]]],
        log: LogLine | None = None,
    ) -> None:
        self._form = form
        self._send = send
        self._log = log
        self._said: deque[str] = deque()
        self._sending: asyncio.Handle | None = None
        self._error: Exception | None = None
        self._ended = False
        self._begin(attempt)

    def push(self, text: str) -> None:
        """Send a piece soon; nothing after the end, since an abandoned agent may go on talking."""
        if self._ended or self._error is not None:
            return
        self._said.append(text)
        self._send_soon()

    async def finish(self) -> None:
        """Send the rest, so that what is published from now on comes after it. No confirm is waited for.

        Raises:
            AgentResultError: something that was said cannot be written as JSON.
        """
        self._end()
        if self._said and self._error is None:
            self._send_next()
        if self._error is not None:
            raise self._error
        # A publish that was begun reaches the broker in the next turn of the loop.
        await asyncio.sleep(0)

    def abort(self) -> None:
        """Send no more, and of what is under way, what has not gone yet neither."""
        self._end()
        self._said.clear()
        for task in [task for tasks in self._open.values() for task in tasks]:
            task.cancel()

    def restart(self, attempt: int) -> None:
        """Go on with another start of the agent, which begins its answer anew."""
        self.abort()
        self._begin(attempt)
        self._ended = False

    def _begin(self, attempt: int) -> None:
        self._attempt = attempt
        self._word = uuid.uuid4().hex[:8]
        self._index = 0
        self._open: dict[int, set[asyncio.Task[None]]] = {}  # by index: what is not confirmed

    def _end(self) -> None:
        self._ended = True
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _send_soon(self) -> None:
        # What an agent says within one turn of the loop goes out together.
        if self._sending is None and len(self._open) < WINDOW:
            self._sending = asyncio.get_running_loop().call_soon(self._send_next)

    def _send_next(self) -> None:
        self._sending = None
        text = "".join(self._said)
        self._said.clear()
        try:
            entry = self._form.make(self._attempt, self._word, self._index, text)
        except Exception as error:  # noqa: BLE001 -- raised again where the turn is
            self._error = error
            return
        if self._log is not None:
            self._log.write(entry)
        tasks = set(self._send(entry.body))
        index, self._index = self._index, self._index + 1
        opened = self._open
        opened[index] = tasks
        for task in tasks:
            task.add_done_callback(lambda done: self._confirmed(opened, index, done))

    def _confirmed(self, opened: dict[int, set[asyncio.Task[None]]], index: int, task: asyncio.Task[None]) -> None:
        opened[index].discard(task)
        if not opened[index]:
            del opened[index]
            if self._said and not self._ended:
                self._send_soon()
