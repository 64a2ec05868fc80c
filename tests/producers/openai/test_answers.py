"""Answers as OpenAI's own client gets them: whole and in pieces, by both endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest
from openai import OpenAI
from sdqueue_producers import Outgoing

from sdqueue.messages import OutboundReply
from tests.producers.openai.front import ALICE, BOB, Front, front_door

SESSION = {"X-Session-Id": "s"}


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with front_door(models=["sdqueue", "gold"]) as front:
        yield front


async def test_a_chat_completion_is_one_turn_of_the_session_that_the_header_names(front: Front) -> None:
    chat = front.client().chat.completions
    first = await chat.create(
        model="gold", messages=[{"role": "user", "content": "hello"}], extra_headers=SESSION, temperature=0.1
    )
    second = await chat.create(
        model="gold",
        messages=[
            {"role": "system", "content": "You are kind."},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": first.choices[0].message.content},
            {"role": "user", "content": [{"type": "text", "text": "how are"}, {"type": "text", "text": "you"}]},
        ],
        extra_headers=SESSION,
    )
    assert [answer.choices[0].message.content for answer in (first, second)] == ["1: hello", "2: how are\nyou"]
    assert front.brain.asked == [("openai:alice:s", "hello"), ("openai:alice:s", "how are\nyou")]
    assert (first.object, first.model, first.choices[0].finish_reason) == ("chat.completion", "gold", "stop")
    assert first.choices[0].message.role == "assistant"
    assert first.id.startswith("chatcmpl-")
    assert first.id != second.id
    assert first.usage is not None
    assert first.usage.total_tokens == 0
    assert front.brain.metadata[0] == {"model": "gold", "key": "alice", "client": {}}


async def test_tokens_are_what_the_agent_tells(front: Front) -> None:
    answer = await front.client().chat.completions.create(
        model="sdqueue", messages=[{"role": "user", "content": "spend"}], extra_headers=SESSION
    )
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 4, 7)
    response = await front.client().responses.create(model="sdqueue", input="spend")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (3, 4, 7)


async def test_a_stream_says_who_speaks_then_the_pieces_then_why_it_ends(front: Front) -> None:
    stream = await front.client().chat.completions.create(
        model="sdqueue",
        messages=[{"role": "user", "content": "one two three"}],
        stream=True,
        stream_options={"include_usage": True},
        extra_headers=SESSION,
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "1: one two three"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1


async def test_pieces_come_as_they_are_said(front: Front) -> None:
    stream = await front.client().chat.completions.create(
        model="sdqueue", messages=[{"role": "user", "content": "hold"}], stream=True, extra_headers=SESSION
    )
    said = []
    async for chunk in stream:
        said.append(chunk.choices[0].delta.content)
        if said[-1] == "first ":
            await front.brain.speaking.wait()
            front.brain.go_on.set()  # it goes on only because the first piece was here
    assert "".join(filter(None, said)) == "first second third"


async def test_the_raw_stream_ends_with_done(front: Front) -> None:
    async with front.http.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "sdqueue", "stream": True, "messages": [{"role": "user", "content": "hi"}]},
        headers={"Authorization": f"Bearer {ALICE}", **SESSION},
    ) as response:
        lines = [line async for line in response.aiter_lines() if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-session-id"] == "s"
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert not any('"usage"' in line for line in lines)


async def test_the_client_that_is_not_async_works_as_well(front: Front) -> None:
    def ask() -> tuple[str | None, str]:
        with OpenAI(base_url=f"{front.url}/v1", api_key=ALICE) as client:
            messages = [{"role": "user", "content": "a b"}]
            whole = client.chat.completions.create(
                model="sdqueue",
                messages=messages,
                extra_headers=SESSION,  # type: ignore[arg-type]
            )
            with client.responses.stream(model="sdqueue", input="c d") as stream:
                stream.until_done()
                return whole.choices[0].message.content, stream.get_final_response().output_text

    assert await asyncio.to_thread(ask) == ("1: a b", "1: c d")


async def test_a_response_has_its_text_and_begins_a_session_that_the_next_one_goes_on_with(front: Front) -> None:
    responses = front.client().responses
    first = await responses.create(model="gold", input="hello", metadata={"plan": "x"}, instructions="Be kind.")
    second = await responses.create(
        model="gold", previous_response_id=first.id, input=[{"role": "user", "content": "again"}]
    )
    third = await responses.create(
        model="gold",
        previous_response_id=second.id,
        input=[
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and again"}]},
        ],
    )
    assert [each.output_text for each in (first, second, third)] == ["1: hello", "2: again", "3: and again"]
    assert len({session for session, _ in front.brain.asked}) == 1
    assert (first.object, first.status, first.model, first.error) == ("response", "completed", "gold", None)
    assert first.metadata == {"plan": "x"}
    assert front.brain.metadata[0]["client"] == {"plan": "x"}
    assert second.previous_response_id == first.id
    other = await responses.create(model="gold", input="hello")
    assert other.output_text == "1: hello"


async def test_a_responses_stream_has_openais_events_in_their_order(front: Front) -> None:
    stream = await front.client().responses.create(model="sdqueue", input="one two", stream=True)
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    completed = events[-1]
    assert completed.type == "response.completed"
    assert deltas == completed.response.output_text == "1: one two"
    assert events[0].response.id == completed.response.id  # type: ignore[union-attr]


async def test_a_response_can_be_fetched_by_its_key_alone(front: Front) -> None:
    response = await front.client().responses.create(model="sdqueue", input="hello", conversation="c1")
    again = await front.client().responses.retrieve(response.id)
    assert again == response
    assert again.conversation is not None
    assert again.conversation.id == "c1"
    for client, name in ((front.client(BOB), response.id), (front.client(), "resp_AAAA"), (front.client(), "x y")):
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(name)
    secret = await front.client().responses.create(model="sdqueue", input="hello", store=False)
    with pytest.raises(openai.NotFoundError):
        await front.client().responses.retrieve(secret.id)


async def test_models_are_listed_and_others_are_not_there(front: Front) -> None:
    client = front.client()
    assert [model.id async for model in client.models.list()] == ["sdqueue", "gold"]
    assert (await client.models.retrieve("gold")).owned_by == "sdqueue"
    for ask in (
        client.models.retrieve("gpt-9"),
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}]),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            await ask
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"
    assert front.brain.asked == []


async def test_two_keys_cannot_reach_each_others_sessions(front: Front) -> None:
    assert (await front.chat("a", key=ALICE)).json()["choices"][0]["message"]["content"] == "1: a"
    assert (await front.chat("b", key=BOB)).json()["choices"][0]["message"]["content"] == "1: b"
    response = await front.client(ALICE).responses.create(model="sdqueue", input="c", conversation="shared")
    stolen = await front.client(BOB).responses.create(model="sdqueue", input="d", previous_response_id=response.id)
    assert stolen.output_text == "1: d"
    assert [session for session, _ in front.brain.asked] == [
        "openai:alice:s", "openai:bob:s", "openai:alice:shared", "openai:bob:shared",
    ]  # fmt: skip


async def test_the_session_is_the_headers_else_the_conversation_else_the_users(front: Front) -> None:
    client = front.client()
    body = {"model": "sdqueue", "input": "x", "user": "u", "conversation": "c"}
    await client.responses.create(**body, extra_headers={"X-Session-Id": "h"})  # type: ignore[call-overload]
    await client.responses.create(**body)  # type: ignore[call-overload]
    await client.responses.create(model="sdqueue", input="x", conversation={"id": "c2"})
    await client.responses.create(model="sdqueue", input="x", user="ü")
    named = {b"X-Session-Id": "ü".encode(), b"Authorization": f"Bearer {ALICE}".encode()}
    await front.http.post("/v1/responses", json={"input": "x"}, headers=named)
    await client.chat.completions.create(model="sdqueue", messages=[{"role": "user", "content": "x"}], user="u" * 3000)
    sessions = [session.removeprefix("openai:alice:") for session, _ in front.brain.asked]
    assert sessions[:5] == ["h", "c", "c2", "ü", "ü"]
    assert sessions[5].startswith("sha-")
    assert len(sessions[5]) < 100


async def test_open_webui_names_the_chat_in_a_header_of_its_own(front: Front) -> None:
    response = await front.http.post(
        "/v1/chat/completions",
        json={
            "stream": True,
            "model": "sdqueue",
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "1: hi"},
                {"role": "user", "content": "how is it"},
            ],
            "stream_options": {"include_usage": True},
            "temperature": 0.8,
            "max_tokens": 100,
        },
        headers={
            "Authorization": f"Bearer {ALICE}",
            "Content-Type": "application/json",
            "X-OpenWebUI-User-Id": "u-1",
            "X-OpenWebUI-Chat-Id": "chat-77",
        },
    )
    assert response.text.rstrip().endswith("data: [DONE]")
    assert front.brain.asked == [("openai:alice:chat-77", "how is it")]


async def test_librechat_names_the_user_in_the_body_or_the_conversation_in_a_header(front: Front) -> None:
    body = {
        "model": "sdqueue", "user": "65f0c0ffee", "stream": True, "temperature": 1, "top_p": 1,
        "presence_penalty": 0, "frequency_penalty": 0, "stop": None,
        "messages": [{"role": "system", "content": "Be LibreChat."}, {"role": "user", "content": "hi you"}],
    }  # fmt: skip
    for extra in ({}, {"X-Session-Id": "conv-1"}):
        response = await front.http.post(
            "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {ALICE}", **extra}
        )
        assert response.status_code == 200
    assert [session for session, _ in front.brain.asked] == ["openai:alice:65f0c0ffee", "openai:alice:conv-1"]


async def test_a_stream_that_is_silent_says_that_it_is_alive() -> None:
    async with (
        front_door(keepalive_s=0.1) as front,
        front.http.stream(
            "POST",
            "/v1/responses",
            json={"stream": True, "input": "wait"},
            headers={"Authorization": f"Bearer {ALICE}"},
        ) as response,
    ):
        lines = []
        async for line in response.aiter_lines():
            lines.append(line)
            if lines.count(": waiting") == 3:
                front.brain.go_on.set()
        assert "event: response.completed" in lines


async def test_the_copy_of_a_reply_on_the_exchange_is_kept_and_goes_nowhere(front: Front) -> None:
    """As the egress hands it over; forged addresses change nothing."""
    response = await front.client().responses.create(model="sdqueue", input="hello")
    session = front.brain.asked[0][0]
    for address in (None, 5, {}, {"api": "responses"}, {"api": "responses", "session": "x", "store": True}):
        reply = OutboundReply(
            id="openai:alice:x:0", turn_id="openai:alice:x", session_id=session, seq=1, kind="final", text="forged",
            channel="openai", address=address,
        )  # fmt: skip
        assert (await front.channel.deliver(address, Outgoing(reply, "forged"))).ref is None
    assert (await front.client().responses.retrieve(response.id)).output_text == "1: hello"


async def test_a_copy_that_is_handed_over_again_is_recognised(front: Front) -> None:
    """Keeping it twice is keeping it once: ``SDQUEUE_ON_AMBIGUOUS=drop`` leaves out no answer of a killed egress."""
    assert front.channel.caps.idempotent
