"""While a turn runs its platform shows that an answer is being made; nothing depends on it."""

from __future__ import annotations

import asyncio

import pytest
from sdqueue_producers import Caps, MemoryState
from sdqueue_producers.ingress import IngressOptions, typing_indicators

from tests.producers.ingress.front import Chat, body, served
from tests.producers.ingress.withholding import AwayState


class Watched(Chat):
    """A channel with an indicator that shows for 0.4 s; ``now`` is its clock, which every call moves on by 0.1 s."""

    now = 0.0

    def __init__(self, ttl_s: float = 0.4) -> None:
        super().__init__(Caps(typing_ttl_s=ttl_s, ack_deadline_s=60.0))
        self._changed = asyncio.Event()
        self.typing_done = self._done

    def _done(self) -> None:
        Watched.now += 0.1
        self._changed.set()

    async def until(self, count: int) -> list[tuple[object, bool]]:
        async with asyncio.timeout(30):
            while len(self.typed) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.typed


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for a moment makes no indicator run out."""
    monkeypatch.setattr(Watched, "now", 0.0)
    monkeypatch.setattr(typing_indicators, "_now", lambda: Watched.now)


def said(number: str = "1", **fields: object) -> bytes:
    return body({"session": "s", "id": number, "text": "x", "address": f"to {number}", **fields})


async def test_it_is_shown_at_once_and_again_until_the_turn_has_ended() -> None:
    chat, state = Watched(), MemoryState()
    async with served(chat, state=state) as front:
        await front.http.post("/chat", content=said())
        assert (await chat.until(3))[:3] == [("to 1", True)] * 3

        await state.set({"chat:ended:1": "1"}, ttl_s=60)
        while chat.typed[-1] != ("to 1", False):
            await chat.until(len(chat.typed) + 1)
        shown = len(chat.typed)
        await front.http.post("/chat", content=said())  # a repeat
        await asyncio.sleep(0.5)
        assert len(chat.typed) == shown


async def test_it_ends_by_itself_where_no_reply_comes() -> None:
    chat = Watched()
    async with served(chat, options=IngressOptions(typing_max_s=0.5)) as front:
        await front.http.post("/chat", content=said())
        while chat.typed[-1:] != [("to 1", False)]:
            await chat.until(len(chat.typed) + 1)
        shown = len(chat.typed)
        await asyncio.sleep(0.5)
        assert len(chat.typed) == shown


@pytest.mark.parametrize("kind", ["assist", "reset", "cancel"])
async def test_it_is_for_messages_only(kind: str) -> None:
    chat = Watched()
    async with served(chat) as front:
        await front.http.post("/chat", content=said("0", kind=kind))
        await front.http.post("/chat", content=said("1"))
        await chat.until(1)
        assert {address for address, _ in chat.typed} == {"to 1"}


async def test_the_oldest_is_given_up_where_there_are_too_many() -> None:
    chat = Watched()
    async with served(chat, options=IngressOptions(max_typing=2)) as front:
        for n in range(4):
            await front.http.post("/chat", content=said(str(n)))
        await chat.until(4)
        chat.typed.clear()
        await chat.until(4)
        assert {address for address, _ in chat.typed} == {"to 2", "to 3"}


async def test_an_ended_turn_leaves_the_indicator_to_the_next_one_of_its_session() -> None:
    chat, state = Watched(), MemoryState()
    async with served(chat, state=state) as front:
        for n in ("1", "2"):
            await front.http.post("/chat", content=said(n))
        await chat.until(2)
        await state.set({"chat:ended:1": "1"}, ttl_s=60)
        while [address for address, _ in chat.typed[-3:]] != ["to 2"] * 3:
            await chat.until(len(chat.typed) + 1)
        assert all(on for _, on in chat.typed)


@pytest.mark.parametrize("hangs", [False, True])
async def test_an_indicator_that_fails_or_hangs_delays_nothing(hangs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typing_indicators, "CALL_S", 600.0)
    ended = asyncio.Event()

    class Broken(Watched):
        async def typing(self, address: object, on: bool) -> None:
            await super().typing(address, on)
            try:
                if hangs:
                    await asyncio.Event().wait()
                raise RuntimeError("no")
            finally:
                ended.set()

    chat = Broken()
    async with served(chat) as front:
        assert (await front.http.post("/chat", content=said())).status_code == 200
        if not hangs:
            await chat.until(3)
            assert front.seen.of("typing_failed")[0]["error"] == "RuntimeError: no"
        else:
            await chat.until(1)
            assert not ended.is_set()


async def test_without_the_state_it_goes_on_until_its_time_is_over() -> None:
    chat = Watched()
    async with served(chat, state=AwayState(), options=IngressOptions(typing_max_s=1.0)) as front:
        await front.http.post("/chat", content=said())
        while chat.typed[-1:] != [("to 1", False)]:
            await chat.until(len(chat.typed) + 1)
        assert len(chat.typed) > 2
