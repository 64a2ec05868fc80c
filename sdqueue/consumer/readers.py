"""Readers: one for each queue of turns, as many as there are partitions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping

from sdqueue.brokers import Subscription
from sdqueue.consumer.reader import QueueReader


class Readers(Mapping[str, QueueReader]):
    """The readers by queue, each with the task that it runs in.

    Parameters:
        make: makes the reader of a queue.
        queues: their names.
    """

    def __init__(self, make: Callable[[str], QueueReader], queues: Iterable[str]) -> None:
        self._make = make
        self._readers = {queue: make(queue) for queue in queues}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __getitem__(self, queue: str) -> QueueReader:
        return self._readers[queue]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def start(self, group: asyncio.TaskGroup) -> None:
        """Let all of them run."""
        self._group = group
        for reader in self.values():
            self._start(reader)

    def repartition(self, queues: Iterable[str]) -> None:
        """Have readers for these queues and no others; those that go must be idle."""
        wanted = dict.fromkeys(queues)
        for queue in [queue for queue in self._readers if queue not in wanted]:
            del self._readers[queue]
            self._tasks.pop(queue).cancel()
        for queue in wanted:
            if queue not in self._readers:
                self._readers[queue] = self._make(queue)
                self._start(self._readers[queue])

    def give_up(self, queue: str, subscription: Subscription) -> None:
        """End a generation, see :meth:`QueueReader.give_up`. One of a queue that is gone has ended already."""
        if queue in self._readers:
            self._readers[queue].give_up(subscription)

    async def drain(self) -> None:
        """See :meth:`QueueReader.drain`."""
        await asyncio.gather(*(reader.drain() for reader in self.values()))

    async def close(self) -> None:
        """End all of them now."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*(reader.close() for reader in self.values()))

    def _start(self, reader: QueueReader) -> None:
        if self._group is not None:
            self._tasks[reader.queue] = self._group.create_task(reader.run(), name=f"reader {reader.queue}")
