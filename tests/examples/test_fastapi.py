"""The FastAPI applications of ``examples/``: many users, on the session layer alone and through the queue."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from tests.examples.served import application, consumer


async def read(http: httpx.AsyncClient, method: str, **request: Any) -> list[dict[str, str]]:
    """The events of a stream, each with its fields."""
    async with http.stream(method, "/turn/stream", **request) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = (await answer.aread()).decode().replace("\r\n", "\n").strip("\n").split("\n\n")
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


async def test_sessions_of_the_application_survive_its_restart_and_know_nothing_of_each_other(tmp_path: Path) -> None:
    async def say(http: httpx.AsyncClient, session_id: str, text: str) -> str:
        answer = await http.post("/turn", json={"text": text, "session_id": session_id})
        assert answer.status_code == 200, answer.text
        reply: str = answer.json()["reply"]
        return reply

    env = {"APP_DATA": str(tmp_path)}
    async with application("fastapi_app:app", env) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        names = [f"User{n}" for n in range(10)]
        await asyncio.gather(*(say(http, name, f"my name is {name}") for name in names))
        for answer in [await http.post("/turn", json={"text": ""}), await http.post("/turn", content=b"{")]:
            assert answer.status_code == 422
    async with application("fastapi_app:app", env) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        answers = await asyncio.gather(*(say(http, name, "what is my name?") for name in names))
        assert answers == [f"Your name is {name}." for name in names]


async def test_the_same_through_the_queue(amqp_url: str, redis_url: str, namespace: str) -> None:
    """Given two consumers on RabbitMQ and Redis, then answers and streams come from them, and a repeat is a repeat."""
    env = {
        "SDQUEUE_BROKER_URL": amqp_url,
        "SDQUEUE_STORE_URL": redis_url,
        "SDQUEUE_NAMESPACE": namespace,
        "SDQUEUE_PARTITIONS": "4",
    }
    async with (
        consumer(env=env),
        consumer(env=env),
        application("fastapi_queue:app", env) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        said = {"text": "my name is Ada", "session_id": "u"}
        first, again = [await http.post("/turn", json=said, headers={"Idempotency-Key": "t1"}) for _ in range(2)]
        assert first.json() == again.json() == {"reply": "I will remember that your name is Ada.", "turn_id": "t1"}

        question = {"text": "what is my name?", "session_id": "u"}
        events = await read(http, "POST", json=question, headers={"Idempotency-Key": "t2"})
        assert [event["event"] for event in events] == ["delta"] * (len(events) - 1) + ["final"]
        assert len(events) > 1
        assert "".join(event["data"] for event in events[:-1]) == events[-1]["data"] == "Your name is Ada."

        # When another page asks for it, from the beginning or from where it was
        whose = {"session_id": "u", "turn_id": "t2"}
        assert await read(http, "GET", params=whose) == events
        last = {"Last-Event-ID": events[0]["id"]}
        assert await read(http, "GET", params=whose, headers=last) == events[1:]
        gone = await read(http, "GET", params=whose | {"turn_id": "long ago"}, headers=last)
        assert [event["event"] for event in gone] == ["error"]

        wrong = await http.post("/turn", json={"text": "x", "session_id": "a\u0000b"})
        assert wrong.status_code == 422
        assert "session_id" in wrong.json()["detail"]
