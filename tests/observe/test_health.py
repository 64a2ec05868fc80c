"""The port of a process for machines, and what stands behind it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry, Counter

from sdqueue.errors import StoreUnavailable
from sdqueue.observe import endpoints, health
from sdqueue.observe.endpoints import served
from sdqueue.observe.health import ANSWER_S, ASK_S, GIVE_UP_S, Health, Readiness
from tests.simulation.loop import VirtualLoop


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def said(port: int, request: str) -> str:
    """All that is answered, down to the last byte."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as talking:
        talking.sendall(request.encode())
        return b"".join(iter(lambda: talking.recv(4096), b"")).decode()


async def asked(url: str) -> tuple[int, str]:
    return await asyncio.to_thread(get, url)


async def test_metrics_and_health_are_served_on_one_port_of_all_addresses() -> None:
    registry = CollectorRegistry()
    Counter("apples_total", "Apples.", registry=registry).inc()
    with Health(30) as health, served(0, registry, health) as port:
        status, text = await asked(f"http://127.0.0.1:{port}/metrics")
        assert (status, "apples_total 1.0" in text) == (200, True)
        assert await asked(f"http://127.0.0.1:{port}/healthz") == (200, '{"status": "alive"}')
        assert (await asked(f"http://127.0.0.1:{port}/"))[0] == 404
        if socket.has_dualstack_ipv6():
            assert (await asked(f"http://[::1]:{port}/healthz"))[0] == 200
    with pytest.raises(urllib.error.URLError):
        get(f"http://127.0.0.1:{port}/healthz")


async def test_probes_are_asked_by_get_and_head_which_gets_no_body() -> None:
    with Health(30) as health, served(0, CollectorRegistry(), health) as port:
        for method, path, status in (("HEAD", "/healthz", 200), ("HEAD", "/readyz", 503), ("POST", "/readyz", 405)):
            answer = await asyncio.to_thread(said, port, f"{method} {path} HTTP/1.0\r\n\r\n")
            head, _, body = answer.partition("\r\n\r\n")
            assert f" {status} " in head.splitlines()[0]
            assert bool(body) is (method != "HEAD")
            assert ("Allow: GET, HEAD" in head) is (status == 405)


async def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        with Health(30) as health, pytest.raises(OSError, match="in use"):
            served(taken.getsockname()[1], CollectorRegistry(), health).__enter__()


async def test_a_client_that_says_nothing_keeps_nobody_waiting() -> None:
    with (
        Health(30) as health,
        served(0, CollectorRegistry(), health) as port,
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert (await asked(f"http://127.0.0.1:{port}/healthz"))[0] == 200


async def test_a_client_that_says_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < endpoints._Handler.timeout <= 30
    monkeypatch.setattr(endpoints._Handler, "timeout", 0.1)
    with Health(30) as health, served(0, CollectorRegistry(), health) as port:
        try:
            assert await asyncio.to_thread(said, port, "GET /heal") == ""
        except ConnectionError:
            """It was cut before this was sent."""


async def test_readiness_has_its_stages() -> None:
    reasons: list[str] = []

    async def look() -> Sequence[str]:
        return reasons

    with Health(30) as health:
        assert await asyncio.to_thread(health.ready) == ("starting",)
        health.begun(look)
        assert not await asyncio.to_thread(health.ready)
        reasons.append("no broker")
        assert await asyncio.to_thread(health.ready) == ["no broker"]
        health.stopping()
        assert await asyncio.to_thread(health.ready) == ("stopping",)
        assert not health.alive()


def test_who_asks_after_the_end_of_the_loop_hears_that_it_is_stopping() -> None:
    async def look() -> Sequence[str]:
        return ()

    async def run() -> Health:
        with Health(0.01) as health:
            health.begun(look)
        return health

    health = asyncio.run(run())
    time.sleep(0.02)
    assert health.ready() == ("stopping",)
    assert not health.alive()


async def test_who_asks_while_the_tasks_of_the_loop_are_cancelled_hears_that_it_is_stopping() -> None:
    asked = asyncio.Event()

    async def look() -> Sequence[str]:
        asked.set()
        await asyncio.Event().wait()
        return ()

    with Health(30) as health:
        health.begun(look)
        asking = asyncio.create_task(asyncio.to_thread(health.ready))
        await asked.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task(), asking}:
            task.cancel()
        assert await asking == ("stopping",)


async def test_a_loop_that_stands_still_is_noticed_and_may_turn_again() -> None:
    told: list[Sequence[str]] = []
    noticed = threading.Event()

    def watch() -> None:
        while not (reasons := health.alive()):
            time.sleep(0.05)
        told.append(reasons)
        noticed.set()

    with Health(1) as health:
        await asyncio.sleep(0)
        watching = threading.Thread(target=watch)
        watching.start()
        assert noticed.wait(60), "it stands still until this is so"
        watching.join()
        async with asyncio.timeout(60):
            while health.alive():
                await asyncio.sleep(0.05)
    assert re.match(r"the event loop has not turned for [1-9]\d* s; the limit is 1 s", told[0][0])


async def test_backends_are_asked_once_for_all_who_want_to_know_and_known_reasons_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "FRESH_S", 600.0)
    asked, known = 0, ["a", "b"]

    async def check() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        raise StoreUnavailable("no store")

    readiness = Readiness(lambda: [known.pop()] if known else [], store=check)
    answers = await asyncio.gather(*(readiness.look() for _ in range(10)))
    assert asked == 1
    assert answers[:3] == [("b", "store: no store"), ("a", "store: no store"), ("store: no store",)]


def test_a_backend_that_never_answers_is_not_waited_for() -> None:
    loop = VirtualLoop()
    began = loop.time()
    reasons = loop.run_until_complete(Readiness(broker=asyncio.Event().wait).look())
    assert reasons == ("broker: no answer within 2 s",)
    assert loop.time() - began == GIVE_UP_S


def test_a_probe_hears_why_before_it_has_waited_for_too_long() -> None:
    """Probes wait 3 s, and a backend is given up, and then the event loop, before that."""
    assert ASK_S < GIVE_UP_S < ANSWER_S < 3


async def test_whatever_a_backend_raises_is_a_reason() -> None:
    async def check() -> None:
        raise OSError(5, "Input/output error")

    assert await Readiness(store=check).look() == ("store: OSError: [Errno 5] Input/output error",)


async def test_a_body_is_json_with_its_length() -> None:
    with Health(30) as health, served(0, CollectorRegistry(), health) as port:
        status, text = await asked(f"http://127.0.0.1:{port}/readyz")
    assert (status, json.loads(text)) == (503, {"status": "not-ready", "reasons": ["starting"]})
