"""Notifier: tells the service manager that started this process how it fares (sd_notify)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, MutableMapping
from typing import Final, Self

from sdqueue.observe.health import Look

BEAT_S: Final = 1.0
"""Seconds between two signs of life, where the service manager does not want them sooner."""

LOOK_S: Final = 3.0
"""Seconds between two looks at whether work is taken, which asks the broker and the store."""

UNREADY_S: Final = 10.0
"""Seconds after which a process that still waits for its servers counts as started: it goes on waiting by itself."""

CLEAN_UP_S: Final = 15.0
"""Seconds that a process may take for its end after the grace period."""

LONGEST_STATUS: Final = 500
"""Characters of a status. systemd takes messages of 4,096 bytes at most."""


class Notifier:
    """Sends systemd's notifications; without a service manager it does nothing.

    Signs of life come from the event loop, so that one that is blocked is noticed and the process started again.

    Parameters:
        address: a datagram socket, by path or, with ``@``, by name; empty: there is nobody to tell.
        watchdog_s: a process that has given no sign of life for so long is killed; 0: none is asked for.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._beat_s = min(BEAT_S, watchdog_s / 2) if watchdog_s else BEAT_S
        self._watched = watchdog_s > 0
        self._ready = self._stopping = False
        self._status = self._ready_status = ""
        self._unsaid: dict[str, str] = {}

    @classmethod
    def take(cls, environ: MutableMapping[str, str] = os.environ) -> Self:
        """As the environment has it, where nothing of it is left: a child process is not the service."""
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog = environ.pop("WATCHDOG_USEC", "")
        ours = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return cls(address, int(watchdog) / 1e6 if ours and watchdog.isdecimal() else 0.0)

    @contextlib.contextmanager
    def beating(self, look: Look | None = None) -> Iterator[None]:
        """Give signs of life while the block lasts, and count as started after a while, ready or not.

        Parameters:
            look: why no work is taken, shown as the status.
        """
        if not self._address:
            yield
            return
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(UNREADY_S, self.ready)]

        def beat() -> None:
            self._tell("WATCHDOG=1" if self._watched else "")
            timers[1:] = [loop.call_later(self._beat_s, beat)]

        beat()
        following = [] if look is None else [asyncio.create_task(self._follow(look), name="status")]
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()
            for task in following:
                task.cancel()

    async def _follow(self, look: Look) -> None:
        while True:
            refusals = await look()
            self._tell(self._changed(f"not ready: {'; '.join(refusals)}" if refusals else self._ready_status))
            await asyncio.sleep(LOOK_S)

    def ready(self, status: str = "") -> None:
        """It is up, which is said once; the status holds whenever nothing speaks against it."""
        self._ready_status = status or self._ready_status
        self._tell("" if self._ready or self._stopping else "READY=1", self._changed(status))
        self._ready = True

    def stopping(self, grace_s: float) -> None:
        """It ends, and has so long for it, whatever the unit says; said once."""
        if not self._stopping:
            self._stopping = True
            longest_us = int((grace_s + CLEAN_UP_S) * 1e6)
            status = self._changed(f"stopping: what runs has {grace_s:g} s to end")
            self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={longest_us}", status)

    def _changed(self, status: str) -> str:
        line = " ".join(status.split())[:LONGEST_STATUS]
        if not line or line == self._status or (self._stopping and not line.startswith("stopping")):
            return ""
        self._status = line
        return f"STATUS={line}"

    def _tell(self, *lines: str) -> None:
        """Send lines, with those that could not be sent before: the loop does not wait for a slow listener."""
        for line in filter(None, lines):
            self._unsaid[line.partition("=")[0]] = line
        if self._address and self._unsaid:
            # One that is full or being replaced is told with the next sign of life.
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaking:
                speaking.setblocking(False)
                speaking.sendto("\n".join(self._unsaid.values()).encode(), self._address)
                self._unsaid.clear()
