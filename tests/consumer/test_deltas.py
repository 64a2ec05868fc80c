"""Deltas: sent in order while an answer is made, and never waited for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sdqueue.consumer.deltas import WINDOW, DeltaForm, DeltaSender
from sdqueue.consumer.replies import Addressee
from sdqueue.errors import AgentResultError
from sdqueue.messages import OutboundReply
from tests.consumer.stand import PATIENCE_S

FORM = DeltaForm(Addressee("t", "s", metadata={"stream": "the turn's own", "a": 1}), seq=3, replay=0, consumer="c")


class Line:
    """Where deltas go; each waits for its confirm."""

    def __init__(self) -> None:
        self.sent: list[OutboundReply] = []
        self.confirm = asyncio.Semaphore(0)
        self.given_up = 0

    def send(self, body: str) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._publish(body))]

    async def _publish(self, body: str) -> None:
        self.sent.append(OutboundReply.decode(body.encode()))
        try:
            await self.confirm.acquire()
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    @property
    def said(self) -> list[tuple[int, str]]:
        return [(delta.stream.index, delta.text) for delta in self.sent if delta.stream]

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def line() -> Line:
    return Line()


async def test_what_is_said_within_one_turn_of_the_loop_goes_out_together(line: Line) -> None:
    deltas = DeltaSender(FORM, 1, line.send)
    for piece in "abc":
        deltas.push(piece)
    await line.settle()
    for piece in "def":
        deltas.push(piece)
    await deltas.finish()
    assert line.said == [(0, "abc"), (1, "def")]


async def test_while_confirms_are_open_pieces_gather_in_the_next_delta(line: Line) -> None:
    deltas = DeltaSender(FORM, 1, line.send)
    for number in range(50):
        deltas.push(f"{number} ")
        await line.settle()
    assert len(line.said) == WINDOW
    line.confirm.release()
    await line.settle()
    assert line.said[WINDOW:] == [(WINDOW, "".join(f"{n} " for n in range(WINDOW, 50)))]
    await deltas.finish()


async def test_the_end_waits_for_no_confirm_and_leaves_nothing_out(line: Line) -> None:
    deltas = DeltaSender(FORM, 1, line.send)
    for number in range(50):
        deltas.push(f"{number} ")
        await line.settle()
    async with asyncio.timeout(PATIENCE_S):  # no confirm ever comes
        await deltas.finish()
    assert "".join(text for _, text in line.said) == "".join(f"{n} " for n in range(50))
    assert [index for index, _ in line.said] == list(range(WINDOW + 1))


async def test_after_an_abort_nothing_is_sent_whoever_goes_on_talking(line: Line) -> None:
    """The interleaving: an agent ignores its cancellation, its attempt is over, and it yields another piece."""
    deltas = DeltaSender(FORM, 1, line.send)
    deltas.push("a")
    await line.settle()
    deltas.push("b")
    deltas.abort()
    deltas.push("c")
    await line.settle()
    assert line.said == [(0, "a")]
    assert line.given_up == 1

    silent = DeltaSender(FORM, 1, line.send)
    silent.abort()
    silent.push("d")
    await line.settle()
    assert line.said == [(0, "a")]


async def test_a_restart_says_so_and_drops_what_was_not_sent(line: Line) -> None:
    deltas = DeltaSender(FORM, 1, line.send)
    deltas.push("old")
    await line.settle()
    deltas.push("never sent")
    deltas.restart(2)
    deltas.push("new")
    await line.settle()
    deltas.push("er")
    await deltas.finish()
    first, second, third = (delta.stream for delta in line.sent)
    assert first is not None
    assert second is not None
    assert third is not None
    assert [delta.text for delta in line.sent] == ["old", "new", "er"]
    assert (first.attempt, first.index, first.restart, first.offset) == (1, 0, False, "1-1")
    assert (second.attempt, second.index, second.restart, second.offset) == (2, 0, True, "2-1")
    assert (third.attempt, third.index, third.restart, third.offset) == (2, 1, False, "2-2")
    assert len({delta.id for delta in line.sent}) == 3


async def test_the_shape_of_a_delta(line: Line) -> None:
    """What a receiver in another language is told in docs/streaming.md."""
    deltas = DeltaSender(FORM, 2, line.send)
    deltas.push("hello")
    await deltas.finish()
    (delta,) = line.sent
    word = delta.id.removeprefix("t:0.2-").removesuffix(".0")
    assert delta.id == f"t:0.2-{word}.0"
    assert len(word) == 8
    assert (delta.turn_id, delta.session_id, delta.seq, delta.kind, delta.text) == ("t", "s", 3, "delta", "hello")
    assert delta.metadata == {
        "a": 1,
        "attempt": 2,
        "consumer": "c",
        "stream": {"attempt": 2, "index": 0, "restart": True, "offset": "2-1"},
    }


async def test_what_cannot_be_written_fails_the_attempt(line: Line) -> None:
    deltas = DeltaSender(FORM, 1, line.send)
    deltas.push("fine ")
    await line.settle()
    deltas.push("\ud800")
    await line.settle()
    deltas.push("more")
    with pytest.raises(AgentResultError, match="cannot be written as JSON"):
        await deltas.finish()
    deltas.abort()
    assert line.said == [(0, "fine ")]


def test_only_a_delta_has_a_place_in_a_stream() -> None:
    """A turn may bring metadata of that name, and what it says is not believed."""
    fields: dict[str, Any] = {"id": "t:0", "turn_id": "t", "session_id": "s", "seq": 1, "text": "x"}
    place = {"attempt": 1, "index": 0, "offset": "1-1"}
    assert OutboundReply(kind="final", metadata={"stream": place}, **fields).stream is None
    assert OutboundReply(kind="delta", metadata={"stream": {"attempt": 0}}, **fields).stream is None
    assert OutboundReply(kind="delta", **fields).stream is None
    delta = OutboundReply(kind="delta", metadata={"stream": place}, **fields)
    assert delta.stream is not None
    assert not delta.stream.restart
