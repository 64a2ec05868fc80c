"""Replies that make the response: held requests and streams, for exactly as long as their client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from sdqueue_producers import Caps
from sse_starlette import EventSourceResponse
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from sdqueue import Consumer, MemoryBroker, SessionWorker, Topology, load_agent_factory
from sdqueue.client import Client, Replies
from sdqueue.errors import ReplyTimeout
from tests.producers.ingress.front import Chat, Front, body, served
from tests.producers.ingress.withholding import Withholding

SAID = {"session": "s", "id": "1", "text": "go"}
gate = asyncio.Event()


async def agent(text: str, history: object) -> AsyncIterator[str]:
    """Says two words, the second when the gate is open; fails where it is told to."""
    if text == "fail":
        raise ValueError("no idea")
    ran.append(text)
    yield "one "
    await gate.wait()
    yield "two"


ran: list[str] = []


@asynccontextmanager
async def pool(chat: Chat) -> AsyncIterator[Front]:
    """The ingress before a consumer."""
    global gate
    gate = asyncio.Event()
    ran.clear()
    async with MemoryBroker(Topology(partitions=4)) as broker:
        await broker.apply()
        worker = SessionWorker(agent_factory=load_agent_factory(f"{__name__}:agent"))
        async with Consumer(broker, worker), served(chat, broker=broker, consume=False) as front:
            yield front


async def held(replies: Replies) -> Response:
    return PlainTextResponse((await replies.last(timeout=30)).text)


async def streamed(replies: Replies) -> Response:
    async def pieces() -> AsyncIterator[str]:
        async for reply in replies.each(timeout=30):
            yield f"{reply.kind}:{reply.text}\n"

    return StreamingResponse(pieces())


async def events(replies: Replies) -> Response:
    async def pieces() -> AsyncIterator[dict[str, str]]:
        async for reply in replies.each(timeout=30):
            yield {"event": reply.kind, "data": reply.text}

    return EventSourceResponse(pieces())


def questions(front: Front) -> int:
    """Turns that somebody waits for the replies of."""
    return len(front.client._questions)


async def nobody_asks(front: Front) -> None:
    async with asyncio.timeout(30):
        while questions(front):
            await asyncio.sleep(0.005)


async def test_a_held_request_is_answered_with_the_reply() -> None:
    chat = Chat()
    chat.answer = held
    async with pool(chat) as front:
        gate.set()
        answer = await front.http.post("/chat", content=body(SAID))
        assert (answer.status_code, answer.text) == (200, "one two")
        assert not questions(front)


async def test_who_waits_for_the_reply_is_no_repeat_and_gets_the_stored_one() -> None:
    chat = Chat()
    chat.answer = held
    async with pool(chat) as front:
        gate.set()
        answers = [await front.http.post("/chat", content=body(SAID)) for _ in range(3)]
        assert [answer.text for answer in answers] == ["one two"] * 3
        assert ran == ["go"]


@pytest.mark.parametrize(("answer", "first"), [(streamed, "delta:one "), (events, "event: delta")])
async def test_a_streamed_response_gets_its_replies_until_it_has_been_sent(answer: object, first: str) -> None:
    chat = Chat()
    chat.answer = answer  # type: ignore[assignment]
    async with pool(chat) as front, front.http.stream("POST", "/chat", content=body(SAID | {"stream": True})) as got:
        lines = got.aiter_lines()
        assert (await anext(lines)).rstrip() == first.rstrip()
        assert questions(front) == 1
        gate.set()
        rest = [line async for line in lines]
        assert any("one two" in line for line in rest)
        await nobody_asks(front)
        assert front.seen.of("request_answered")[0]["status"] == 200


@pytest.mark.parametrize("answer", [held, streamed, events])
async def test_when_the_client_goes_away_nobody_waits_any_more_and_the_turn_goes_on(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    chat = Chat()
    chat.answer = answer  # type: ignore[assignment]
    async with pool(chat) as front:
        said = body(SAID | {"stream": True})
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
        async with asyncio.timeout(30):
            while not ran:
                await asyncio.sleep(0.005)
        assert questions(front) == 1
        writer.transport.abort()
        await nobody_asks(front)

        gate.set()
        chat.answer = held
        assert (await front.http.post("/chat", content=said)).text == "one two"
        assert ran == ["go"]
        assert not front.seen.of("channel_defect")
        assert not caplog.records


async def test_an_answer_is_not_begun_before_the_confirm() -> None:
    chat = Chat(Caps(ack_deadline_s=1.0))
    begun = []

    async def answer(replies: Replies) -> Response:
        begun.append(replies.turn_id)
        return PlainTextResponse("answered")

    chat.answer = answer
    async with Withholding() as broker, served(chat, broker=broker, consume=False) as front:
        got = await front.http.post("/chat", content=body(SAID))
        assert (got.status_code, got.text, begun) == (503, "again", [])
        assert front.seen.of("turn_unconfirmed")[0]["turn_id"] == "1"

        broker.confirm.set()
        got = await front.http.post("/chat", content=body(SAID))
        assert (got.status_code, got.text, begun) == (200, "answered", ["1"])


async def test_where_no_reply_comes_the_platform_is_to_ask_again() -> None:
    chat = Chat()

    async def answer(replies: Replies) -> Response:
        raise ReplyTimeout("1", 0.1)

    chat.answer = answer
    async with served(chat) as front:
        assert (await front.http.post("/chat", content=body(SAID))).status_code == 503
        assert front.seen.of("request_answered")[0]["reason"] == "unanswered"


@pytest.mark.parametrize("late", [False, True])
async def test_an_answer_that_fails_is_a_defect_and_leaves_nothing_behind(
    late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    chat = Chat()

    async def pieces() -> AsyncIterator[str]:
        yield "some"
        raise KeyError("late")

    async def answer(replies: Replies) -> Response:
        if late:
            return StreamingResponse(pieces())
        raise KeyError("early")

    chat.answer = answer
    async with served(chat) as front:
        if late:
            with pytest.raises(httpx.RemoteProtocolError):  # cut, so that nobody takes it for whole
                await front.http.post("/chat", content=body(SAID))
        else:
            assert (await front.http.post("/chat", content=body(SAID))).status_code == 500
        assert front.seen.of("channel_defect")[0]["error"].startswith("answer: KeyError")
        await nobody_asks(front)
    caplog.clear()


async def test_a_failed_turn_that_the_channel_does_not_tell_of_is_a_defect() -> None:
    chat = Chat()
    chat.answer = held
    async with pool(chat) as front:
        assert (await front.http.post("/chat", content=body(SAID | {"text": "fail"}))).status_code == 500
        assert front.seen.of("channel_defect")[0]["error"].startswith("answer: TurnFailed")


async def test_a_client_that_is_closed_lets_held_requests_be_sent_again() -> None:
    chat = Chat()
    chat.answer = held
    async with pool(chat) as front:
        asking = asyncio.create_task(front.http.post("/chat", content=body(SAID)))
        async with asyncio.timeout(30):
            while not ran:
                await asyncio.sleep(0.005)
        client: Client = front.client
        await client.__aexit__(None, None, None)
        assert (await asking).status_code == 503
        gate.set()
