"""Processes on RabbitMQ and Redis, killed with SIGKILL while they deliver; the platform is a server over HTTP."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from sdqueue.brokers import RabbitMQBroker, Topology
from tests.producers.egress.world import Publisher


@dataclass
class Server:
    """A platform: keeps what it was given, and does with its answers as it is told."""

    recognises: bool = False
    messages: list[tuple[str, str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    url: str = ""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    refused: asyncio.Event = field(default_factory=asyncio.Event)

    async def deliver(self, request: web.Request) -> web.Response:
        body = await request.json()
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "429":
            return web.Response(status=429, headers={"Retry-After": "0.3"})
        if fault == "long":
            return web.Response(status=429, headers={"Retry-After": "2"})
        if fault == "half":
            self.refused.set()
            return web.Response(status=429, headers={"Retry-After": "0.9"})
        if fault == "500":
            return web.Response(status=500)
        if fault == "late":
            self.refused.set()
            await asyncio.sleep(3)
        known = self.recognises and any(key == body["key"] for _, key, _ in self.messages)
        if not known:
            self.messages.append((body["address"], body["key"], body["text"]))
        self.arrived.set()
        if fault == "cut":
            assert request.transport is not None
            request.transport.close()
        await self.answering.wait()
        return web.json_response({})

    async def find(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"found": any(key == body["key"] for _, key, _ in self.messages)})

    def keys(self, address: str) -> list[str]:
        return [key for whose, key, _ in self.messages if whose == address]


@asynccontextmanager
async def platform(**given: Any) -> AsyncIterator[Server]:
    server = Server(**given)
    server.answering.set()
    app = web.Application()
    app.router.add_post("/deliver", server.deliver)
    app.router.add_post("/find", server.find)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        server.answering.set()
        await runner.cleanup()


class Pool:
    """Starts processes, kills them, and ends those that are left."""

    def __init__(self, *args: str) -> None:
        self._args = args
        self.running: list[asyncio.subprocess.Process] = []

    async def start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.producers.egress.process", *self._args, stdout=asyncio.subprocess.PIPE
        )
        self.running.append(process)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    async def kill(self, process: asyncio.subprocess.Process) -> None:
        self.running.remove(process)
        process.kill()
        await process.communicate()

    async def end(self) -> None:
        for process in list(self.running):
            await self.kill(process)


async def wait_for(server: Server, count: int) -> None:
    async with asyncio.timeout(120):
        while len(server.messages) < count:
            server.arrived.clear()
            await server.arrived.wait()


pytestmark = pytest.mark.timeout(300)

CASES = [({"idempotent": True}, True), ({"can_find": True}, False)]


@pytest.mark.parametrize(("caps", "recognises"), CASES)
async def test_killed_between_the_call_and_its_record_a_reply_is_visible_once(
    amqp_url: str, redis_url: str, namespace: str, caps: dict[str, bool], recognises: bool
) -> None:
    async with (
        platform(recognises=recognises) as server,
        RabbitMQBroker(amqp_url, Topology(namespace, partitions=4)) as broker,
    ):
        await broker.apply()
        queue = await broker.declare_egress("fake")
        pool = Pool(amqp_url, redis_url, namespace, server.url, json.dumps(caps))
        try:
            first = await pool.start()
            server.answering.clear()
            say = Publisher(broker)
            await say.final("t1", "one")
            await say.final("t2", "two")
            await wait_for(server, 1)  # it is visible, and the process has no answer

            await pool.kill(first)
            server.answering.set()
            await pool.start()

            await wait_for(server, 2)
            await say.final("t3", "three")
            await wait_for(server, 3)
            assert server.keys("s") == ["t1:0", "t2:0", "t3:0"]
        finally:
            await pool.end()
        assert await broker.depth(queue) <= 1, "the last acknowledgement may not be out when it is killed"


@pytest.mark.parametrize(("caps", "recognises"), CASES)
async def test_processes_are_killed_at_random_and_every_reply_is_visible_once_in_order(
    amqp_url: str, redis_url: str, namespace: str, caps: dict[str, bool], recognises: bool
) -> None:
    chance = random.Random(7)
    sessions = [f"s{number}" for number in range(5)]
    count = 60
    async with (
        platform(recognises=recognises) as server,
        RabbitMQBroker(amqp_url, Topology(namespace, partitions=4)) as broker,
    ):
        await broker.apply()
        await broker.declare_egress("fake")
        server.faults = [chance.choice(["", "", "", "", "429", "500", "cut", "long"]) for _ in range(150)]
        pool = Pool(amqp_url, redis_url, namespace, server.url, json.dumps(caps))
        say = Publisher(broker)

        async def talk() -> None:
            for number in range(count):
                for session in sessions:
                    await say.final(f"{session}-{number:03}", f"{number}", session)
                await asyncio.sleep(0.05)

        try:
            await pool.start()
            await pool.start()
            talking = asyncio.create_task(talk())
            for _ in range(6):
                await asyncio.sleep(chance.uniform(0.2, 0.8))
                await pool.kill(pool.running[0])
                await pool.start()
            await talking
            await wait_for(server, count * len(sessions))
        finally:
            await pool.end()
        for session in sessions:
            assert server.keys(session) == [f"{session}-{number:03}:0" for number in range(count)]
