"""Hosts of a worker: a FastAPI application as superdialog's documentation has it, and its WebSocketRunner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
import websockets
from fastapi import FastAPI
from superdialog.adapters.websocket import WebSocketRunner

from tests.superdialog_sessions.brains import llm, machine
from tests.superdialog_sessions.conftest import Layer


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The address of the application, over real HTTP."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(60):
        while not server.started:
            await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    await serving


async def test_many_users_of_a_fastapi_application(layer: Layer) -> None:
    """One worker made in the lifespan; users at once, each with a conversation of their own."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.worker = layer.SessionWorker(agent_factory=machine, store=layer.InMemorySessionStore())
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/turn")
    async def turn(payload: dict[str, str]) -> dict[str, str]:
        async with app.state.worker.acquire(payload["session_id"]) as handle:
            result = await handle.turn(payload["text"])
        return {"reply": result.text}

    async with served(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        for n in (1, 2):
            answers = await asyncio.gather(
                *(http.post("/turn", json={"text": f"hello {n}", "session_id": f"u{user}"}) for user in range(8))
            )
            assert [answer.json() for answer in answers] == [{"reply": f"{n}: hello {n}"}] * 8


async def test_superdialogs_websocket_runner(layer: Layer) -> None:
    """It streams, keeps users apart, takes notes, resets by the agent, and wants a session id."""
    store = layer.InMemorySessionStore()
    runner = WebSocketRunner(worker=layer.SessionWorker(agent_factory=machine, store=store))

    async with websockets.serve(runner._handler, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with websockets.connect(f"ws://127.0.0.1:{port}", proxy=None) as socket:

            async def ask(**frame: Any) -> list[dict[str, Any]]:
                await socket.send(json.dumps(frame))
                frames: list[dict[str, Any]] = []
                while not frames or (frames[-1]["type"] == "agent_chunk" and not frames[-1]["done"]):
                    frames.append(json.loads(await socket.recv()))
                return frames

            for user in ("u1", "u2"):
                frames = await ask(type="user_text", session_id=user, text=f"hello of {user}")
                assert "".join(frame["text"] for frame in frames) == f"1: hello of {user}"
                assert frames[-1]["metadata"]["to_node"] == "n1"
            assert await ask(type="assist", session_id="u1", text="a VIP") == [{"type": "assist_ack"}]
            frames = await ask(type="user_text", session_id="u1", text="more")
            assert "".join(frame["text"] for frame in frames) == "2: more"
            record = await store.load("u1")
            assert [m.role for m in record.chat_ctx.items[:4]] == ["user", "assistant", "system", "user"]
            assert await ask(type="user_text", text="hello") == [{"type": "error", "message": "missing_session_id"}]
            assert await ask(type="reset", session_id="u1") == [{"type": "reset_ack"}]
            assert (await store.load("u1")).chat_ctx.items == []
            frames = await ask(type="user_text", session_id="u1", text="anew")
            assert "".join(frame["text"] for frame in frames) == "1: anew"


async def test_a_stream_over_http(layer: Layer) -> None:
    """A response that is streamed from inside the block."""
    from fastapi.responses import StreamingResponse

    worker = layer.SessionWorker(agent_factory=llm)
    app = FastAPI()

    @app.post("/stream/{session_id}")
    async def stream(session_id: str, payload: dict[str, str]) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            async with worker.acquire(session_id) as handle:
                async for chunk in await handle.turn(payload["text"], stream=True):
                    yield chunk.text

        return StreamingResponse(pieces())

    async with served(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        for n, text in enumerate(("one", "two"), 1):
            assert (await http.post("/stream/s", json={"text": text})).text == f"{n}: {text}"
