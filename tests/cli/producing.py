"""A channel for `sdqueue producer`, as somebody else's package has it, and a platform that sends until it hears 200."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx

from tests.cli.place import PATIENCE_S, Place, expect_line

CHANNEL = """
import asyncio, json, os, pathlib, signal

from sdqueue.messages import InboundTurn
from sdqueue_producers import BaseChannel, Caps, Receipt, RetryAfter, Sent, refusal
from starlette.responses import PlainTextResponse

def die_once(where):
    if os.environ.get("KILL") == where and not pathlib.Path("killed").exists():
        pathlib.Path("killed").write_text("")
        os.kill(os.getpid(), signal.SIGKILL)

class Pub(BaseChannel):
    name = "pub"
    paths = ("/pub", "/hold")
    caps = Caps(ack_deadline_s=float(os.environ.get("ACK_S", "30")))

    async def receive(self, request):
        try:
            said = json.loads(request.body)
            turn = InboundTurn.make({"session_id": said["session"], "id": said["id"], "text": said["text"],
                                     "channel": "pub", "address": said["session"]})
        except (ValueError, KeyError):
            return refusal(400, "not-json", "say it in JSON")
        pathlib.Path("received").write_text("")
        async def answer(replies):
            pathlib.Path("held").write_text("")
            return PlainTextResponse((await replies.last(timeout=600)).text)
        return Receipt((turn,), answer=answer if request.path == "/hold" else None)

    async def deliver(self, address, outgoing):
        pathlib.Path("delivering").write_text("")
        with open("begun", "a") as file:
            file.write(f"{address}\\n")
        while os.environ.get("BUSY") == address and not pathlib.Path("well").exists():
            if pathlib.Path("busy").exists():
                pathlib.Path("well").write_text("")
                raise RetryAfter(0.1, "busy for once")
            await asyncio.sleep(0.02)
        while os.environ.get("SLOW") and not pathlib.Path("go").exists():
            await asyncio.sleep(0.02)
        with open("delivered", "a") as file:
            file.write(json.dumps([address, outgoing.key, outgoing.text]) + "\\n")
        return Sent()

def make_channel(context):
    broker = context.client._broker
    publish = broker.publish
    async def killed(exchange, *rest, **options):
        turn = exchange == broker.topology.turns
        if turn:
            die_once("before the confirm")
        await publish(exchange, *rest, **options)
        if turn:
            die_once("after the confirm")
    broker.publish = killed
    return Pub()
"""

AGENT = """
import asyncio, os

async def noting(text, history):
    with open("ran", "a") as file:
        file.write(text + "\\n")
    await asyncio.sleep(float(os.environ.get("AGENT_S", "0")))
    return f"re {text}"
"""


def install(place: Place) -> None:
    """Put the channel where Python finds it as an installed package."""
    folder = place.folder / "pub_channel-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: pub-channel\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[sdqueue.channels]\npub = pub_channel:make_channel\n")
    (place.folder / "pub_channel.py").write_text(CHANNEL)
    (place.folder / "noting.py").write_text(AGENT)


async def producer(place: Place, *arguments: str, env: dict[str, str] | None = None) -> tuple[Any, str]:
    """A producer that is ready, and its address."""
    process = await place.start("producer", "--channels", "pub", "--producer-port", "0", *arguments, env=env or {})
    line = await expect_line(process, " ready: ")
    found = re.search(r"http://\S+", line)
    return process, found[0] if found else ""


async def listening(process: asyncio.subprocess.Process) -> str:
    """The address of one that is not ready."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        async for line in process.stderr:
            if found := re.search(r"listening.*(http://[^\s\"]+)", line.decode()):
                return found[1]
    raise AssertionError("it never listened")


async def say(url: str, session: str, number: int, *, path: str = "/pub") -> int:
    """One request; 0 where the connection was cut."""
    body = {"session": session, "id": f"{session}.{number}", "text": f"{session}.{number}"}
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        try:
            return (await http.post(f"{url}{path}", json=body)).status_code
        except httpx.TransportError:
            return 0


def lines(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


def delivered(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in lines(folder, "delivered")]


async def expect_lines(folder: Path, name: str, count: int) -> list[str]:
    async with asyncio.timeout(PATIENCE_S):
        while len(lines(folder, name)) < count:
            await asyncio.sleep(0.02)
    return lines(folder, name)


async def expect_file(path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not path.exists():
            await asyncio.sleep(0.02)
