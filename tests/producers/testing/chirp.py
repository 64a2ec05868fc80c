"""Chirp, the platform of examples/channel.py: a server that shows what it is sent, and what it posts."""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientTimeout, web
from sdqueue_producers import Channel, ChannelContext, Request
from sdqueue_producers.testing import Call, ChannelSuite, FakePlatform, Platform, Sample

PATH = Path(__file__).parents[3] / "examples" / "channel.py"
SECRET, TOKEN = "a-signing-secret-of-chirp", "an-api-token-of-chirp"


def load() -> Any:
    """The example as a module."""
    name = "example_channel"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, PATH)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def event(number: int, text: str = "hello", room: str = "r1") -> bytes:
    """A message, as Chirp posts it."""
    return json.dumps({"id": f"e{number}", "room": room, "user": "ann", "text": text}).encode()


def signed(request: Request, *, at: float | None = None, secret: str = SECRET) -> Request:
    """A request with Chirp's signature."""
    stamp = f"{time.time() if at is None else at:.0f}"
    digest = hmac.new(secret.encode(), stamp.encode() + b"." + request.body, hashlib.sha256).hexdigest()
    return replace(request, headers={**request.headers, "chirp-at": stamp, "chirp-signature": digest})


class FakeChirp(FakePlatform):
    """Its REST API: a key that it knows is answered as before."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, str] = {}

    async def answer(self, call: Call) -> web.StreamResponse:
        if call.headers.get("authorization") != f"Bearer {TOKEN}":
            return web.json_response({}, status=401)
        said = json.loads(call.body or b"{}")
        if len(said.get("text", "")) > 2000:
            return web.json_response({"error": "too long"}, status=400)
        match call.method, call.path.strip("/").split("/"):
            case "POST", ["rooms", _, "messages"]:
                ref = self.keys.setdefault(said["key"], f"m{len(self.keys)}")
                self.messages[ref] = said["text"]
                return web.json_response({"id": ref}, status=201)
            case "GET", ["rooms", _, "messages"]:
                found = self.keys.get(call.query["key"])
                return web.json_response({"id": found})
            case "PUT", ["rooms", _, "messages", ref] if ref in self.messages:
                self.messages[ref] = said["text"]
                return web.json_response({"id": ref})
        return web.json_response({}, status=404)


class ChirpSuite(ChannelSuite):
    """The suite for the example, and for what is made out of it."""

    secrets = (SECRET, TOKEN)

    @pytest.fixture
    async def platform(self) -> AsyncIterator[Platform]:
        async with FakeChirp() as platform:
            yield platform

    def make_channel(self, context: ChannelContext, platform: Platform) -> Channel:
        assert isinstance(platform, FakeChirp)
        example = load()
        settings = example.ChirpSettings(secret=SECRET, token=TOKEN, api_url=platform.url)
        channel = self.kind()(settings)
        assert 0 < channel.timeout.total <= self.patience_s
        channel.timeout = ClientTimeout(2)  # the suite waits for it
        return cast("Channel", channel)

    def kind(self) -> Any:
        """The channel's class."""
        return load().Chirp

    def signed(self, request: Request) -> Request:
        return signed(request)

    def samples(self, channel: Channel) -> Sequence[Sample]:
        post = Request("POST", "/chirp/events", {"content-type": "application/json"}, body=event(1))
        good = signed(post)
        later = signed(post, at=time.time() + 60)
        return [
            Sample(good, repeats=[later]),
            Sample(signed(replace(post, body=event(2, "é", "r2")))),
            Sample(post, refused=401),
            Sample(signed(post, secret="another"), refused=401),
            Sample(signed(post, at=time.time() - 3600), refused=401),
            Sample(signed(post, at=time.time() + 3600), refused=401),
            Sample(replace(good, body=event(3)), refused=401),
            Sample(signed(replace(post, body=b"{}")), refused=400),
            Sample(replace(good, method="GET"), refused=405),
        ]


def install(folder: Path) -> None:
    """Put the example into a folder of the path as pip would: a module, and a distribution that registers it."""
    (folder / "sdqueue_chirp.py").write_text(PATH.read_text())
    info = folder / "sdqueue_chirp-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sdqueue-chirp\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sdqueue.channels]\nchirp = sdqueue_chirp:make_channel\n")
