"""VirtualLoop: an asyncio event loop whose time is made up, and whose callbacks belong to processes."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol


class Owner(Protocol):
    """What callbacks belong to; while it stands still they are held back."""

    held: list[asyncio.Handle] | None
    """Callbacks that came while it stood still; ``None`` while it runs."""


OWNER: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("simulation_owner", default=None)
"""Whose the running code is. Tasks, timers and callbacks inherit it with their context, so everything that a process
starts belongs to it."""


class Deadlock(Exception):
    """Nothing is ready, no timer is set, and yet something is awaited; or it goes on and on."""


MAX_STEPS = 2_000_000
"""Callbacks of one loop; a world needs some ten thousand."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs what is ready, and when nothing is, moves the clock to the next timer. There is no I/O and no thread.

    Callbacks run in the order in which they were scheduled, timers of one moment in the order in which they were set,
    as on asyncio's own loop.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        """What asyncio had to complain about: exceptions of callbacks, and of tasks that nobody has asked."""
        self.steps = 0
        """Callbacks run so far."""
        self._now = 1000.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count(1)
        self._tasks: dict[_Task, None] = {}
        self._running = False
        self._closed = False

    def time(self) -> float:
        """The virtual seconds."""
        return self._now

    def tasks(self, owner: Owner | None) -> list[asyncio.Task[Any]]:
        """Those of an owner that have not ended, in the order in which they were made."""
        return [task for task in self._tasks if task.owner is owner]

    # Scheduling

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        context = contextvars.copy_context() if context is None else context
        handle = _Handle(callback, args, self, context)
        handle.owner = context.get(OWNER)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        context = contextvars.copy_context() if context is None else context
        handle = _TimerHandle(when, callback, args, self, context)
        handle.owner = context.get(OWNER)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def resume(self, handles: list[asyncio.Handle]) -> None:
        """Run callbacks that were held back."""
        self._ready.extend(handles)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # it is left where it is, and skipped

    # Futures and tasks

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **more: Any,
    ) -> asyncio.Task[Any]:
        owner = (contextvars.copy_context() if context is None else context).get(OWNER)
        task = _Task(coro, loop=self, name=name, context=context, number=next(self._numbers), owner=owner)
        self._tasks[task] = None
        task.add_done_callback(self._forget, context=_NOBODY)
        return task

    def _forget(self, task: Any) -> None:
        del self._tasks[task]

    # Running

    def run_until_complete(self, future: Any) -> Any:
        """Run until this has ended, and return its result.

        Raises:
            Deadlock: it cannot end.
        """
        task = asyncio.ensure_future(future, loop=self)
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        self._running = True
        try:
            while not task.done():
                self._run_once()
                self.steps += 1
                if self.steps > MAX_STEPS:
                    raise Deadlock(f"something goes round and round at {self._now:g} s")
        finally:
            self._running = False
            asyncio._set_running_loop(before)
        return task.result()

    def _run_once(self) -> None:
        if not self._ready:
            self._advance()
        handle = self._ready.popleft()
        if handle._cancelled:
            return
        owner = handle.owner  # type: ignore[attr-defined]
        if owner is not None and owner.held is not None:
            owner.held.append(handle)
        else:
            handle._run()

    def _advance(self) -> None:
        while self._timers:
            when, _, handle = heapq.heappop(self._timers)
            if not handle._cancelled:
                self._now = max(self._now, when)
                self._ready.append(handle)
                return
        raise Deadlock("nothing is ready, no timer is set, and yet something is awaited")

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")


class _Handle(asyncio.Handle):
    __slots__ = ("owner",)


class _TimerHandle(asyncio.TimerHandle):
    __slots__ = ("owner",)


class _Task(asyncio.Task[Any]):
    """A task with the same hash in every run: a TaskGroup cancels its tasks in the order of a set."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, owner: Owner | None, **more: Any) -> None:
        self.number = number  # asked for by asyncio itself, before the task is complete
        self.owner = owner
        super().__init__(coro, **more)

    def __hash__(self) -> int:
        return self.number


_NOBODY = contextvars.Context()
