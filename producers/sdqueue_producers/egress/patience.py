"""Patience: how long one delivery may wait where it is, and what ends its waiting."""

from __future__ import annotations

import asyncio


class Released(Exception):
    """Nothing more is to be done about this reply here: it is delivered again to whoever is next."""


class OutOfPatience(Exception):
    """The reply waits longer than it may here; it goes to the outbox, and was not tried.

    Parameters:
        seconds: when it is worth while to try again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"waits {seconds:g} s")
        self.seconds = seconds


class Patience:
    """Waits, as long as there is time, nothing more urgent is behind, and the reply is still ours.

    Parameters:
        seconds: how long, altogether.
    """

    def __init__(self, seconds: float) -> None:
        self._until = asyncio.get_running_loop().time() + seconds
        self._stirred = asyncio.Event()
        self._released = False
        self._hurried = False

    def restart(self, seconds: float) -> None:
        """Begin to wait for the next reply."""
        self._until = asyncio.get_running_loop().time() + seconds

    def release(self) -> None:
        """The reply is not ours any more, or all is ending."""
        self._released = True
        self._stirred.set()

    def hurry(self) -> None:
        """Too many wait behind."""
        self._hurried = True
        self._stirred.set()

    @property
    def hurried(self) -> bool:
        """Whether too many wait behind."""
        return self._hurried

    def check(self) -> None:
        """See that the reply is still ours.

        Raises:
            Released: it is not.
        """
        if self._released:
            raise Released

    async def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            Released: see :meth:`check`.
            OutOfPatience: it takes too long.
        """
        loop = asyncio.get_running_loop()
        self.check()
        until = loop.time() + seconds
        if self._hurried or until > self._until:
            raise OutOfPatience(seconds)
        try:
            async with asyncio.timeout_at(until):
                await self._stirred.wait()
        except TimeoutError:
            return
        self.check()
        raise OutOfPatience(max(until - loop.time(), 0.0))
