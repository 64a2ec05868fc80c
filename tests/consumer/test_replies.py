"""Replies: their ids, their way out, and the pieces of a streamed one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sdqueue.agents import ToolCall, TurnResult
from sdqueue.consumer.replies import Addressee, DeltaSender, make_reply
from sdqueue.errors import AgentResultError
from sdqueue.messages import InboundTurn, OutboundReply
from tests.consumer.stand import Puppet, Stand, in_pieces


def test_a_reply_takes_over_what_the_turn_brought_and_adds_the_agent_s() -> None:
    turn = InboundTurn.make(
        {"session_id": "s", "text": "x", "id": "t", "channel": "slack", "address": [1], "metadata": {"a": 1, "b": 1}}
    )
    result = TurnResult("hi", [ToolCall("c1", "look", {"q": "x"})], {"b": 2, "consumer": "forged"})
    body = make_reply(Addressee.of(turn), "final", "hi", seq=4, result=result, consumer="c")
    reply = OutboundReply.decode(body.encode())
    assert (reply.id, reply.turn_id, reply.session_id, reply.seq) == ("t:0", "t", "s", 4)
    assert (reply.channel, reply.address, reply.text) == ("slack", [1], "hi")
    assert reply.metadata == {"a": 1, "b": 2, "consumer": "c"}
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [("c1", "look", {"q": "x"})]


@pytest.mark.parametrize(
    "result",
    [
        TurnResult("\ud800"),
        TurnResult("x", metadata={"k": object()}),
        TurnResult("x", metadata={"k": float("nan")}),
        TurnResult("x", metadata={1: 2}),  # type: ignore[dict-item]  # an agent may
        TurnResult("x", [ToolCall("1", "f", {"k": {1, 2}})]),
        TurnResult("x", [ToolCall(None, "f")]),  # type: ignore[arg-type]  # an agent may
    ],
    ids=["half a character", "object", "nan", "key", "tool argument", "tool id"],
)
def test_what_cannot_be_written_is_the_agent_s_fault(result: TurnResult) -> None:
    with pytest.raises(AgentResultError, match="cannot be written as JSON"):
        make_reply(Addressee("t", "s"), "final", result.text, result=result)


async def test_trace_context_travels_back(stand: Stand) -> None:
    seen: list[dict[str, Any]] = []

    def hear(delivery: Any) -> None:
        seen.append(dict(delivery.message.headers))
        stand.changes.wake()

    private = await stand.broker.subscribe_replies(hear)
    headers = {"traceparent": "00-a-b-01", "tracestate": "x=y", "other": "stays"}
    async with stand.running():
        await stand.send_raw(b'{"session_id": "s", "text": "x"}', "s", headers=headers, reply_to=private.queue)
        await stand.changes.until(lambda: seen)
    assert seen == [{"traceparent": "00-a-b-01", "tracestate": "x=y"}]


async def test_replies_go_to_the_channel_that_the_turn_names(stand: Stand) -> None:
    seen: list[Any] = []

    def hear(delivery: Any) -> None:
        seen.append(delivery)
        stand.changes.wake()

    await stand.broker.subscribe(await stand.broker.declare_egress("slack"), hear, prefetch=10)
    async with stand.running():
        turn = await stand.send("s", "x", channel="slack")
        await stand.changes.until(lambda: seen)
    assert stand.replies == []
    (delivery,) = seen
    assert delivery.routing_key == f"slack.final.{stand.partition('s'):04d}"
    assert (delivery.message.message_id, delivery.message.correlation_id) == (f"{turn}:0", turn)
    assert delivery.message.content_type == "application/json"


# Deltas


class Line:
    """Where deltas go; each waits to be let through."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str]] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None

    def body(self, index: int, text: str) -> str:
        return json.dumps([index, text])

    async def send(self, body: str) -> None:
        await self.open.wait()
        if self.error:
            raise self.error
        index, text = json.loads(body)
        self.sent.append((index, text))


async def test_pieces_that_come_while_one_is_under_way_go_out_together() -> None:
    line = Line()
    deltas = DeltaSender(line.send, line.body)
    for piece in "abc":
        deltas.push(piece)
    await asyncio.sleep(0)
    for piece in "def":
        deltas.push(piece)
    line.open.set()
    await deltas.finish()
    deltas.push("g")
    await deltas.finish()
    assert line.sent == [(0, "abc"), (1, "def"), (2, "g")]


async def test_after_an_abort_nothing_is_sent_whoever_goes_on_talking() -> None:
    """The interleaving: an agent ignores its cancellation, its attempt is over, and it yields another piece."""
    line = Line()
    deltas = DeltaSender(line.send, line.body)
    deltas.push("a")
    await asyncio.sleep(0)
    await deltas.abort()
    line.open.set()
    deltas.push("b")
    await asyncio.sleep(0)
    assert line.sent == []

    silent = DeltaSender(line.send, line.body)
    await silent.abort()
    silent.push("c")
    for _ in range(3):
        await asyncio.sleep(0)
    assert line.sent == []


async def test_a_delta_that_cannot_be_sent_fails_the_attempt() -> None:
    line = Line()
    line.open.set()
    line.error = ValueError("no JSON")
    deltas = DeltaSender(line.send, line.body)
    deltas.push("a")
    with pytest.raises(ValueError, match="no JSON"):
        await deltas.finish()
    await deltas.abort()


async def test_a_stream_of_half_characters_fails_its_turn_only(stand: Stand) -> None:
    async def act(_: Puppet) -> Any:
        return in_pieces("fine ", "\ud800")

    async with stand.running({"x": act}):
        await stand.send("s", "x", stream=True)
        await stand.send("s", "y")
        (letter,) = await stand.expect_dead()
        await stand.changes.until(lambda: stand.answers("s"))
    assert letter.reason == "bad-result"
    assert stand.answers("s") == ["1. y"]
