"""Clients of a process's port that only take up room."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from sdqueue.observe import endpoints
from sdqueue.observe.endpoints import AT_ONCE, served
from sdqueue.observe.health import Health

REQUEST = b"GET /healthz HTTP/1.0\r\n\r\n"


def silent(port: int) -> socket.socket:
    """A client that connects and says nothing."""
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def answer(port: int) -> bytes:
    """What a probe is told; nothing where it is cut."""
    with silent(port) as probe:
        try:
            probe.sendall(REQUEST)
            return b"".join(iter(lambda: probe.recv(4096), b""))
        except ConnectionError:
            return b""


async def answered(port: int) -> None:
    """Wait until a probe is answered."""
    async with asyncio.timeout(10):
        while b"200 OK" not in await asyncio.to_thread(answer, port):
            await asyncio.sleep(0.02)


async def test_silent_clients_take_no_more_threads_than_there_are_places() -> None:
    before = threading.active_count()
    with Health(30) as health, served(0, CollectorRegistry(), health) as port, ExitStack() as clients:
        crowd = [clients.enter_context(silent(port)) for _ in range(AT_ONCE + 20)]
        # They are accepted in their order: whoever came too late is cut, those before it have their threads.
        cut = [await asyncio.to_thread(client.recv, 1) for client in crowd[AT_ONCE:]]
        assert cut == [b""] * 20
        assert threading.active_count() - before <= AT_ONCE + 10  # the server's own, and those that read here
        assert await asyncio.to_thread(answer, port) == b""
        crowd[0].close()
        await answered(port)


async def test_silent_clients_lose_their_places_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints._Handler, "timeout", 0.2)
    with Health(30) as health, served(0, CollectorRegistry(), health) as port, ExitStack() as clients:
        for _ in range(AT_ONCE):
            clients.enter_context(silent(port))
        await answered(port)
