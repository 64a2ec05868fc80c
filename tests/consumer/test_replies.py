"""Replies: their ids and their way out."""

from __future__ import annotations

from typing import Any

import pytest

from sdqueue.agents import ToolCall, TurnResult
from sdqueue.consumer.replies import Addressee, make_reply
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
