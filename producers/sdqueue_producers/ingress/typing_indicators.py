"""TypingIndicators: while turns run, their platforms show that an answer is being made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sdqueue.errors import SdqueueError
from sdqueue.messages import InboundTurn
from sdqueue_producers.channel import Channel
from sdqueue_producers.ingress.options import IngressOptions
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.state import ProducerState

LOOK_S: Final = 1.0
"""Seconds between two looks which turns have ended."""

CALL_S: Final = 5.0
"""Seconds that a platform may take for one call."""

RENEWED_AT: Final = 0.8
"""The part of an indicator's life after which it is shown anew."""


@dataclass(eq=False)
class _Shown:
    channel: Channel
    turn: InboundTurn
    began: float
    shown_at: float
    call: asyncio.Task[None] | None = None

    @property
    def key(self) -> str:
        return f"{self.channel.name}:ended:{self.turn.id}"


class TypingIndicators:
    """Keeps up the indicators of a bounded number of turns. Nothing waits for it, and its errors are only counted.

    That a turn has ended is what the egress notes in the state. Used as ``async with``.

    Parameters:
        state: has the notes.
        options: the bounds.
        observer: hears of errors.
        look_s: seconds between two looks at the state.
    """

    def __init__(
        self, state: ProducerState, options: IngressOptions, observer: ProducerObserver, *, look_s: float = LOOK_S
    ) -> None:
        self._state = state
        self._options = options
        self._observer = observer
        self._look_s = look_s
        self._shown: dict[tuple[str, str], _Shown] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._some = asyncio.Event()
        self._ticking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> TypingIndicators:
        self._ticking = asyncio.create_task(self._tick(), name="typing indicators")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._ticking is not None
        tasks = {self._ticking, *self._calls}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._shown.clear()
        if not self._ticking.cancelled():
            self._ticking.result()

    def begin(self, channel: Channel, turn: InboundTurn) -> None:
        """Show that a turn is being answered, where its platform can and its kind is to be answered."""
        if channel.caps.typing_ttl_s <= 0 or turn.kind != "message" or turn.id is None or self._ticking is None:
            return
        key = channel.name, turn.id
        if key in self._shown:
            return
        if len(self._shown) >= self._options.max_typing:
            del self._shown[next(iter(self._shown))]
        now = _now()
        self._shown[key] = shown = _Shown(channel, turn, began=now, shown_at=now)
        self._show(shown)
        self._some.set()

    async def _tick(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(min([self._look_s, *(s.channel.caps.typing_ttl_s / 4 for s in self._shown.values())]))
            ended = await self._ended()
            now = _now()
            for key, shown in list(self._shown.items()):
                ttl_s = shown.channel.caps.typing_ttl_s
                if shown.key in ended or now - shown.began > self._options.typing_max_s:
                    del self._shown[key]
                    self._hide(shown)
                elif now - shown.shown_at >= RENEWED_AT * ttl_s - self._look_s / 2:
                    self._show(shown)
            if not self._shown:
                self._some.clear()

    async def _ended(self) -> set[str]:
        """The keys of turns that have ended; where the state is away, none, and the indicators stay."""
        found: set[str] = set()
        for name in {shown.channel.name for shown in self._shown.values()}:
            keys = [shown.key for shown in self._shown.values() if shown.channel.name == name]
            try:
                async with asyncio.timeout(CALL_S):
                    values = await self._state.get(keys)
            except (SdqueueError, TimeoutError) as error:
                self._observer.backend_away(backend="state", error=str(error) or f"no answer within {CALL_S:g} s")
                continue
            found |= {key for key, value in zip(keys, values, strict=True) if value is not None}
        return found

    def _show(self, shown: _Shown) -> None:
        if shown.call is not None and not shown.call.done():
            return  # a platform that is slower than its indicator lives gets no second call on top
        shown.shown_at = _now()
        shown.call = self._spawn(shown.channel, lambda: shown.channel.typing(shown.turn.address, True))

    def _hide(self, shown: _Shown) -> None:
        """Take it away where it may still show, unless another turn of the session keeps it up."""
        others = any(
            other.channel is shown.channel and other.turn.session_id == shown.turn.session_id
            for other in self._shown.values()
        )
        if others or _now() - shown.shown_at >= shown.channel.caps.typing_ttl_s:
            return

        async def after() -> None:
            if shown.call is not None and not shown.call.done():
                await asyncio.wait({shown.call})  # else the older call might be the last to arrive
            await shown.channel.typing(shown.turn.address, False)

        self._spawn(shown.channel, after)

    def _spawn(self, channel: Channel, call: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        async def run() -> None:
            try:
                async with asyncio.timeout(CALL_S):
                    await call()
            except Exception as error:  # noqa: BLE001  # an indicator is worth no more than a count
                self._observer.typing_failed(channel=channel.name, error=f"{type(error).__name__}: {error}")

        task = asyncio.create_task(run())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task


def _now() -> float:
    return asyncio.get_running_loop().time()
