"""Tokens, messages and the event stream over real HTTP: what is accepted, and what is refused with a reason."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from sdqueue_producers import MemoryState, Outgoing, Permanent
from sdqueue_producers.webchat.doors import _network

from sdqueue.errors import BrokerUnavailable
from tests.producers.webchat.stand import BACKEND, SECRET, reply_to, web_chat

# Tokens


async def ask(
    http: aiohttp.ClientSession, url: str, shown: str | None = None, **fields: Any
) -> tuple[int, dict[str, Any]]:
    headers = {} if shown is None else {"Authorization": f"Bearer {shown}"}
    async with http.post(url, json=fields, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_the_backend_gets_tokens_of_named_visitors() -> None:
    async with web_chat(sites="main,blog", token_ttl_s=600) as site:
        url = f"{site.base}/webchat/token"
        status, made = await ask(site.http, url, BACKEND, visitor="ann", site="blog", ttl_s=9999)
        assert (status, made["visitor"], made["site"]) == (200, "ann", "blog")
        assert 598 <= made["expires_in_s"] <= 600
        assert SECRET not in json.dumps(made)
        assert (await ask(site.http, url, BACKEND))[1]["visitor"].startswith("anon-")
        assert await refused(site.http, url, BACKEND, site="shop") == (400, "no-such-site")
        assert await refused(site.http, url, BACKEND, visitor="") == (400, "bad-field")
        assert await refused(site.http, url, BACKEND, visitor=7) == (400, "bad-field")
        assert await refused(site.http, url, BACKEND, vistor="ann") == (400, "bad-field")
        assert await refused(site.http, url, "wrong", visitor="ann") == (401, "bad-token")
        assert await refused(site.http, url, visitor="ann") == (401, "no-token")


async def refused(http: aiohttp.ClientSession, url: str, shown: str | None = None, **fields: Any) -> tuple[int, str]:
    status, problem = await ask(http, url, shown, **fields)
    assert problem["detail"]
    assert SECRET not in json.dumps(problem)
    return status, problem["error"]


async def test_anybody_gets_a_token_where_that_is_allowed_and_not_many() -> None:
    state = MemoryState()
    async with web_chat(anonymous=True, anonymous_per_minute=3, state=state) as site:
        url = f"{site.base}/webchat/token"
        _, first = await ask(site.http, url)
        _, second = await ask(site.http, url)
        assert first["visitor"] != second["visitor"]
        # When: a visitor shows a token, it is renewed
        _, renewed = await ask(site.http, url, first["token"])
        assert renewed["visitor"] == first["visitor"]
        status, problem = await ask(site.http, url)
        assert (status, problem["error"]) == (429, "too-many")
        assert 0 < problem["retry_after_s"] <= 21
    async with web_chat(anonymous=True, state=MemoryState()) as site:
        url = f"{site.base}/webchat/token"
        assert await refused(site.http, url, visitor="ann") == (403, "not-the-backend")
        # A named visitor does not prolong a session on their own.
        assert await refused(site.http, url, await site.token("ann")) == (403, "not-renewable")


def test_an_address_of_ipv6_counts_with_its_neighbours() -> None:
    assert _network("2001:db8::1") == _network("2001:db8::ffff:2") == "2001:db8::"
    assert _network("::ffff:192.0.2.1") == _network("192.0.2.1") == "192.0.2.1"
    assert _network("testclient") == "testclient"


# Messages


async def test_a_message_is_one_turn_however_often_it_is_sent() -> None:
    async with web_chat() as site:
        token = await site.token("ann")
        for _ in range(3):
            assert await site.post(token, id="m1", text="hello") == (200, {"type": "ack", "message": "m1"})
        (turn,) = site.core.turns
        assert (turn.session_id, turn.text, turn.sender, turn.stream) == ("webchat:main:ann", "hello", "ann", True)
        # The ids of one visitor mean nothing to another one.
        await site.post(await site.token("bob"), id="m1", text="hi")
        await site.post(token, id="m1", text="hello", conversation="billing")
        assert [turn.session_id for turn in site.core.turns[1:]] == ["webchat:main:bob", "webchat:main:ann:billing"]
        assert len({turn.id for turn in site.core.turns}) == 3


async def test_what_the_queue_does_not_confirm_is_not_acknowledged_and_not_shown() -> None:
    async with web_chat() as site:
        token = await site.token()
        site.core.failures.append(BrokerUnavailable("away"))
        status, problem = await site.post(token, id="m1", text="hello")
        assert (status, problem["error"], problem["retry_after_s"]) == (503, "unconfirmed", 3)
        async with site.socket(token) as visitor:
            assert (await site.post(token, id="m1", text="hello"))[0] == 200
            assert (await visitor.next())["message"] == "m1"


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"id": "m1"}, 400, "bad-field"),
        ({"text": "hi"}, 400, "bad-field"),
        ({"id": "", "text": "hi"}, 400, "bad-field"),
        ({"id": "a" * 65, "text": "hi"}, 400, "bad-field"),
        ({"id": "a\n", "text": "hi"}, 400, "bad-field"),
        ({"id": 1, "text": "hi"}, 400, "bad-field"),
        ({"id": "m1", "text": None}, 400, "bad-field"),
        ({"id": "m1", "text": " \n "}, 400, "empty-text"),
        ({"id": "m1", "text": "a\x00b"}, 400, "bad-field"),
        ({"id": "m1", "text": "x" * 101}, 413, "text-too-long"),
        ({"id": "m1", "text": "x" * 10_000}, 413, "too-large"),
        ({"id": "m1", "text": "hi", "conversation": "a:b"}, 400, "bad-field"),
    ],
)
async def test_a_message_that_is_none_is_refused_with_a_reason(
    fields: dict[str, Any], status: int, reason: str
) -> None:
    async with web_chat(max_chars=100) as site:
        got, problem = await site.post(await site.token(), **fields)
        assert (got, problem["error"], problem["retry_after_s"]) == (status, reason, None)
        assert not site.core.turns


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"[" * 100_000, {}, 413),
        (b"[" * 2_000, {}, 400),
        (b"\xff\xfe", {}, 400),
        (b'{"id": "m1", "text": "\\ud800"}', {}, 400),
        (b"", {}, 400),
        (b'{"id": "m1", "text": "hi"}', {"Content-Type": "text/plain"}, 415),
        (b'{"id": "m1", "text": "hi"}', {"Authorization": "Bearer"}, 401),
        (b'{"id": "m1", "text": "hi"}', {"Authorization": "Basic abc"}, 401),
        (b'{"id": "m1", "text": "hi"}', {"Authorization": "Bearer v1.\xe9.x"}, 401),
        (b'{"id": "m1", "text": "hi"}', {"Origin": "https://evil.example"}, 403),
    ],
)
async def test_garbage_is_never_a_turn_and_never_a_500(body: bytes, headers: dict[str, str], status: int) -> None:
    async with web_chat() as site:
        sent = {"Authorization": f"Bearer {await site.token()}", "Content-Type": "application/json"} | headers
        async with site.http.post(f"{site.base}/webchat/messages", data=body, headers=sent) as answer:
            assert answer.status == status, await answer.text()
            assert (await answer.json())["detail"]
        assert not site.core.turns


async def test_a_slow_body_is_given_up() -> None:
    async def slowly() -> Any:
        yield b"{"
        await asyncio.sleep(60)

    async with web_chat(request_timeout_s=0.5) as site:
        headers = {"Authorization": f"Bearer {await site.token()}", "Content-Type": "application/json"}
        async with (
            asyncio.timeout(30),
            site.http.post(f"{site.base}/webchat/messages", data=slowly(), headers=headers) as answer,
        ):
            assert answer.status == 408


async def test_a_session_cannot_flood() -> None:
    async with web_chat(messages_per_minute=3) as site:
        token = await site.token()
        answers = [await site.post(token, id=f"m{n}", text="hi") for n in range(5)]
        assert [status for status, _ in answers] == [200, 200, 200, 429, 429]
        assert answers[3][1]["retry_after_s"] > 0
        assert (await site.post(await site.token("bob"), id="m1", text="hi"))[0] == 200


# Origins


async def test_only_named_origins_and_our_own_may_use_it_in_a_browser() -> None:
    async with web_chat(origins="https://shop.example", anonymous=True) as site:
        url = f"{site.base}/webchat/token"
        for origin, status in (
            ("https://shop.example", 200),
            (site.base, 200),
            ("https://evil.example", 403),
            ("https://shop.example.evil.example", 403),
            ("http://shop.example", 403),
            ("null", 403),
        ):
            async with site.http.post(url, json={}, headers={"Origin": origin}) as answer:
                assert answer.status == status, origin
                assert answer.headers.get("Access-Control-Allow-Origin") == (origin if status == 200 else None)
                assert answer.headers["Vary"] == "Origin"
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            async with site.http.options(url, headers=asked) as answer:
                assert answer.status == (204 if status == 200 else 403)
                if status == 200:
                    assert answer.headers["Access-Control-Allow-Methods"] == "POST"
                    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


# The event stream


async def test_an_event_stream_goes_on_after_the_last_event_that_was_seen() -> None:
    async with web_chat() as site:
        token = await site.token()
        await site.post(token, id="m1", text="hello")
        turn = await site.core.arrived.get()
        async with site.events(token) as events:
            assert (await events.part()) == {"retry": "2000"}
            said = await events.next()
            assert (said["type"], said["text"]) == ("message", "hello")
            await site.answer(turn, "Hi!\n\ndata: not a line\r\n")
            final = await events.next()
            assert (final["type"], final["text"], final["turn"]) == ("final", "Hi!\n\ndata: not a line\r\n", turn.id)
        await site.post(token, id="m2", text="more")
        async with site.events(token, Last_Event_ID=said["sse"]["id"]) as events:
            assert [(await events.next())["type"] for _ in range(2)] == ["final", "message"]
        async with site.events(token, Last_Event_ID="12-34") as events:
            assert [(await events.next())["type"] for _ in range(4)] == ["reset", "message", "final", "message"]


async def test_an_event_stream_without_news_says_that_it_lives_and_ends_with_its_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(time=time.time)
    monkeypatch.setattr("sdqueue_producers.webchat.events.time", clock)
    async with web_chat(heartbeat_s=0.1, token_ttl_s=600) as site:
        token = await site.token()
        async with site.events(token) as events:
            await events.part()
            assert await events.part() == {"": "still here"}
            expires_at = site.channel._tokens.read(token).expires_at
            clock.time = lambda: expires_at
            last = await events.next()
            assert (last["sse"]["event"], last["reason"]) == ("end", "expired-token")
            assert "end" in await events.part()


async def test_event_streams_need_a_token_and_are_not_without_number() -> None:
    async with web_chat(session_connections=2) as site:
        url, token = f"{site.base}/webchat/events", await site.token()
        async with site.http.get(url, params={"token": token}) as answer:
            assert answer.status == 401  # a token in an address is in logs: it is not looked at
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        headers = {"Authorization": f"Bearer {token}"}
        async with site.events(token), site.events(token), site.http.get(url, headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]) == (429, "too-many")
        async with asyncio.timeout(30):
            while True:  # their places are free again when the server has noticed
                async with site.http.get(url, headers=headers) as answer:
                    if answer.status == 200:
                        break
        async with site.http.get(url, params={"conversation": "a:b"}, headers=headers) as answer:
            assert answer.status == 400


# The page


async def test_the_head_of_an_event_stream_is_nothing_and_no_defect() -> None:
    """For strangers too; a server would let it stand open without a word."""
    async with web_chat() as site:
        for headers in ({}, {"Authorization": f"Bearer {await site.token()}"}):
            async with site.http.head(f"{site.base}/webchat/events", headers=headers) as answer:
                assert answer.status == 405


async def test_the_page_and_the_widget_are_served_with_a_policy() -> None:
    async with web_chat() as site:
        async with site.http.get(f"{site.base}/webchat/") as answer:
            assert answer.status == 200
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        async with site.http.get(f"{site.base}/webchat") as answer:  # as people write it
            assert (answer.status, answer.url.path) == (200, "/webchat/")
        async with site.http.get(f"{site.base}/webchat/widget.js") as answer:
            script = await answer.text()
            assert answer.content_type == "text/javascript"
            assert len(script) < 32_000
            for markup in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "token="):
                assert markup not in script
            tag = answer.headers["ETag"]
        async with site.http.get(f"{site.base}/webchat/widget.js", headers={"If-None-Match": tag}) as answer:
            assert answer.status == 304
    async with web_chat(page=False) as site, site.http.get(f"{site.base}/webchat/") as answer:
        assert answer.status == 404


# The egress's end


async def test_a_reply_that_is_delivered_twice_is_seen_once() -> None:
    async with web_chat() as site:
        token = await site.token()
        await site.post(token, id="m1", text="hello")
        turn = await site.core.arrived.get()
        async with site.socket(token) as visitor:
            await visitor.next()
            reply = reply_to(turn, "one two")
            for again in (False, True):
                for part, text in enumerate(("one", "two")):
                    await site.channel.deliver(turn.address, Outgoing(reply, text, part, 2, again))
            await site.answer(turn, "no", "error")
            await site.post(token, id="m2", text="more")
            assert [(e["type"], e["text"]) for e in await visitor.some(3)] == [
                ("final", "one"), ("final", "two"), ("message", "more")
            ]  # fmt: skip


@pytest.mark.parametrize("address", [None, {}, {"session": 1}, {"session": "slack:T1"}, "webchat:main:ann"])
async def test_an_address_that_is_none_of_ours_is_never_tried_again(address: Any) -> None:
    async with web_chat() as site:
        await site.post(await site.token(), id="m1", text="hello")
        reply = reply_to(site.core.turns[0], "hi")
        with pytest.raises(Permanent):
            await site.channel.deliver(address, Outgoing(reply, "hi"))
        with pytest.raises(Permanent):
            await site.channel.stream(address, Outgoing(reply, ""))
        with pytest.raises(Permanent):
            await site.channel.edit(site.core.turns[0].address, None, Outgoing(reply, "hi"))
