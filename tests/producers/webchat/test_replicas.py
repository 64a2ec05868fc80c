"""Two producers on RabbitMQ and Redis: a visitor moves between them, and one of them is killed."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.producers.webchat.processes import Pool, sqlite
from tests.producers.webchat.stand import BACKEND, Visitor
from tests.servers.process import free_port


@asynccontextmanager
async def talk(port: int, token: str, after: str | None = None) -> AsyncIterator[Visitor]:
    """A WebSocket to the producer on this port."""
    async with aiohttp.ClientSession() as http, http.ws_connect(f"http://127.0.0.1:{port}/webchat/socket") as ws:
        visitor = Visitor(ws)
        await ws.send_json({"type": "hello", "token": token, "after": after})
        assert (await visitor.next())["type"] == "welcome"
        yield visitor


async def token_of(port: int, visitor: str) -> str:
    headers = {"Authorization": f"Bearer {BACKEND}"}
    url = f"http://127.0.0.1:{port}/webchat/token"
    async with aiohttp.ClientSession() as http, http.post(url, json={"visitor": visitor}, headers=headers) as answer:
        token: str = (await answer.json())["token"]
        return token


async def until(visitor: Visitor, *types: str) -> list[dict[str, Any]]:
    """What comes until there was one of each of these types."""
    events: list[dict[str, Any]] = []
    while not set(types) <= {event["type"] for event in events}:
        events.append(await visitor.next())
        assert events[-1]["type"] != "closed", events
    return events


@pytest.mark.timeout(180)
async def test_a_visitor_moves_between_producers_and_one_is_killed(
    amqp_url: str, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    backends = {"SDQUEUE_BROKER_URL": amqp_url, "SDQUEUE_STORE_URL": redis_url}
    with Pool(tmp_path, backends, namespace=namespace, partitions="4") as pool:
        one, two = pool.port, free_port()
        await asyncio.to_thread(pool.start, "producer-2", two)
        token = await token_of(one, "ann")
        # Given: a conversation, each turn by the other producer, each time from the last event seen
        after: str | None = None
        log: list[dict[str, Any]] = []
        for n in range(6):
            async with talk((one, two)[n % 2], token, after) as visitor:
                await visitor.say(f"question {n}", f"m{n}")
                log += [e for e in await until(visitor, "ack", "message", "final") if "id" in e]
                after = log[-1]["id"]
        assert [e["text"] for e in log if e["type"] == "message"] == [f"question {n}" for n in range(6)]
        assert [e["text"] for e in log if e["type"] == "final"] == [f"You said question {n}." for n in range(6)]
        # When: one producer is killed in the middle of an answer, after the visitor has sent the same message to both
        async with talk(one, token, after) as visitor, talk(two, token, after) as other:
            await visitor.say("wait", "m9")
            await other.say("wait", "m9")
            await until(visitor, "ack", "partial")
            await until(other, "ack", "partial")
            await asyncio.to_thread(pool.kill, "producer")
            began = time.monotonic()
            await other.say("and then", "m10")
            await until(other, "ack")
            pool.gate.touch()
            finals: list[str] = []
            while len(finals) < 2:
                event = await other.next()
                finals += [event["text"]] if event["type"] == "final" else []
            print(f"answers went on {time.monotonic() - began:.2f} s after the kill")
        assert finals == ["You said wait.", "You said and then."]
        # Then: whoever reads it all from the producer that is left sees each once
        async with talk(two, token) as visitor:
            whole: list[dict[str, Any]] = []
            while len(whole) < 16:
                event = await visitor.next()
                whole += [event] if event["type"] in ("message", "final") else []
            await visitor.ws.send_json({"type": "ping"})
            assert {event["type"] for event in await until(visitor, "pong")} <= {"typing", "pong"}
        assert len([e for e in whole if e["type"] == "message"]) == 8
        assert len({e["message"] for e in whole}) == len(whole) == 16


async def test_a_producer_stops_at_once_though_visitors_are_connected(tmp_path: Path) -> None:
    with Pool(tmp_path, sqlite(tmp_path), grace_s="60") as pool:
        token = await token_of(pool.port, "ann")
        async with talk(pool.port, token) as visitor:
            began = time.monotonic()
            await asyncio.to_thread(pool.kill, "producer", signal.SIGTERM)
            assert (await visitor.next())["closed"] == 1012
            assert time.monotonic() - began < 40  # where it waited for them, it would be the 60 s of its grace period
            assert "Traceback" not in pool.log("producer")


async def test_an_event_stream_does_not_keep_a_producer_from_stopping(tmp_path: Path) -> None:
    with Pool(tmp_path, sqlite(tmp_path), grace_s="2") as pool:
        headers = {"Authorization": f"Bearer {await token_of(pool.port, 'ann')}"}
        async with aiohttp.ClientSession() as http, http.get(f"{pool.url}/webchat/events", headers=headers) as answer:
            assert answer.status == 200
            began = time.monotonic()
            await asyncio.to_thread(pool.kill, "producer", signal.SIGTERM)
            assert time.monotonic() - began < 20  # the stream would end by itself after 25 s
            assert "Traceback" not in pool.log("producer"), pool.log("producer")


@pytest.mark.timeout(180)
async def test_a_producer_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """At random moments, between receipt, confirm, answer, delivery and ack; the client comes back and sends again."""
    with Pool(tmp_path, sqlite(tmp_path)) as pool:
        token = await token_of(pool.port, "ann")
        seen: list[dict[str, Any]] = []
        tries = 0
        killed = asyncio.Event()

        def seen_of(kind: str) -> int:
            return len([event for event in seen if event["type"] == kind])

        async def chat() -> int:
            """A client as the page is one: one message at a time until its ack, and resume after the last event.

            It talks until the last kill is over, so that none comes too late for it, and not far ahead of its answers.
            """
            nonlocal tries
            said = acked = 0
            after: str | None = None

            def over() -> bool:
                return killed.is_set() and min(acked, seen_of("message"), seen_of("final")) >= said

            while not over():
                tries += 1
                try:
                    async with talk(pool.port, token, after) as visitor:
                        waits = False
                        while not over():
                            if not waits and (acked < said or (said - seen_of("final") < 10 and not killed.is_set())):
                                await visitor.say(f"number {acked}", f"m{acked}")
                                said, waits = acked + 1, True
                            event = await visitor.next()
                            assert event["type"] not in ("closed", "nack"), event
                            if "id" in event:
                                after = event["id"]
                                seen.append(event)
                            if event["type"] == "ack" and event["message"] == f"m{acked}":
                                acked, waits = acked + 1, False
                except (aiohttp.ClientError, OSError, AssertionError):
                    await asyncio.sleep(0.05)  # nothing listens: as a page waits before it tries again
            return said

        chatting = asyncio.create_task(chat())
        spread = random.Random(7)
        for _ in range(5):
            upto = seen_of("final") + spread.randint(5, 30)
            while not chatting.done() and seen_of("final") < upto:
                await asyncio.wait([chatting], timeout=0.01)
            await asyncio.wait([chatting], timeout=spread.uniform(0, 0.05))
            assert not chatting.done(), chatting
            await asyncio.to_thread(pool.kill, "producer")
            await asyncio.to_thread(pool.start, "producer")
        killed.set()
        count = await chatting
        print(f"{count} messages, {tries} connections")
        # Then: in the order in which it was said, each message and each answer came exactly once
        said = [event["text"] for event in seen if event["type"] == "message"]
        answers = [event["text"] for event in seen if event["type"] == "final"]
        assert said == [f"number {n}" for n in range(count)]
        assert answers == [f"You said number {n}." for n in range(count)]
