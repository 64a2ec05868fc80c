"""Listeners, health, and what an ingress refuses to be made of."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest
from sdqueue_producers import Receipt, Submit
from sdqueue_producers.ingress import Ingress, listening
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from sdqueue.brokers import MemoryBroker, Topology
from sdqueue.client import Client
from sdqueue.errors import ConfigurationError
from tests.producers.ingress.front import Chat, Seen, served, turn


async def test_a_listener_that_fails_is_begun_again() -> None:
    chat, began = Chat(), 0
    seen, published = Seen(), []

    async def listen(submit: Submit) -> None:
        nonlocal began
        began += 1
        if began < 4:
            raise ConnectionError("cut")
        await submit(Receipt((turn(),)))

    async def submit(receipt: Receipt) -> None:
        published.extend(receipt.turns)

    chat.listener = listen
    await listening.keep_listening(chat, submit, seen, first_wait_s=0.01)
    assert (began, len(published)) == (4, 1)
    failed = seen.of("listener_failed")
    assert [(e["channel"], e["error"]) for e in failed] == [("chat", "ConnectionError: cut")] * 3
    waits = [e["again_in_s"] for e in failed]
    assert all(0.005 * 2**n <= wait <= 0.01 * 2**n for n, wait in enumerate(waits))


async def test_a_listener_publishes_and_is_ended_with_the_ingress() -> None:
    chat, ended = Chat(), asyncio.Event()

    async def listen(submit: Submit) -> None:
        await submit(Receipt((turn(),)))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    chat.listener = listen
    async with served(chat) as front:
        assert [t.id for t in await front.got(1)] == ["1"]
        assert not ended.is_set()
    assert ended.is_set()
    assert not front.seen.of("listener_failed")


async def test_health_is_that_of_the_process_and_readiness_that_of_the_broker() -> None:
    async with MemoryBroker(Topology(partitions=4)) as broker, served(Chat(), broker=broker, consume=False) as front:
        assert (await front.http.get("/healthz")).status_code == 200
        answer = await front.http.get("/readyz")
        assert answer.status_code == 503
        assert "sdqueue topology apply" in answer.json()["detail"]

        await broker.apply()
        async with asyncio.timeout(30):
            while (await front.http.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.1)


async def test_questions_for_readiness_do_not_become_load_on_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = 0

    async def check(self: Client, *, timeout: float = 0) -> None:
        nonlocal checks
        checks += 1

    monkeypatch.setattr(Client, "check", check)
    async with served(Chat()) as front:
        answers = await asyncio.gather(*(front.http.get("/readyz") for _ in range(20)))
        assert {a.status_code for a in answers} == {200}
    assert checks <= 2


class Routed(Chat):
    """A channel with a route of its own."""

    def routes(self, submit: Submit) -> Sequence[BaseRoute]:
        async def own(request: object) -> PlainTextResponse:
            await submit(Receipt((turn(),)))
            return PlainTextResponse("own")

        async def read(request: object) -> PlainTextResponse:
            return PlainTextResponse(str(len(await request.body())))  # type: ignore[attr-defined]

        async def broken(request: object) -> PlainTextResponse:
            raise RuntimeError("secret")

        async def echo(socket: WebSocket) -> None:
            await socket.accept()
            with suppress(WebSocketDisconnect):
                while True:
                    await socket.send_text(await socket.receive_text())

        return [
            WebSocketRoute("/echo", echo),
            Route("/own", own),
            Route("/read", read, methods=["POST"]),
            Route("/broken", broken),
        ]


async def test_routes_of_a_channel_publish_by_the_same_way_and_have_the_same_limits() -> None:
    async with served(Routed()) as front:
        assert (await front.http.get("/own")).text == "own"
        await front.got(1)
        assert (await front.http.post("/read", content=b"x" * 1024)).text == "1024"
        answer = await front.http.post("/read", content=b"x" * (1024 * 1024 + 1))
        assert (answer.status_code, answer.json()["error"]) == (413, "body-too-large")
        answer = await front.http.get("/broken")
        assert (answer.status_code, answer.json()["error"]) == (500, "internal-error")
        assert front.seen.of("channel_defect")[0]["error"].startswith("GET /broken: RuntimeError")


async def test_a_web_socket_of_a_channel_takes_messages_up_to_the_limit() -> None:
    async with served(Routed()) as front, connect(f"ws://127.0.0.1:{front.port}/echo", proxy=None) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
        await socket.send("x" * (1024 * 1024 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009  # message too big


async def test_channels_that_cannot_be_told_apart_are_refused() -> None:
    class Other(Chat):
        name = "other"

    client = Client(MemoryBroker(Topology()))
    for channels, said in (((Chat(), Chat()), "called 'chat'"), ((Chat(), Other()), "listen on /chat")):
        with pytest.raises(ConfigurationError, match=said):
            Ingress(channels, client, None)  # type: ignore[arg-type]
