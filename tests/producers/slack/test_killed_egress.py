"""Deliveries to Slack by a process that is killed with SIGKILL: the next one makes the answer visible once, whole."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sdqueue import Settings, open_broker
from sdqueue.brokers import Broker, Message
from sdqueue.messages import OutboundReply
from tests.producers.slack.helpers import THREAD, address
from tests.producers.slack.payloads import SECRET
from tests.producers.slack.server import FakeSlack, hang

pytestmark = pytest.mark.chaos

TEXT = "Once upon a time"


@asynccontextmanager
async def egress(environ: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """An egress process, killed at the end at the latest."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.producers.slack.egress_process", env=environ, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def publish(broker: Broker, kind: str, text: str) -> None:
    """A reply as a consumer publishes it."""
    place = {"stream": {"attempt": 1, "index": 0, "restart": False, "offset": "1-0"}} if kind == "delta" else {}
    reply = OutboundReply.model_validate(
        {
            "id": "t:0.1-w.0" if kind == "delta" else "t:0",
            "turn_id": "t",
            "session_id": "s",
            "seq": 1,
            "kind": kind,
            "text": text,
            "channel": "slack",
            "address": address(),
            "metadata": place,
        }
    )
    message = Message(reply.to_bytes(), message_id=reply.id, correlation_id="t")
    await broker.publish(broker.topology.replies, broker.topology.reply_key("slack", reply.kind, "s"), message)


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["chat.postMessage", "chat.startStream", "chat.appendStream", "chat.stopStream"])
async def test_an_egress_that_is_killed_while_it_calls_slack(
    method: str, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an egress that is killed while it waits for Slack's answer to ``method``, which Slack has done or not,
    when another one takes over, then users see the whole answer, once."""
    async with FakeSlack() as slack, asyncio.timeout(60):
        ours = {
            "SDQUEUE_BROKER_URL": f"sqlite:///{tmp_path}/broker.db",
            "SDQUEUE_STORE_URL": f"sqlite:///{tmp_path}/store.db",
            "SDQUEUE_PRODUCER_STATE_URL": f"sqlite:///{tmp_path}/state.db",
            "SDQUEUE_PARTITIONS": "4",
            "SDQUEUE_SLACK_SIGNING_SECRET": SECRET,
            "SDQUEUE_SLACK_BOT_TOKEN": "xoxb-1",
            "SDQUEUE_SLACK_API_URL": slack.url,
        }
        for name, value in ours.items():
            monkeypatch.setenv(name, value)
        environ = dict(os.environ)
        async with open_broker(Settings.load()) as broker:
            await broker.apply()
            await broker.declare_egress("slack")
            slack.fail(method, hang(late=late))
            async with egress(environ) as process:
                if method != "chat.postMessage":
                    await publish(broker, "delta", "Once ")
                if method in ("chat.postMessage", "chat.stopStream"):
                    if method == "chat.stopStream":
                        await slack.until(lambda: slack.anywhere("Once "))
                    await publish(broker, "final", TEXT)
                await slack.called(method)
                if late:
                    await slack.effective(method)
                process.kill()
                await process.wait()
            if method not in ("chat.postMessage", "chat.stopStream"):
                await publish(broker, "final", TEXT)

            async with egress(environ):
                await slack.until(lambda: slack.texts("C1", THREAD)[-1:] == [TEXT])
                await slack.until(lambda: not any(m.streaming_since for m in slack.visible("C1", THREAD) if m.text))

    assert [text for text in slack.texts("C1", THREAD) if text] == [TEXT]
