"""The whole way with real processes: a signed event, RabbitMQ, a consumer, Redis, and one reply in its thread."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from sdqueue_producers import Request

from tests.producers.slack import payloads as p
from tests.producers.slack.server import FakeSlack
from tests.producers.slack.sockets import FakeSockets


@asynccontextmanager
async def started(*command: str, environ: dict[str, str]) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A process of the command line, once it says that it is ready; and what it said. It is killed in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sdqueue.cli", *command, stdout=asyncio.subprocess.PIPE, env=os.environ | environ
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            while b" ready" not in (line := await process.stdout.readline()):
                assert line, f"{command} has ended: {await process.wait()}"
        yield process, line.decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def environ_of(amqp_url: str, redis_url: str, namespace: str, slack: FakeSlack, **more: str) -> dict[str, str]:
    return {
        "SDQUEUE_BROKER_URL": amqp_url,
        "SDQUEUE_STORE_URL": redis_url,
        "SDQUEUE_NAMESPACE": namespace,
        "SDQUEUE_PARTITIONS": "4",
        "SDQUEUE_CHANNELS": "slack",
        "SDQUEUE_PRODUCER_HOST": "127.0.0.1",
        "SDQUEUE_PRODUCER_PORT": "0",
        "SDQUEUE_SLACK_API_URL": slack.url,
        "SDQUEUE_SLACK_BOT_TOKEN": "xoxb-1",
        "SDQUEUE_SLACK_STREAM": "false",
    } | more


def url_of(ready: str) -> str:
    return ready[ready.index("http://") :].split()[0]


async def shown(slack: FakeSlack, channel: str, threads: list[str]) -> dict[str, list[str]]:
    """Wait until each thread shows something."""
    async with asyncio.timeout(60), slack.arrived:
        await slack.arrived.wait_for(lambda: all(slack.visible(channel, thread) for thread in threads))
    return {thread: slack.texts(channel, thread) for thread in threads}


async def post(http: httpx.AsyncClient, url: str, request: Request) -> int:
    try:
        return (await http.post(url + request.path, content=request.body, headers=dict(request.headers))).status_code
    except httpx.TransportError:
        return 0


def mentions(number: int) -> tuple[str, list[p.Payload]]:
    """A mention in channel C1 as the two events that it makes, each twice."""
    ts = f"17000000{number:02}.000100"
    told = {"ts": ts, "client_msg_id": f"m{number}"}
    text = f"<@{p.BOT}> question {number}"
    return ts, [p.app_mention(text, **told), p.message(text, **told)] * 2


async def test_events_are_answered_once_in_their_threads_though_the_producer_is_killed(
    amqp_url: str, redis_url: str, namespace: str
) -> None:
    async with FakeSlack() as slack, httpx.AsyncClient(trust_env=False, timeout=30) as http:
        environ = environ_of(amqp_url, redis_url, namespace, slack, SDQUEUE_SLACK_SIGNING_SECRET=p.SECRET)
        told = [mentions(number) for number in range(12)]
        unanswered = [payload for _, payloads in told for payload in payloads]
        async with started("consumer", environ=environ):
            # Given a producer that is killed while it takes events
            async with started("producer", environ=environ) as (process, ready):
                sent = [asyncio.create_task(post(http, url_of(ready), p.event_request(one))) for one in unanswered]
                for answer in asyncio.as_completed(sent):
                    if await answer == 200:
                        break
                process.send_signal(signal.SIGKILL)
                answers = await asyncio.gather(*sent)
                assert set(answers) <= {0, 200, 503}  # 503: not confirmed in Slack's 3 s
                assert 200 in answers
            # When Slack sends again to the next one whatever was not answered, and some that was
            async with started("producer", environ=environ) as (_, ready):
                unanswered = [one for one, answer in zip(unanswered, answers, strict=True) if answer != 200]
                async with asyncio.timeout(60):
                    for payload in [*unanswered, *told[0][1]]:
                        while (answer := await post(http, url_of(ready), p.event_request(payload))) != 200:
                            assert answer in (0, 503)
                # Then each thread shows one answer
                texts = await shown(slack, "C1", [ts for ts, _ in told])
    for (ts, _), number in zip(told, range(12), strict=True):
        assert len(texts[ts]) == 1, texts
        assert f"question {number}" in texts[ts][0]


async def test_socket_mode_needs_no_address(tmp_path: Path) -> None:
    # Given a producer on SQLite that opens sockets
    async with FakeSockets() as sockets, FakeSlack() as slack:
        slack.socket_url = sockets.url
        environ = environ_of("", "", "s", slack, SDQUEUE_SLACK_APP_TOKEN="xapp-1", SDQUEUE_SLACK_SOCKET_CONNECTIONS="2")
        environ |= {
            "SDQUEUE_BROKER_URL": f"sqlite:///{tmp_path}/broker.db",
            "SDQUEUE_STORE_URL": f"sqlite:///{tmp_path}/store.db",
        }
        async with started("consumer", environ=environ), started("producer", environ=environ):
            await sockets.connected(2)
            # When a direct message comes over both
            envelopes = [sockets.envelope(p.direct("hello over there")) for _ in range(4)]
            for number, envelope in enumerate(envelopes):
                await sockets.give(envelope, number % 2)
            await sockets.acks(*envelopes)
            # Then it is answered once
            async with asyncio.timeout(60), slack.arrived:
                await slack.arrived.wait_for(lambda: bool(slack.visible("D1")))
        assert len(slack.texts("D1")) == 1
        assert "hello over there" in slack.texts("D1")[0]
