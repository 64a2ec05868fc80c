"""Children: the few child processes of a consumer, and the line of those who wait for one."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Final

from sdqueue.consumer.child import Child, ChildNotStarted

AT_ONCE: Final = 16
"""Child processes at a time. A crash makes suspects of all turns that ran beside the poison, and each child costs an
interpreter with the agent's imports; most of its life it waits for a model."""

STARTING_AT_ONCE: Final = os.cpu_count() or 1
"""Children being started at a time: more of them would only wait for each other, and the first turns with them."""

START_S: Final = 30.0
"""Seconds for Python to start and the agent to be imported."""

IDLE_S: Final = 10.0
"""Seconds without a turn after which a child is let go."""


class Children:
    """Child processes that are used again, started when somebody waits for one and let go when nobody does.

    Parameters:
        agent: what they load, by its name for :func:`~sdqueue.agents.load_agents`.
    """

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._count = 0  # those being started too
        self._starting: set[asyncio.Task[None]] = set()
        self._idle: dict[Child, asyncio.TimerHandle] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[Child]] = deque()
        self._waiting_for_fresh: deque[asyncio.Future[Child]] = deque()
        self._open = True

    async def take(self, *, fresh: bool) -> Child:
        """Wait for a child, which is the caller's until :meth:`give_back`.

        Parameters:
            fresh: one that has had no turn yet; those who need it are served first.

        Raises:
            ChildNotStarted: one was started for this and did not come up.
        """
        if not self._open:
            raise ChildNotStarted("the consumer has stopped")
        line = self._waiting_for_fresh if fresh else self._waiting
        waiter: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        line.append(waiter)
        self._serve()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter in line:
                line.remove(waiter)
            elif not waiter.cancelled() and waiter.exception() is None:
                self.give_back(waiter.result())  # it came at the same moment
            raise

    def give_back(self, child: Child) -> None:
        """Return a child, living or dead."""
        if child.living and self._open:
            self._idle[child] = asyncio.get_running_loop().call_later(IDLE_S, self._dismiss, child)
        else:
            self._let_go(child)
        self._serve()

    async def aclose(self) -> None:
        """Let all of them go."""
        self._open = False
        for task in self._starting:
            task.cancel()
        while self._idle:
            self._dismiss(next(iter(self._idle)))
        await asyncio.gather(*self._starting, *self._leaving, return_exceptions=True)

    def _serve(self) -> None:
        """Hand out the idle ones, and start as many as are still waited for."""
        if not self._open:
            return
        if len(self._waiting_for_fresh) > len(self._starting) and self._count >= AT_ONCE and self._idle:
            self._dismiss(next(iter(self._idle)))
        while self._idle and (waiter := _first(self._waiting)):
            child, timer = self._idle.popitem()  # the last used, so that those not needed grow old
            timer.cancel()
            waiter.set_result(child)
        waiting = len(self._waiting) + len(self._waiting_for_fresh)
        while len(self._starting) < min(waiting, STARTING_AT_ONCE) and self._count < AT_ONCE:
            self._count += 1
            task = asyncio.create_task(self._start(), name="start of a child")
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)
            task.add_done_callback(lambda _: self._serve())

    async def _start(self) -> None:
        try:
            child = await Child.start(self._agent, timeout=START_S)
        except ChildNotStarted as error:
            self._count -= 1
            if waiter := _first(self._waiting_for_fresh) or _first(self._waiting):
                waiter.set_exception(error)
            return
        if waiter := _first(self._waiting_for_fresh) or _first(self._waiting):
            waiter.set_result(child)
        else:
            self.give_back(child)

    def _dismiss(self, child: Child) -> None:
        self._idle.pop(child).cancel()
        self._let_go(child)

    def _let_go(self, child: Child) -> None:
        self._count -= 1
        leaving = asyncio.create_task(child.close(), name=f"child {child.pid} leaves")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)


def _first(line: deque[asyncio.Future[Child]]) -> asyncio.Future[Child] | None:
    """Take the first out of the line. Those who were cancelled stand there until their tasks run."""
    while line:
        waiter = line.popleft()
        if not waiter.done():
            return waiter
    return None
