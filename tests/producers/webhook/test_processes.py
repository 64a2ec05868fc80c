"""Real producers as processes, killed where it hurts: nothing is lost, nothing runs twice, nothing is shown twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from sdqueue_producers import ProducerState
from sdqueue_producers.egress import Egress, EgressOptions
from sdqueue_producers.state.sqlite import SQLiteState

from sdqueue.backends import open_broker
from sdqueue.settings import Settings
from tests.cli.place import Place, expect_line
from tests.producers.webhook.tools import (
    LEAST,
    OTHER_SECRET,
    SECRET,
    Authority,
    Receiver,
    make_authority,
    make_channel,
    serving,
    signed_headers,
)

pytestmark = pytest.mark.timeout(300)

URLS = {"SDQUEUE_BROKER_URL": "sqlite:///q.db", "SDQUEUE_STORE_URL": "sqlite:///s.db"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), "localhost")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(tmp_path, stack)


def webhook(receiver: Receiver, authority: Authority, **more: Any) -> dict[str, Any]:
    """The settings of the channel, with a receiver that the system's own resolver finds."""
    crm = {
        "secrets": [SECRET],
        "callback_url": f"https://localhost:{receiver.port}/replies",
        "callback_secrets": [OTHER_SECRET],
        "callback_ca_file": str(authority.ca_file),
        "allow_networks": ["127.0.0.0/8", "::1/128"],
    }
    return {"endpoints": {"crm": crm}, **more}


async def start_producer(place: Place, given: dict[str, Any]) -> tuple[asyncio.subprocess.Process, str]:
    """A producer that is ready, and its address."""
    env = {
        **URLS,
        "SDQUEUE_PRODUCER_PORT": "0",
        **{f"SDQUEUE_WEBHOOK_{name.upper()}": json.dumps(value) for name, value in given.items()},
    }
    process = await place.start("producer", "--channels", "webhook", env=env, stderr=None)
    line = await expect_line(process, " ready: ")
    return process, line.rsplit(", ", 1)[1]


async def start_consumer(place: Place, agent: str) -> None:
    process = await place.start("consumer", "--agent", agent, env=URLS, stderr=None)
    await expect_line(process, " ready: ")


async def post(url: str, *, id_: str = "evt_1", text: str = "hello", **headers: str) -> httpx.Response:
    body = json.dumps(LEAST | {"text": text}).encode()
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        return await http.post(f"{url}/webhook/crm", content=body, headers=signed_headers(body, id_=id_, **headers))


async def ended(url: str, id_: str = "evt_1") -> dict[str, Any]:
    async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as http:
        while True:
            response = await http.get(f"{url}/webhook/crm/turns/{id_}", headers=signed_headers(b"", id_=id_))
            assert response.status_code in (200, 202)
            if response.status_code == 200:
                fields: dict[str, Any] = response.json()
                return fields
            await asyncio.sleep(0.05)


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_producer_that_is_killed_between_the_post_and_its_answer_posts_again_under_the_same_id(
    place: Place, authority: Authority
) -> None:
    holding = asyncio.Event()

    async def first_never(request: web.Request) -> web.Response:
        if not holding.is_set():
            holding.set()
            await asyncio.sleep(600)
        return web.Response(status=204)

    receiver = Receiver(first_never)
    async with serving(receiver, authority.tls):
        await start_consumer(place, "agents:slow")
        given = webhook(receiver, authority)
        process, url = await start_producer(place, given)
        assert (await post(url)).status_code == 202
        await asyncio.wait_for(holding.wait(), 60)
        await kill(process)
        _, url = await start_producer(place, given)
        await until(lambda: len(receiver.got) >= 2)
        assert (await post(url)).status_code == 202  # a repeat: known, and not run again
        assert (await ended(url))["text"] == "slowly hello"
        assert (await post(url, id_="evt_2")).status_code == 202  # the session goes on behind it
        await until(lambda: any(got.headers["webhook-id"] == "webhook:crm:evt_2:0" for got in receiver.got))
    seen = {got.headers["webhook-id"]: got.verified() for got in receiver.got}
    assert list(seen) == ["webhook:crm:evt_1:0", "webhook:crm:evt_2:0"]
    assert [body["seq"] for body in seen.values()] == [1, 2]
    assert len(receiver.got) == 3


