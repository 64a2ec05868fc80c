"""The WebSocket: resume, repeats, slow and silent clients, bad tokens, wrong origins, and garbage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from sdqueue_producers import Outgoing
from sdqueue_producers.webchat import entries
from sdqueue_producers.webchat.feed import Draft, Feed, FeedLimits, MemoryFeed, Mode

from sdqueue.errors import BrokerUnavailable
from tests.producers.webchat.conftest import MakeFeed
from tests.producers.webchat.stand import Core, Site, Visitor, reply_to, web_chat

ANN = "webchat:main:ann"


async def closed(visitor: Visitor) -> tuple[int, str]:
    """The code and reason with which the server closes, whatever it says before."""
    while True:
        event = await visitor.next()
        if event["type"] == "closed":
            return event["closed"], event["reason"] or ""


# A conversation


async def test_a_message_is_acknowledged_after_the_confirm_and_answered_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(time=lambda: 1_700_000_000.0)
    for module in ("entries", "tail"):  # where it is said how long an indicator is shown
        monkeypatch.setattr(f"sdqueue_producers.webchat.{module}.time", clock)
    async with web_chat() as site, site.socket(await site.token()) as visitor:
        await visitor.say("hello")
        assert sorted([e["type"] for e in await visitor.some(2)]) == ["ack", "message"]
        turn = await site.core.arrived.get()
        await site.channel.typing(turn.address, True)
        typing = await visitor.next()
        assert (typing["type"], typing["on"], 9 < typing["for_s"] <= 10) == ("typing", True, True)
        stream = await site.channel.stream(turn.address, Outgoing(reply_to(turn, "", "delta", "0.1-ab.0"), ""))
        shown = []
        for piece in ("Once ", "upon ", "a time"):
            await stream.append(piece)
            shown.append(await visitor.next())
        assert [(e["text"], e["append"]) for e in shown] == [("Once ", False), ("upon ", True), ("a time", True)]
        final = reply_to(turn, "Once upon a time.")
        await stream.finish(Outgoing(final, final.text), "Once upon a time")
        last = await visitor.next()
        assert (last["type"], last["text"], last["message"]) == ("final", "Once upon a time.", shown[0]["message"])
        # Then: whoever comes later sees the answer once, and whole
        async with site.socket(await site.token()) as other:
            assert [e["type"] for e in await other.some(3)] == ["message", "typing", "final"]


async def test_an_answer_that_starts_over_is_shown_from_its_beginning() -> None:
    async with web_chat() as site, site.socket(await site.token()) as visitor:
        await visitor.say("hello")
        await visitor.some(2)
        turn = await site.core.arrived.get()
        delta = Outgoing(reply_to(turn, "", "delta", "0.1-ab.0"), "")
        stream = await site.channel.stream(turn.address, delta)
        await stream.append("wrong")
        assert (await visitor.next())["text"] == "wrong"
        again = Outgoing(reply_to(turn, "", "delta", "0.2-cd.0"), "right")
        await site.channel.edit(turn.address, stream.ref, again)
        event = await visitor.next()
        assert (event["text"], event["append"]) == ("right", False)


async def test_every_window_of_a_visitor_sees_the_same_and_nobody_else_does() -> None:
    async with web_chat() as site:
        token = await site.token()
        async with site.socket(token) as one, site.socket(token) as two, site.socket(await site.token("bob")) as bob:
            await one.say("hello")
            assert sorted([e["type"] for e in await one.some(2)]) == ["ack", "message"]
            assert (await two.next())["text"] == "hello"
            await site.answer(await site.core.arrived.get(), "hi")
            assert [(await visitor.next())["text"] for visitor in (one, two)] == ["hi", "hi"]
            await bob.ws.send_json({"type": "ping"})
            assert (await bob.next())["type"] == "pong"  # nothing was before it


async def test_a_message_that_is_not_confirmed_is_said_to_be_and_sent_again_is_one_turn() -> None:
    async with web_chat() as site, site.socket(await site.token()) as visitor:
        site.core.failures.append(BrokerUnavailable("away"))
        await visitor.say("hello")
        nack = await visitor.next()
        assert (nack["type"], nack["message"], nack["reason"], nack["retry_after_s"]) == (
            "nack",
            "m1",
            "unconfirmed",
            3,
        )
        for _ in range(3):
            await visitor.say("hello")
        assert sorted([e["type"] for e in await visitor.some(4)]) == ["ack", "ack", "ack", "message"]
        assert len(site.core.turns) == 1
        # What can never be accepted says so, and the connection goes on.
        await visitor.say("  ", "m2")
        nack = await visitor.next()
        assert (nack["reason"], nack["retry_after_s"]) == ("empty-text", None)


# Coming back


async def test_a_client_that_comes_back_misses_nothing_and_sees_nothing_twice(make_feed: MakeFeed) -> None:
    """Cut and resumed at every place of a conversation, on each backend, by a second process."""
    core = Core()
    async with web_chat(make_feed(), core=core) as one, web_chat(make_feed(), core=core) as two:
        token = await one.token()
        async with one.socket(token) as visitor:
            for n in range(4):
                await visitor.say(f"question {n}", f"m{n}")
                turn = await core.arrived.get()
                await visitor.some(2)
                await two.answer(turn, f"answer {n}")
                await visitor.next()
        async with one.socket(token) as visitor:
            whole = await visitor.some(8)
        assert [e["text"] for e in whole] == [f"{word} {n}" for n in range(4) for word in ("question", "answer")]
        for seen, event in enumerate(whole):
            site: Site = (one, two)[seen % 2]
            async with site.socket(token, after=event["id"]) as visitor:
                await visitor.ws.send_json({"type": "ping"})
                rest = await visitor.some(len(whole) - seen)
                assert [e for e in rest if e["type"] != "pong"] == whole[seen + 1 :]


async def test_a_client_is_told_where_something_is_kept_no_more() -> None:
    feed = MemoryFeed(FeedLimits(entries=10))
    async with web_chat(feed) as site:
        for n in range(15):
            await feed.add(ANN, entries.message(f"t{n}", f"m{n}", f"{n}"))
        first = (await feed.read(ANN, None)).entries[0].place
        for after in (f"{first.epoch}-2", "1-1", "nonsense", "-", "9" * 60):
            async with site.socket(await site.token(), after=after) as visitor:
                assert (await visitor.next())["type"] == "reset"
                assert [e["text"] for e in await visitor.some(10)] == [f"{n}" for n in range(5, 15)]
        async with site.socket(await site.token(), after=f"{first.epoch}-5") as visitor:
            assert [e["text"] for e in await visitor.some(10)] == [f"{n}" for n in range(5, 15)]


async def test_an_answer_is_seen_on_from_its_middle_after_a_reconnect() -> None:
    async with web_chat() as site:
        token = await site.token()
        await site.post(token, id="m1", text="hello")
        turn = await site.core.arrived.get()
        stream = await site.channel.stream(turn.address, Outgoing(reply_to(turn, "", "delta", "0.1-ab.0"), ""))
        await stream.append("one ")
        async with site.socket(token) as visitor:
            _, partial = await visitor.some(2)
        await stream.append("two ")
        async with site.socket(token, after=partial["id"]) as visitor:
            event = await visitor.next()
            assert (event["text"], event["append"]) == ("one two ", False)
            await stream.append("three")
            event = await visitor.next()
            assert (event["text"], event["append"]) == ("three", True)


# Who may


@pytest.mark.parametrize("token", ["", "x", "v1.e30.AAAA", "v1." + "A" * 5000, "é", "v1.\x00.x"])
async def test_a_bad_token_closes_with_4401(token: str) -> None:
    async with web_chat() as site, site.http.ws_connect(f"{site.base}/webchat/socket") as ws:
        await ws.send_json({"type": "hello", "token": token})
        assert await closed(Visitor(ws)) == (4401, "bad-token")


async def test_an_expired_and_a_foreign_token_close_with_4401_and_expiry_closes_an_open_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with web_chat(token_ttl_s=600) as site, web_chat(secrets="another-secret" * 4) as other:
        token = await site.token()
        expires_at = site.channel._tokens.read(token).expires_at
        # Given: a connection whose token is good for 0.1 s more
        monkeypatch.setattr("sdqueue_producers.webchat.socket.time", SimpleNamespace(time=lambda: expires_at - 0.1))
        async with site.socket(token) as visitor:
            assert await closed(visitor) == (4401, "expired-token")
        monkeypatch.setattr(site.channel._tokens, "_clock", lambda: expires_at)
        for shown, reason in ((token, "expired-token"), (await other.token(), "bad-token")):
            async with site.http.ws_connect(f"{site.base}/webchat/socket") as ws:
                await ws.send_json({"type": "hello", "token": shown})
                assert await closed(Visitor(ws)) == (4401, reason)


async def test_pages_of_other_origins_are_turned_away_in_the_handshake() -> None:
    async with web_chat(origins="https://shop.example") as site:
        url = f"{site.base}/webchat/socket"
        for origin in ("https://evil.example", "null", "https://shop.example.evil.example"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await site.http.ws_connect(url, headers={"Origin": origin})
            assert refused.value.status == 403
        for origin in ("https://shop.example", site.base):
            async with site.http.ws_connect(url, headers={"Origin": origin}) as ws:
                assert not ws.closed


# What no client of ours sends


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ("", 4400),
        ("{", 4400),
        ("[]", 4400),
        ("null", 4400),
        ("[" * 2000, 4400),
        (json.dumps({"type": "message", "id": "m1", "text": "hi"}), 4400),
        (json.dumps({"type": "hello"}), 4400),
        (json.dumps({"type": "hello", "token": 1}), 4400),
        (json.dumps({"type": "hello", "token": "x", "after": 7}), 4400),
        (json.dumps({"type": "hello", "token": "x", "after": "9" * 65}), 4400),
        (json.dumps({"type": "hello", "token": "x", "conversation": "a:b"}), 4400),
        ('{"type": "hello", "token": "\\ud800"}', 4400),
        (b"\x00\xff", 1003),
        ("x" * 60_000, 1009),
    ],
)
async def test_garbage_in_place_of_hello_closes_with_a_code(first: str | bytes, code: int) -> None:
    async with web_chat() as site, site.http.ws_connect(f"{site.base}/webchat/socket") as ws:
        await (ws.send_bytes(first) if isinstance(first, bytes) else ws.send_str(first))
        assert (await closed(Visitor(ws)))[0] == code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("{", 4400),
        (json.dumps({"type": "hello", "token": "x"}), 4400),
        (json.dumps({"type": "message", "text": "no id"}), 4400),
        (json.dumps({"type": "message", "id": "a b", "text": "hi"}), 4400),
        (b"{}", 1003),
        (json.dumps({"type": "message", "id": "m1", "text": "x" * 60_000}), 1009),
    ],
)
async def test_garbage_later_closes_with_a_code_and_is_no_turn(data: str | bytes, code: int) -> None:
    async with web_chat() as site, site.socket(await site.token()) as visitor:
        await (visitor.ws.send_bytes(data) if isinstance(data, bytes) else visitor.ws.send_str(data))
        assert (await closed(visitor))[0] == code
        assert not site.core.turns


async def test_a_client_that_says_nothing_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdqueue_producers.webchat.socket.HELLO_S", 0.1)
    async with web_chat() as site, site.http.ws_connect(f"{site.base}/webchat/socket") as ws:
        assert await closed(Visitor(ws)) == (4408, "no-hello")


# Bounds


async def test_a_client_that_takes_nothing_is_cut_off_and_nothing_piles_up_for_it() -> None:
    feed = Watched(FeedLimits(entries=10_000))
    async with web_chat(feed, send_timeout_s=0.3) as site:
        token = await site.token()
        raw = socket.create_connection(("127.0.0.1", int(site.base.rpartition(":")[2])))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(
            raw,
            b"GET /webchat/socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        assert b" 101 " in await loop.sock_recv(raw, 4096)
        hello = json.dumps({"type": "hello", "token": token}).encode()
        await loop.sock_sendall(raw, b"\x81\xfe" + len(hello).to_bytes(2, "big") + bytes(4) + hello)
        # Given: 60 MB of answers, of which it reads none
        for n in range(1500):
            await feed.add(ANN, Draft(f"s{n}", json.dumps({"type": "final", "text": "x" * 40_000}), Mode.ONCE))
        async with asyncio.timeout(60):
            await feed.left.wait()
        assert feed.given < 600  # pages are read one after the other, as the client takes them
        raw.close()


class Watched(MemoryFeed):
    """A feed that counts what it has given, and tells when nobody watches it any more."""

    def __init__(self, limits: FeedLimits) -> None:
        super().__init__(limits)
        self.given = 0
        self.left = asyncio.Event()

    async def read(self, session_id: str, after: Any) -> Any:
        page = await super().read(session_id, after)
        self.given += len(page.entries)
        return page

    def watch(self, session_id: str) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def watching() -> Any:
            try:
                with super(Watched, self).watch(session_id) as wake:
                    yield wake
            finally:
                self.left.set()

        return watching()


async def test_connections_have_a_bound_for_the_process_and_for_a_session() -> None:
    async with web_chat(max_connections=4, session_connections=2) as site:
        ann = await site.token("ann")
        async with site.socket(ann), site.socket(ann):
            async with site.http.ws_connect(f"{site.base}/webchat/socket") as ws:
                await ws.send_json({"type": "hello", "token": ann})
                assert await closed(Visitor(ws)) == (4429, "too-many")
            async with site.socket(await site.token("bob")), site.socket(await site.token("eve")):
                with pytest.raises(aiohttp.WSServerHandshakeError) as full:
                    await site.http.ws_connect(f"{site.base}/webchat/socket")
                assert full.value.status == 503


async def test_who_says_no_hello_takes_half_of_the_places_at_most() -> None:
    async with web_chat(max_connections=4) as site, contextlib.AsyncExitStack() as strangers:
        # Given strangers that hold sockets open and say nothing, until no more are let in
        address = f"{site.base}/webchat/socket"
        sockets = [await strangers.enter_async_context(site.http.ws_connect(address)) for _ in range(2)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as full:
            await site.http.ws_connect(address)
        assert full.value.status == 503
        # Then a visitor is served all the same
        ann = await site.token("ann")
        async with site.events(ann):
            # And when one of them says who it is, there is room for another
            await sockets[0].send_json({"type": "hello", "token": ann})
            assert (await Visitor(sockets[0]).next())["type"] == "welcome"
            async with site.socket(ann):
                pass


@pytest.mark.timeout(300)
async def test_two_thousand_idle_visitors_cost_little_and_hear_at_once() -> None:
    feed: Feed = MemoryFeed()
    async with web_chat(feed, max_connections=2000, heartbeat_s=600) as site:
        site.http._connector._limit = 0  # type: ignore[union-attr]
        before = resident_mb()
        visitors = []
        for n in range(2000):
            ws = await site.http.ws_connect(f"{site.base}/webchat/socket")
            await ws.send_json({"type": "hello", "token": await site.token(f"v{n}") if n < 5 else TOKENS(site, n)})
            visitors.append(Visitor(ws))
            assert (await visitors[-1].next())["type"] == "welcome"
        grown = resident_mb() - before
        for n in (0, 1000, 1999):
            await feed.add(f"webchat:main:v{n}", entries.message("t", "m", "news"))
            assert (await visitors[n].next(skip=()))["text"] == "news"  # and no heartbeat was before it
        await asyncio.gather(*(visitor.ws.close() for visitor in visitors))
        print(f"2000 idle visitors, client side included: {grown:.0f} MB")
        assert grown < 300


def TOKENS(site: Site, n: int) -> str:
    from sdqueue_producers.webchat import Visitor as Who

    return site.channel._tokens.make(Who("main", f"v{n}"), 600)[0]


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
