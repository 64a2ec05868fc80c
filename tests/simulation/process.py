"""Process: a consumer process of the world, which can be killed, stopped and told to end."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from tests.simulation.loop import OWNER, VirtualLoop


@dataclass
class Surroundings:
    """What a process has around it.

    Parameters:
        loop: makes its time.
        note: writes the trace: who, and what.
        make: makes another process.
        mended: whether what agents died of has been mended.
    """

    loop: VirtualLoop
    note: Callable[[str, str], None] = lambda who, what: None
    make: Callable[[str], Process] | None = None
    mended: bool = False


class Process:
    """Owns everything that its code starts, and loses all of it at once when it dies.

    Parameters:
        around: where it lives.
        name: for the trace.
        on_death: called when it was killed.
        on_freeze: called when it was stopped, with the seconds for which it will stand still.
    """

    def __init__(
        self,
        around: Surroundings,
        name: str,
        on_death: Callable[[], None] = lambda: None,
        on_freeze: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.around = around
        self.name = name
        self.held: list[asyncio.Handle] | None = None
        self.dead = False
        self.died: asyncio.Future[None] = around.loop.create_future()
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, self)
        self._loop = around.loop
        self._on_death = on_death
        self._on_freeze = on_freeze

    @property
    def stopped(self) -> bool:
        """Whether it stands still, for a time or for ever."""
        return self.held is not None

    def start(self, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin to run this."""
        return self._loop.create_task(main, name=self.name, context=self.context)

    def soon(self, callback: Callable[..., object], *args: Any, at: float | None = None) -> None:
        """Call something in this process: a message has come."""
        if at is None:
            self._loop.call_soon(callback, *args, context=self.context)
        else:
            self._loop.call_at(at, callback, *args, context=self.context)

    def child(self, name: str) -> Process:
        """A process that it starts; it lives on when this one dies."""
        assert self.around.make is not None
        return self.around.make(name)

    def note(self, what: str) -> None:
        """Write a line of the trace; the dead say nothing."""
        if not self.dead:
            self.around.note(self.name, what)

    def kill(self) -> None:
        """``kill -9``: nothing of it ever runs again. Code that is in the midst of it goes on to its next await."""
        if self.dead:
            return
        self.note("killed")
        self.dead = True
        self.held = [] if self.held is None else self.held
        self.died.set_result(None)
        self._on_death()

    def freeze(self, seconds: float) -> None:
        """``kill -STOP``, and ``-CONT`` after so many seconds."""
        if not self.stopped:
            self.note(f"stopped for {seconds:.3f} s")
            self.held = []
            self._loop.call_later(seconds, self.thaw, context=contextvars.Context())
            self._on_freeze(seconds)

    def thaw(self) -> None:
        """``kill -CONT``."""
        if self.held is not None and not self.dead:
            self.note("continues")
            self._release()

    def bury(self) -> None:
        """End the tasks of a dead process, which would complain when they are collected. It has no effect any more."""
        assert self.dead
        if self.held is not None:
            self._release()
        for task in self._loop.tasks(self):
            task.cancel()

    def _release(self) -> None:
        held, self.held = self.held, None
        self._loop.resume(held or [])