async def test_a_producer_that_is_killed_while_it_holds_a_request_loses_nothing(
    place: Place, authority: Authority
) -> None:
    async with serving(Receiver(), authority.tls) as receiver:
        await start_consumer(place, "agents:gated")
        given = webhook(receiver, authority)
        process, url = await start_producer(place, given)
        asking = asyncio.create_task(post(url, prefer="wait=25"))
        await until((place.folder / "began").exists)
        await kill(process)
        with pytest.raises(httpx.HTTPError):
            await asking
        _, url = await start_producer(place, given)
        (place.folder / "go").touch()
        await until(lambda: receiver.got)  # nobody holds it any more, so it is called back
        assert receiver.got[0].verified()["text"] == "0 before, hello"
        assert (await ended(url))["text"] == "0 before, hello"
        assert (await post(url, prefer="wait=10")).status_code == 202  # the way that it has gone stays
        assert len(receiver.got) == 1


async def test_a_callback_that_waits_for_its_next_attempt_is_made_by_another_process_when_it_is_due(
    place: Place, authority: Authority
) -> None:
    """The first process has parked the reply after two failures; the schedule goes on, and does not begin anew."""
    at: list[float] = []

    async def fail(request: web.Request) -> web.Response:
        at.append(time.monotonic())
        return web.Response(status=500)

    receiver = Receiver(fail)
    async with serving(receiver, authority.tls):
        given = webhook(receiver, authority, retry_s=[0.1, 4.0, 0.1])
        settings = Settings(broker_url=f"sqlite:///{place.folder}/q.db", partitions=4)
        await start_consumer(place, "agents:slow")
        # Given: a life of the egress in which two attempts fail, and which ends while the reply waits.
        state = SQLiteState(place.folder / "s.db.producer")
        async with open_broker(settings, name="test") as broker:
            channel = make_channel(state=state, settings=settings, **given)
            options = EgressOptions(in_place_s=0.01, poll_s=0.02)
            async with channel, Egress(channel, broker, state, options):
                _, url = await start_producer_of_ingress(place, given)
                assert (await post(url)).status_code == 202
                await until(lambda: len(at) == 2)
                await parked(state, attempts=2)
        await state.aclose()
        assert len(at) == 2
        # When: a real process takes over.
        await start_producer(place, given)
        # Then: the third attempt is made when it is due, and the fourth is the last one.
        await until(lambda: len(at) == 4)
        assert at[2] - at[1] >= 3.9
        while "webhook:crm:evt_1" not in (await place.run("dead", "list", env=URLS)).out:
            await asyncio.sleep(0.05)
        assert len(at) == 4
    assert {got.headers["webhook-id"] for got in receiver.got} == {"webhook:crm:evt_1:0"}


async def parked(state: ProducerState, *, attempts: int) -> None:
    """Wait until a reply waits for its next attempt after so many."""
    async with asyncio.timeout(30):
        while True:
            for session in await state.due("webhook", now=1e12, count=1):
                waiting = await state.parked("webhook", session)
                if waiting is not None and waiting.attempts == attempts:
                    return
            await asyncio.sleep(0.02)


async def start_producer_of_ingress(place: Place, given: dict[str, Any]) -> tuple[asyncio.subprocess.Process, str]:
    """The half of a producer that takes messages."""
    env = {**URLS, "SDQUEUE_PRODUCER_PORT": "0", "SDQUEUE_WEBHOOK_ENDPOINTS": json.dumps(given["endpoints"])}
    process = await place.start("producer", "--channels", "webhook", "--only", "ingress", env=env, stderr=None)
    line = await expect_line(process, " ready: ")
    return process, line.rsplit(", ", 1)[1]


async def test_an_endpoint_that_asks_nobody_who_they_are_keeps_a_producer_from_starting(place: Place) -> None:
    env = {**URLS, "SDQUEUE_WEBHOOK_ENDPOINTS": '{"crm": {}}', "SDQUEUE_PRODUCER_PORT": "0"}
    result = await place.run("producer", "--channels", "webhook", env=env)
    assert result.code == 2
    assert "open = true" in result.err
