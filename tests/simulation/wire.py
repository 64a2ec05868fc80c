"""Wire: the way of a process to a backend; every await of the consumer that touches one comes by here."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any

from tests.simulation.loop import VirtualLoop
from tests.simulation.process import Process
from tests.simulation.profile import Profile

PATIENCE_S = 2.0
"""After so long a call without an answer fails."""


LATEST_S = 10.0
"""So long after it failed a call may still have its effect."""


class Fault(Enum):
    """What happens to a call."""

    NONE = auto()
    REFUSED = auto()  # fails, and has no effect
    UNANSWERED = auto()  # fails, but has had its effect
    LATE = auto()  # fails, but will have its effect some time later
    FATAL = auto()  # the process dies before it is sent
    FATAL_AFTER = auto()  # the process dies while it is under way
    FREEZING = auto()  # the process stands still before it is sent
    FREEZING_AFTER = auto()  # the process stands still before it gets the answer
    DEFECTIVE = auto()  # an exception that is no backend's


class Backend:
    """One side of the world: the broker, or the store with its locks. It may be away for a while.

    Whatever is done there is done at once, and in a context of its own: it goes on though the process that asked for
    it has died.
    """

    def __init__(self, name: str, error: type[Exception]) -> None:
        self.name = name
        self.error = error
        self.away = False
        self.context = contextvars.Context()


class Wire:
    """Carries the calls of one process, as well as the seed lets them pass.

    Parameters:
        loop: the world's.
        process: who calls.
        profile: how often what goes wrong.
        chance: decides.
    """

    def __init__(self, loop: VirtualLoop, process: Process, profile: Profile, chance: random.Random) -> None:
        self.loop = loop
        self.process = process
        self.chance = chance
        self.calm = False
        """Whether nothing goes wrong any more."""
        self._profile = profile

    def latency(self) -> float:
        """Seconds on the way, mostly none."""
        profile = self._profile
        if self.calm or self.chance.random() >= profile.slow:
            return 0.0
        return self.chance.expovariate(1 / profile.latency_s)

    async def call(self, backend: Backend, what: str, effect: Callable[[], Any], *, defective: bool = False) -> Any:
        """Have something done by a backend.

        Parameters:
            backend: by whom.
            what: for the trace.
            effect: does it.
            defective: whether it may fail by an exception that no backend should raise.
        """
        process = self.process
        if process.dead:
            raise asyncio.CancelledError("its process is dead")
        await asyncio.sleep(self.latency())
        fault = self._fault(defective)
        if backend.away:
            await asyncio.sleep(self.chance.uniform(0, PATIENCE_S))
            raise self._failed(backend, what, "away")
        match fault:
            case Fault.NONE:
                pass
            case Fault.REFUSED:
                raise self._failed(backend, what, "refused")
            case Fault.DEFECTIVE:
                process.note(f"{what}: defective")
                raise RuntimeError(f"{what}: a defect")
            case Fault.FATAL:
                process.kill()
                await self.loop.create_future()
            case Fault.FREEZING:
                process.freeze(self.chance.uniform(0.5, 20))
                await asyncio.sleep(0)
            case Fault.LATE:
                self.loop.call_later(
                    self.chance.uniform(0, LATEST_S), self._have_done, what, effect, context=backend.context
                )
                raise self._failed(backend, what, "will be done late")
        answer = self._send(backend, what, effect)
        match fault:
            case Fault.FATAL_AFTER:
                process.kill()
            case Fault.FREEZING_AFTER:
                process.freeze(self.chance.uniform(0.5, 20))
            case Fault.UNANSWERED:
                answer.add_done_callback(_take)
                await asyncio.sleep(self.chance.uniform(0, PATIENCE_S))
                raise self._failed(backend, what, "no answer")
        return await answer

    def _fault(self, defective: bool) -> Fault:
        if self.calm:
            return Fault.NONE
        profile, drawn = self._profile, self.chance.random()
        for share, fault in (
            (profile.refused, Fault.REFUSED),
            (profile.unanswered, Fault.UNANSWERED),
            (profile.late, Fault.LATE),
            (profile.fatal / 2, Fault.FATAL),
            (profile.fatal / 2, Fault.FATAL_AFTER),
            (profile.freezing / 2, Fault.FREEZING),
            (profile.freezing / 2, Fault.FREEZING_AFTER),
            (profile.defective if defective else 0.0, Fault.DEFECTIVE),
        ):
            drawn -= share
            if drawn < 0:
                return fault
        return Fault.NONE

    def _failed(self, backend: Backend, what: str, how: str) -> Exception:
        self.process.note(f"{what}: {how}")
        return backend.error(f"{what}: {how}")

    def _send(self, backend: Backend, what: str, effect: Callable[[], Any]) -> asyncio.Future[Any]:
        """Done when the answer is back; from here on it has its effect, whatever becomes of the process."""
        answer = self.loop.create_future()
        there, back = self.latency(), self.latency()
        if there:
            self.loop.call_later(there, self._arrive, what, effect, answer, back, context=backend.context)
        else:
            backend.context.run(self._arrive, what, effect, answer, back)
        return answer

    def _arrive(self, what: str, effect: Callable[[], Any], answer: asyncio.Future[Any], back: float) -> None:
        result, error = self._have_done(what, effect)
        if back:
            self.loop.call_later(back, _answer, answer, result, error)
        else:
            _answer(answer, result, error)

    def _have_done(self, what: str, effect: Callable[[], Any]) -> tuple[Any, Exception | None]:
        try:
            result = effect()
        except Exception as error:
            self.process.around.note(self.process.name, f"{what}: {type(error).__name__}")
            return None, error
        self.process.around.note(self.process.name, what)
        return result, None


def _answer(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return  # nobody waits for it any more
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


def _take(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine of a memory backend, which never really waits."""
    try:
        while True:
            if work.send(None) is not None:
                raise AssertionError(f"{work!r} waits for something")
    except StopIteration as end:
        return end.value
