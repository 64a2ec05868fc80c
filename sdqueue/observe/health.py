"""Health: what a process says to probes, of its life and of its readiness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import CancelledError as FutureCancelled
from typing import Final, Self

from sdqueue.errors import SdqueueError

BEAT_S: Final = 0.25
"""How often the event loop says that it turns."""

FRESH_S: Final = 1.0
"""Seconds that the answers of backends hold, so that no stranger can load them with questions."""

ASK_S: Final = 1.5
"""Seconds that a backend may take to answer."""

GIVE_UP_S: Final = 2.0
"""Seconds after which an answer is not waited for that does not even come as an error."""

ANSWER_S: Final = 2.5
"""Seconds that the event loop may take to tell whether it is ready; probes wait 3 s."""

Look = Callable[[], Awaitable[Sequence[str]]]
"""Tells in the event loop why no work is taken; nothing where it is."""


class Readiness:
    """Why a process takes no work now.

    Parameters:
        known: reasons that cost nothing to know.
        checks: by the name of a backend. Each asks it, within about :data:`ASK_S`, and raises an
            :class:`~sdqueue.SdqueueError` with the reason; at most once in :data:`FRESH_S`, whoever wants to know.
    """

    def __init__(self, known: Callable[[], Iterable[str]] = tuple, **checks: Callable[[], Awaitable[object]]) -> None:
        self._known = known
        self._checks = checks
        self._lock = asyncio.Lock()
        self._asked_at = float("-inf")
        self._refusals: tuple[str, ...] = ()

    async def look(self) -> tuple[str, ...]:
        """The reasons; none where work is taken."""
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if clock() - self._asked_at >= FRESH_S:
                answers = await asyncio.gather(*(_refusal(name, check) for name, check in self._checks.items()))
                self._refusals = tuple(answer for answer in answers if answer is not None)
                self._asked_at = clock()
        return (*self._known(), *self._refusals)


async def _refusal(name: str, check: Callable[[], Awaitable[object]]) -> str | None:
    try:
        async with asyncio.timeout(GIVE_UP_S):
            await check()
    except SdqueueError as error:
        return f"{name}: {error}"
    except TimeoutError:
        return f"{name}: no answer within {GIVE_UP_S:g} s"
    except Exception as error:  # noqa: BLE001 -- told like the others: who asks wants a reason, whatever it is
        return f"{name}: {type(error).__name__}: {error}"
    return None


class Health:
    """The life and the readiness of this process, for the length of a ``with`` block in its event loop.

    :meth:`alive` and :meth:`ready` are asked from other threads: a loop that is blocked could not answer itself. Life
    never depends on a backend, for which a restart would be no help.

    Parameters:
        limit_s: seconds that the event loop may stand still.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._last = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._look: Look | None = None
        self._stopping = False

    def __enter__(self) -> Self:
        self._beat()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def begun(self, look: Look) -> None:
        """From now on it is ready when this finds nothing against it; before, it is starting."""
        self._look = look

    def stopping(self) -> None:
        """From now on it takes nothing more."""
        self._stopping = True

    def alive(self) -> Sequence[str]:
        """Why the process should be ended and started again; nothing where it lives."""
        still = time.monotonic() - self._last
        if self._timer is None or still < self._limit_s:  # without a timer it is about to end
            return ()
        return (f"the event loop has not turned for {still:.0f} s; the limit is {self._limit_s:g} s",)

    def ready(self) -> Sequence[str]:
        """Why it takes no work now; nothing where it does."""
        if self._stopping:
            return ("stopping",)
        if self._look is None:
            return ("starting",)
        asking = self.look()
        try:
            answer = asyncio.run_coroutine_threadsafe(asking, self._loop)
        except RuntimeError:  # the loop has ended
            asking.close()
            return ("stopping",)
        try:
            return answer.result(ANSWER_S)
        except TimeoutError:
            answer.cancel()
            return (f"the event loop has not answered for {ANSWER_S:g} s",)
        except FutureCancelled:  # it ends just now
            return ("stopping",)

    async def look(self) -> Sequence[str]:
        """What :meth:`ready` tells, for those who ask in the event loop."""
        if self._stopping:
            return ("stopping",)
        return await self._look() if self._look is not None else ("starting",)

    def _beat(self) -> None:
        self._last = time.monotonic()
        self._timer = self._loop.call_later(BEAT_S, self._beat)
