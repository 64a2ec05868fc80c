"""The three ways of a reply, through a real web server, ingress, pool and egress."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web
from sdqueue_producers.egress import EgressOptions

from tests.producers.webhook.house import House, house
from tests.producers.webhook.tools import (
    LEAST,
    OTHER_SECRET,
    SECRET,
    Authority,
    Receiver,
    make_authority,
    serving,
    signed_headers,
)

HOST = "receiver.test"
PLAIN: dict[str, Any] = {"crm": {"secrets": [SECRET]}}
SLOW = LEAST | {"text": "slow"}


async def loopback(host: str, port: int, family: socket.AddressFamily) -> list[tuple[socket.AddressFamily, str]]:
    return [(socket.AF_INET, "127.0.0.1")]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), HOST)


def called_back(receiver: Receiver, authority: Authority, **more: Any) -> dict[str, Any]:
    """An endpoint with a receiver, and how to find it."""
    crm = {
        "secrets": [SECRET],
        "callback_url": f"https://{HOST}:{receiver.port}/replies",
        "callback_secrets": [OTHER_SECRET],
        "callback_ca_file": str(authority.ca_file),
        "allow_networks": ["127.0.0.0/8"],
    }
    return {"endpoints": {"crm": crm | more}, "lookup": loopback}


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


# On the request


async def test_a_reply_in_time_is_the_response() -> None:
    async with house(endpoints=PLAIN) as h:
        response = await h.post(LEAST | {"metadata": {"ticket": 7}}, prefer="wait=10")
        assert response.status_code == 200
        assert response.json()["metadata"]["ticket"] == 7
        assert "consumer" not in response.json()["metadata"]
        assert response.headers["preference-applied"] == "wait=10"
        assert response.headers["content-type"] == "application/json"
        body = response.json()
        assert (body["type"], body["turn_id"], body["session_id"], body["text"]) == (
            "reply.final", "evt_1", "user-42", "You said: hello",
        )  # fmt: skip
        assert (await h.ended()).json() == body


async def test_a_message_sent_again_is_answered_the_same_and_runs_once() -> None:
    async with house(endpoints=PLAIN) as h:
        first = await h.post()
        again = await h.post()
        later = await h.post(prefer="respond-async")
        assert first.status_code == again.status_code == 200
        assert first.content == again.content
        assert later.status_code == 202
        assert h.brain.turns == ["hello"]


async def test_the_same_message_twice_at_once_runs_once() -> None:
    async with house(endpoints=PLAIN) as h:
        responses = await asyncio.gather(*(h.post() for _ in range(4)))
        assert {response.content for response in responses} == {responses[0].content}
        assert h.brain.turns == ["hello"]


async def test_a_reply_that_is_late_comes_to_the_status_address() -> None:
    async with house(endpoints=PLAIN) as h:
        response = await h.post(SLOW, prefer="wait=1")
        assert response.status_code == 202
        assert response.headers["location"] == "/webhook/crm/turns/evt_1"
        assert response.headers["preference-applied"] == "wait=1"
        assert (await h.status()).status_code == 202
        h.brain.go.set()
        ended = await h.ended()
        assert ended.status_code == 200
        assert ended.json()["text"] == "You said: slow"
        again = await h.post(SLOW, prefer="wait=5")
        assert again.json() == ended.json()
        assert h.brain.turns == ["slow"]


async def test_a_client_that_goes_away_finds_the_reply_at_the_status_address() -> None:
    async with house(endpoints=PLAIN) as h:
        asking = asyncio.create_task(h.post(SLOW))
        await h.brain.began.wait()
        asking.cancel()
        await asyncio.wait({asking})
        h.brain.go.set()
        assert (await h.ended()).json()["text"] == "You said: slow"


async def test_a_turn_that_fails_is_answered_with_an_error_reply() -> None:
    async with house(endpoints=PLAIN) as h:
        response = await h.post(LEAST | {"text": "fail"})
        assert response.status_code == 200
        assert response.json()["type"] == "reply.error"
        assert "no answer to that" not in response.text


async def test_a_reply_with_nothing_to_show_is_there_as_well() -> None:
    async with house(endpoints={"crm": {"secrets": [SECRET], "mode": "status"}}) as h:
        assert (await h.post(LEAST | {"kind": "assist"})).status_code == 202
        ended = await h.ended()
        assert ended.status_code == 200
        assert ended.json()["text"] == ""


async def test_the_turns_of_a_session_are_answered_in_order() -> None:
    async with house(endpoints=PLAIN) as h:
        for number in range(5):
            assert (await h.post(LEAST | {"text": f"{number}"}, id_=f"evt_{number}", prefer="respond-async")).is_success
        seqs = [(await h.ended(id_=f"evt_{number}")).json()["seq"] for number in range(5)]
        assert seqs == [1, 2, 3, 4, 5]


async def test_a_body_over_the_limit_and_a_wrong_signature_are_refused_before_anything_runs() -> None:
    async with house(endpoints=PLAIN) as h:
        assert (await h.post(LEAST | {"text": "x" * 2_000_000})).status_code == 413
        assert (await h.post(webhook_signature="v1,AAAA")).status_code == 401
        assert (await h.post(content_type="text/plain")).status_code == 415
        assert (await h.http.get("/webhook/crm")).status_code == 405
        assert (await h.http.post("/webhook/crm/turns/..%2f..%2fx")).status_code in (404, 405)
        assert h.brain.turns == []


# As an event stream


async def read_events(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """The events of a stream, each with its fields; comments are events with the field ``comment``."""
    event: dict[str, str] = {}
    async for line in response.aiter_lines():
        if not line and event:
            yield event
            event = {}
        elif line.startswith(":"):
            event["comment"] = line[1:].strip()
        elif line:
            name, _, value = line.partition(": ")
            event[name] = value


async def all_events(response: httpx.Response) -> list[dict[str, str]]:
    return [event async for event in read_events(response) if "event" in event]


def streaming(h: House, fields: Any, **headers: str) -> Any:
    body = json.dumps(fields).encode()
    headers = signed_headers(body, accept="text/event-stream", **headers)
    return h.http.stream("POST", "/webhook/crm", content=body, headers=headers)


async def test_a_reply_comes_in_pieces_and_then_whole() -> None:
    async with house(endpoints=PLAIN) as h, streaming(h, LEAST) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        events = await all_events(response)
        *deltas, final = events
        assert final["event"] == "final"
        assert json.loads(final["data"])["text"] == "You said: hello"
        assert "".join(json.loads(delta["data"])["text"] for delta in deltas) == "You said: hello"
        assert all(delta["event"] == "delta" and delta["id"] for delta in deltas)
        assert (await h.ended()).json() == json.loads(final["data"])


async def test_a_stream_is_resumed_behind_the_last_event_that_was_seen() -> None:
    async with house(endpoints=PLAIN) as h:
        async with streaming(h, SLOW) as response:
            events = (event async for event in read_events(response) if "event" in event)
            first = await anext(events)
        # The client has gone; the answer goes on.
        async with h.events(after=first["id"]) as response:
            assert response.status_code == 200
            asking = asyncio.create_task(all_events(response))
            h.brain.go.set()
            rest = await asyncio.wait_for(asking, 30)
        texts = [json.loads(event["data"])["text"] for event in (first, *rest) if event["event"] == "delta"]
        assert "".join(texts) == "You said: slow"
        assert rest[-1]["event"] == "final"
        async with h.events(after=rest[-1]["id"]) as response:
            assert response.status_code == 204  # there is nothing more, and a browser stops asking
        async with h.events() as response:  # from the beginning
            everything = await all_events(response)
        assert [event["id"] for event in everything] == [event["id"] for event in (first, *rest)]
        assert h.brain.turns == ["slow"]


async def test_a_stream_without_a_log_of_it_has_the_whole_reply_at_its_end() -> None:
    async with house(endpoints=PLAIN) as h:
        assert (await h.post()).status_code == 200  # not streamed, so there are no pieces
        async with h.events() as response:
            events = await all_events(response)
        assert [event["event"] for event in events][-1] == "final"


async def test_a_turn_that_asks_for_a_stream_can_be_followed_from_another_request() -> None:
    async with house(endpoints=PLAIN) as h:
        response = await h.post(SLOW | {"stream": True}, prefer="respond-async")
        assert response.status_code == 202
        async with h.events() as response:
            asking = asyncio.create_task(all_events(response))
            await h.brain.began.wait()
            h.brain.go.set()
            events = await asyncio.wait_for(asking, 30)
        *deltas, final = events
        assert final["event"] == "final"
        assert "".join(json.loads(delta["data"])["text"] for delta in deltas) == "You said: slow"


async def test_a_comment_is_sent_while_nothing_happens() -> None:
    async with house(endpoints=PLAIN, ping_s=0.1) as h, streaming(h, SLOW) as response:
        comments = 0
        async for event in read_events(response):
            comments += event.get("comment") == "ping"
            if comments == 3:
                break
        h.brain.go.set()


async def test_a_stream_ends_when_its_time_is_up_and_can_be_resumed() -> None:
    async with house(endpoints=PLAIN, stream_s=0.3) as h:
        async with streaming(h, SLOW) as response:
            assert all(event["event"] == "delta" for event in await all_events(response))
        h.brain.go.set()
        await h.ended()
        async with h.events() as response:
            assert (await all_events(response))[-1]["event"] == "final"


# By callback


async def test_a_reply_is_called_back(authority: Authority) -> None:
    async with serving(Receiver(), authority.tls) as receiver, house(**called_back(receiver, authority)) as h:
        response = await h.post()
        assert response.status_code == 202
        await until(lambda: receiver.got)
        body = receiver.got[0].verified()
        assert (body["turn_id"], body["text"]) == ("evt_1", "You said: hello")
        assert (await h.ended()).json() == body
        assert (await h.post()).status_code == 202  # a repeat
        assert (await h.post(id_="evt_2")).status_code == 202
        await until(lambda: len(receiver.got) > 1)
        assert receiver.got[1].verified()["turn_id"] == "evt_2"
        assert len(h.brain.turns) == 2


async def test_a_held_reply_is_not_called_back_and_one_that_is_late_is(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdqueue_producers.webhook.channel.HOLDER_S", 30.0)
    async with serving(Receiver(), authority.tls) as receiver, house(**called_back(receiver, authority)) as h:
        assert (await h.post(prefer="wait=10")).status_code == 200
        assert (await h.post(SLOW, id_="evt_2", prefer="wait=1")).status_code == 202
        h.brain.go.set()
        await until(lambda: receiver.got)
        assert [got.verified()["turn_id"] for got in receiver.got] == ["evt_2"]


async def test_a_streamed_reply_is_not_called_back_and_one_whose_client_went_away_is(authority: Authority) -> None:
    async with serving(Receiver(), authority.tls) as receiver, house(**called_back(receiver, authority)) as h:
        async with streaming(h, LEAST) as response:
            assert (await all_events(response))[-1]["event"] == "final"
        async with streaming(h, SLOW, id_="evt_2") as response:
            await anext(read_events(response))
        await h.nobody_listens()
        h.brain.go.set()
        await until(lambda: receiver.got)
        assert [got.verified()["turn_id"] for got in receiver.got] == ["evt_2"]


async def test_the_reply_to_a_client_that_went_away_is_called_back(authority: Authority) -> None:
    async with serving(Receiver(), authority.tls) as receiver, house(**called_back(receiver, authority)) as h:
        asking = asyncio.create_task(h.post(SLOW, prefer="wait=20"))
        await h.brain.began.wait()
        asking.cancel()
        await asyncio.wait({asking})
        await h.nobody_listens()
        h.brain.go.set()
        await until(lambda: receiver.got)
        assert receiver.got[0].verified()["turn_id"] == "evt_1"


async def test_a_callback_that_fails_is_tried_again_by_the_schedule_and_then_dead(authority: Authority) -> None:
    async def fail(request: web.Request) -> web.Response:
        return web.Response(status=500)

    receiver = Receiver(fail)
    async with serving(receiver, authority.tls):
        given = called_back(receiver, authority) | {"retry_s": [0.05, 0.1, 0.15]}
        async with house(**given, egress=EgressOptions(poll_s=0.02)) as h:
            assert (await h.post()).status_code == 202
            dead = h.broker.topology.dead
            async with asyncio.timeout(30):
                while (await h.broker.queue_state(dead)).depth == 0:
                    await asyncio.sleep(0.02)
    assert len(receiver.got) == 4
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1


async def test_the_next_reply_of_a_session_waits_for_the_first_to_be_taken(authority: Authority) -> None:
    refusals = 2

    async def at_first_not(request: web.Request) -> web.Response:
        nonlocal refusals
        refusals -= 1
        return web.Response(status=503 if refusals >= 0 else 204)

    receiver = Receiver(at_first_not)
    async with serving(receiver, authority.tls):
        given = called_back(receiver, authority) | {"retry_s": [0.1, 0.1, 0.1]}
        async with house(**given, egress=EgressOptions(poll_s=0.02)) as h:
            await h.post(id_="evt_1")
            await h.post(id_="evt_2")
            await until(lambda: len(receiver.got) == 4)
    assert [got.verified()["turn_id"] for got in receiver.got] == ["evt_1", "evt_1", "evt_1", "evt_2"]
