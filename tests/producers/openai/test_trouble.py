"""When there is no answer: what clients are told, and that asking again never makes a second turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import openai
import pytest
from sdqueue_producers import MemoryState
from sdqueue_producers.openai import OpenAISettings

from sdqueue.brokers import MemoryBroker, Message, Topology
from sdqueue.errors import BrokerUnavailable, ConfigurationError, StoreUnavailable
from tests.producers.openai.front import ALICE, BOB, Cutter, Front, front_door

HI = [{"role": "user", "content": "hi"}]
SESSION = {"X-Session-Id": "s"}


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with front_door() as front:
        yield front


def error_of(response: Any) -> dict[str, Any]:
    """Checks OpenAI's shape."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return dict(error)


KEYS: dict[str, str | None] = {
    "none": None,
    "empty": "",
    "no scheme": ALICE,
    "another scheme": f"Basic {ALICE}",
    "no key": "Bearer",
    "wrong": "Bearer sk-nobody-0123456789",
    "half": f"Bearer {ALICE[:-1]}",
    "two": f"Bearer {ALICE} {BOB}",
    "a name": "Bearer alice",
}


@pytest.mark.parametrize("authorization", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/models"])
async def test_without_a_key_nothing_is_told(front: Front, path: str, authorization: str | None) -> None:
    headers = SESSION | ({} if authorization is None else {"Authorization": authorization})
    method = "GET" if path == "/v1/models" else "POST"
    response = await front.http.request(method, path, headers=headers, json={"messages": HI, "input": "hi"})
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert error_of(response)["code"] in ("missing_api_key", "invalid_api_key")
    assert "sk-" not in response.text
    assert front.brain.asked == []


async def test_openais_client_raises_its_own_errors(front: Front) -> None:
    with pytest.raises(openai.AuthenticationError):
        await front.client("sk-nobody-0123456789").models.list()
    with pytest.raises(openai.BadRequestError, match="not guessed") as caught:
        await front.client().chat.completions.create(model="sdqueue", messages=HI)  # type: ignore[arg-type]
    assert caught.value.code == "session_required"
    with pytest.raises(openai.InternalServerError) as failed:
        await front.client(max_retries=2).chat.completions.create(
            model="sdqueue", messages=[{"role": "user", "content": "fail"}], extra_headers=SESSION
        )
    assert failed.value.code == "agent-failed"
    assert "secret" not in str(failed.value)
    assert front.brain.texts == ["fail"]  # a client that is told so does not ask again in vain


BAD_CHAT: dict[str, tuple[Any, int, str | None]] = {
    "no JSON": (b"{", 400, None),
    "an array": ([], 400, None),
    "not UTF-8": (b'{"a": "\xff"}', 400, None),
    "half a character": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, None),
    "too deep": (b"[" * 100_000, 400, None),
    "NaN": (b'{"messages": NaN}', 400, None),
    "no messages": ({}, 400, "messages"),
    "empty messages": ({"messages": []}, 400, "messages"),
    "messages are a text": ({"messages": "hi"}, 400, "messages"),
    "a message is a text": ({"messages": ["hi"]}, 400, "messages"),
    "the last is not the user's": ({"messages": [*HI, {"role": "assistant", "content": "x"}]}, 400, "messages"),
    "the last is a tool's": ({"messages": [*HI, {"role": "tool", "content": "x"}]}, 400, "messages"),
    "only a system's": ({"messages": [{"role": "system", "content": "x"}]}, 400, "messages"),
    "no content": ({"messages": [{"role": "user"}]}, 400, "messages[0].content"),
    "empty content": ({"messages": [{"role": "user", "content": ""}]}, 400, "messages[0].content"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
        400,
        "messages[0].content[0]",
    ),
    "a part without text": ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, None),
    "a part that is none": ({"messages": [{"role": "user", "content": [7]}]}, 400, None),
    "NUL": ({"messages": [{"role": "user", "content": "a\0b"}]}, 400, None),
    "too long": ({"messages": [{"role": "user", "content": "x" * 300_000}]}, 400, None),
    "a number as model": ({"messages": HI, "model": 5}, 400, "model"),
    "another model": ({"messages": HI, "model": "gpt"}, 404, "model"),
    "stream is a text": ({"messages": HI, "stream": "yes"}, 400, "stream"),
    "stream options are a list": ({"messages": HI, "stream_options": [1]}, 400, "stream_options"),
    "two answers": ({"messages": HI, "n": 2}, 400, "n"),
    "an answer as JSON": ({"messages": HI, "response_format": {"type": "json_object"}}, 400, "response_format"),
    "an answer as sound": ({"messages": HI, "modalities": ["text", "audio"]}, 400, "modalities"),
    "metadata is a text": ({"messages": HI, "metadata": "x"}, 400, "metadata"),
    "metadata with a number": ({"messages": HI, "metadata": {"a": 1}}, 400, "metadata"),
    "too much metadata": ({"messages": HI, "metadata": {str(n): "x" for n in range(17)}}, 400, "metadata"),
    "a user that is a list": ({"messages": HI, "user": ["x"]}, 400, "user"),
    "a user that is a novel": ({"messages": HI, "user": "x" * 4097}, 400, "user"),
    "a conversation that is one": ({"messages": HI, "conversation": "x" * 4097}, 400, "conversation"),
    "a conversation that is a number": ({"messages": HI, "conversation": 5}, 400, "conversation"),
    "a conversation without id": ({"messages": HI, "conversation": {}}, 400, "conversation.id"),
}


@pytest.mark.parametrize(("body", "status", "param"), BAD_CHAT.values(), ids=BAD_CHAT.keys())
async def test_bad_questions_get_a_reason_and_are_no_turn(
    front: Front, body: Any, status: int, param: str | None
) -> None:
    response = await front.http.post(
        "/v1/chat/completions",
        content=body if isinstance(body, bytes) else json.dumps(body),
        headers={"Authorization": f"Bearer {ALICE}", "Content-Type": "application/json", **SESSION},
    )
    assert response.status_code == status
    error = error_of(response)
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param
    assert front.brain.asked == []


BAD_RESPONSES: dict[str, tuple[Any, int]] = {
    "no input": ({}, 400),
    "a history without a session": ({"input": [*HI, {"role": "assistant", "content": "x"}, *HI]}, 400),
    "two of a user without a session": ({"input": [*HI, *HI]}, 400),
    "an unknown response": ({"input": "hi", "previous_response_id": "resp_1"}, 404),
    "a forged response": ({"input": "hi", "previous_response_id": "resp_" + "A" * 70}, 404),
    "both": ({"input": "hi", "previous_response_id": "resp_1", "conversation": "c"}, 400),
    "in the background": ({"input": "hi", "background": True}, 400),
    "an answer as JSON": ({"input": "hi", "text": {"format": {"type": "json_schema"}}}, 400),
    "the end of a tool": ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, 400),
    "a control character": ({"input": "hi", "conversation": "a\nb"}, 400),
    "a picture": ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, 400),
}


@pytest.mark.parametrize(("body", "status"), BAD_RESPONSES.values(), ids=BAD_RESPONSES.keys())
async def test_bad_questions_to_responses_get_a_reason_and_are_no_turn(front: Front, body: Any, status: int) -> None:
    response = await front.http.post("/v1/responses", json=body, headers={"Authorization": f"Bearer {ALICE}"})
    assert response.status_code == status
    error_of(response)
    assert front.brain.asked == []


async def test_wrong_methods_types_sizes_and_names_are_refused(front: Front) -> None:
    key = {"Authorization": f"Bearer {ALICE}"}
    for method, path, headers, body, status in (
        ("GET", "/v1/chat/completions", key, b"", 405),
        ("DELETE", "/v1/models", key, b"", 405),
        ("POST", "/v1/chat/completions", key | {"Content-Type": "text/plain"}, b"{}", 415),
        (
            "POST",
            "/v1/chat/completions",
            key | SESSION | {"Idempotency-Key": "x" * 300},
            json.dumps({"messages": HI}),
            400,
        ),
        ("POST", "/v1/chat/completions", key, b"x" * (1024 * 1024 + 1), 413),
        ("GET", "/v1/nothing", key, b"", 404),
        ("GET", "/v1/models/a%20b", key, b"", 404),
    ):
        response = await front.http.request(method, path, headers=headers, content=body)
        assert response.status_code == status, path
        if path != "/v1/nothing":
            error_of(response)
    assert front.brain.asked == []


async def test_what_openai_has_and_this_has_not_is_404_in_openais_shape(front: Front) -> None:
    """After the key: who has none is told nothing."""
    client = front.client()
    with pytest.raises(openai.NotFoundError) as caught:
        await client.embeddings.create(model="sdqueue", input="hi")
    assert error_of(caught.value.response)["code"] == "unknown_url"
    for method, path in (("GET", "/v1/files"), ("GET", "/v1/responses/r/input_items"), ("POST", "/v1/audio/speech")):
        response = await front.http.request(method, path, headers={"Authorization": f"Bearer {ALICE}"})
        assert response.status_code == 404
        assert error_of(response)["code"] == "unknown_url"
        assert (await front.http.request(method, path)).status_code == 401
    assert front.brain.asked == []


async def test_an_answer_is_not_fetched_as_a_stream_of_nothing(front: Front) -> None:
    client = front.client()
    answer = await client.responses.create(model="sdqueue", input="hi", conversation="c")
    with pytest.raises(openai.BadRequestError, match="whole"):
        await client.responses.retrieve(answer.id, stream=True)
    assert (await client.responses.retrieve(answer.id)).output_text == answer.output_text


async def test_the_same_idempotency_key_is_the_same_turn_and_answer(front: Front) -> None:
    one = await front.chat("hi", Idempotency_Key="k-1")
    two = await front.chat("hi", Idempotency_Key="k-1")
    other_session = await front.chat("hi", "t", Idempotency_Key="k-1")
    other_key = await front.chat("hi", key=BOB, Idempotency_Key="k-1")
    assert one.json()["choices"] == two.json()["choices"]
    assert one.json()["id"] == two.json()["id"]
    assert one.json()["id"] != other_session.json()["id"]
    assert other_key.json()["choices"][0]["message"]["content"] == "1: hi"
    assert len(front.brain.asked) == 3


async def test_without_one_the_same_words_are_two_turns(front: Front) -> None:
    client = front.client()
    for _ in range(2):
        await client.chat.completions.create(model="sdqueue", messages=HI, extra_headers=SESSION)  # type: ignore[arg-type]
    assert front.brain.texts == ["hi", "hi"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", ["chat", "responses"])
async def test_a_client_that_tries_again_by_itself_after_a_cut_makes_one_turn(
    front: Front, endpoint: str, stream: bool
) -> None:
    """Given a connection that is cut when the answer begins, when OpenAI's client sends the request again, then its
    answer is that of the one turn."""
    cutter = Cutter(front.url)
    async with cutter as url:
        client = front.client(base_url=url, max_retries=2)
        if endpoint == "chat":
            answer: Any = await client.chat.completions.create(
                model="sdqueue",
                messages=HI,
                extra_headers=SESSION,
                stream=stream,  # type: ignore[call-overload]
            )
        else:
            answer = await client.responses.create(model="sdqueue", input="hi", stream=stream)
        if stream:
            events = [event async for event in answer]
            assert "1: hi" in "".join(event.model_dump_json() for event in events)
        else:
            assert "1: hi" in answer.model_dump_json()
    assert cutter.connections >= 2
    assert front.brain.texts == ["hi"]


async def test_who_goes_away_in_the_middle_gets_the_whole_answer_later(front: Front) -> None:
    headers = {"Authorization": f"Bearer {ALICE}", "Idempotency-Key": "k", **SESSION}
    body = {"messages": [{"role": "user", "content": "hold"}], "stream": True}
    async with front.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        async for line in response.aiter_lines():
            if "first" in line:
                break
    async with asyncio.timeout(30):
        while front.asker._questions:  # nobody listens for who has gone
            await asyncio.sleep(0.01)
    front.brain.go_on.set()
    again = await front.http.post("/v1/chat/completions", json=body | {"stream": False}, headers=headers)
    assert again.json()["choices"][0]["message"]["content"] == "first second third"
    assert front.brain.texts == ["hold"]


async def test_an_answer_that_takes_too_long_is_504_and_there_later() -> None:
    async with front_door(answer_timeout_s=0.3) as front:
        for stream in (False, True):
            late = await front.http.post(
                "/v1/responses",
                json={"input": "wait", "stream": stream},
                headers={"Authorization": f"Bearer {ALICE}", "Idempotency-Key": "k"},
            )
            assert late.status_code == 504
            assert late.headers["retry-after"] == "1"
            assert error_of(late)["code"] == "timeout"
        front.brain.go_on.set()
        client = front.client(max_retries=5)
        answer = await client.responses.create(model="sdqueue", input="wait", extra_headers={"Idempotency-Key": "k"})
        assert answer.output_text == "1: wait"
        assert front.brain.texts == ["wait"]


class Shaky(MemoryBroker):
    """Does not confirm when it is told not to."""

    confirms = True

    def __init__(self, topology: Topology) -> None:
        super().__init__(topology)
        self.refused = asyncio.Event()

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        if exchange == self.topology.turns and not self.confirms:
            self.refused.set()
            raise BrokerUnavailable("not confirmed")
        await super().publish(exchange, routing_key, message, timeout=timeout)


async def test_what_the_broker_does_not_confirm_is_503_and_openais_client_tries_again() -> None:
    async with Shaky(Topology("openai", partitions=4)) as broker:
        await broker.apply()
        async with front_door(broker=broker) as front:
            broker.confirms = False
            response = await front.chat("hi")
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert error_of(response)["type"] == "server_error"
            broker.refused.clear()
            asking = asyncio.create_task(front.client(max_retries=3).responses.create(model="sdqueue", input="hi"))
            await broker.refused.wait()
            broker.confirms = True
            assert (await asking).output_text == "1: hi"
            assert front.brain.texts == ["hi"]


class Away(MemoryState):
    """Cannot be reached, or does not answer."""

    hangs = False

    async def set(self, values: Mapping[str, str], *, ttl_s: float | None) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        raise StoreUnavailable("away")


@pytest.mark.parametrize("hangs", [False, True])
async def test_without_the_state_a_try_that_could_not_be_told_again_is_503(
    hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdqueue_producers.openai.channel.STATE_S", 0.2)
    state = Away()
    state.hangs = hangs
    async with front_door(state=state) as front:
        response = await front.chat("hi", x_stainless_retry_count="0")
        assert response.status_code == 503
        assert error_of(response)["code"] == "unavailable"
        assert (await front.chat("hi", Idempotency_Key="k")).status_code == 200  # which names itself
    assert front.brain.texts == ["hi"]


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_an_agent_that_starts_again_and_says_the_same_is_not_noticed(front: Front, api: str) -> None:
    assert (await said(front, "stumble", api))[0] == "one two three"
    assert front.brain.texts == ["stumble", "stumble"]


async def said(front: Front, text: str, api: str, **headers: str) -> tuple[str, Any]:
    """The concatenation of a stream, and its last event or error."""
    client, last, parts = front.client(), None, []
    if api == "chat":
        stream: Any = await client.chat.completions.create(
            model="sdqueue", messages=[{"role": "user", "content": text}], stream=True, extra_headers=SESSION | headers
        )
    else:
        stream = await client.responses.create(
            model="sdqueue", input=text, stream=True, extra_headers=SESSION | headers
        )
    try:
        async for last in stream:
            if api == "chat":
                parts += [choice.delta.content or "" for choice in last.choices]
            elif last.type == "response.output_text.delta":
                parts.append(last.delta)
    except openai.APIError as error:
        return "".join(parts), error
    return "".join(parts), last


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_an_agent_that_starts_again_and_says_something_else_ends_the_stream_with_an_error(
    front: Front, api: str
) -> None:
    """What was sent cannot be taken back; the whole answer is there for who asks again."""
    text, end = await said(front, "differ", api, **{"Idempotency-Key": "k"})
    if text.startswith("one"):
        assert "answer_restarted" in str(end.body if api == "chat" else end.response.error)
    else:
        assert text == "uno dos"  # nothing of the first start was sent before it failed
    assert (await said(front, "differ", api, **{"Idempotency-Key": "k"}))[0] == "uno dos"


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_an_error_in_the_middle_of_a_stream_is_openais_error_event(front: Front, api: str) -> None:
    headers = {"Authorization": f"Bearer {ALICE}", **SESSION}
    path = "/v1/chat/completions" if api == "chat" else "/v1/responses"
    asked = [{"role": "user", "content": "break"}]
    body: dict[str, Any] = {"stream": True} | ({"messages": asked} if api == "chat" else {"input": asked})
    events = []
    async with front.http.stream("POST", path, headers=headers, json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if "first" in line:
                front.brain.go_on.set()
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
    if api == "chat":
        assert events[-1]["error"]["code"] == "agent-failed"
    else:
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"]["status"] == "failed"
        assert "agent-failed" in events[-1]["response"]["error"]["message"]
        fetched = await front.client().responses.retrieve(events[-1]["response"]["id"])
        assert fetched.status == "failed"
    assert "secret" not in json.dumps(events)


async def test_settings_that_cannot_work_say_so_without_showing_keys() -> None:
    for wrong, word in (
        ({}, "at least one key"),
        ({"keys": {"a": "short-k"}}, "16 or more"),
        ({"keys": {"a b": ALICE}}, "name"),
        ({"keys": {"a": ALICE, "b": [BOB, ALICE]}}, "twice"),
        ({"keys": {"a": []}}, "no key"),
        ({"keys": {"a": f"{ALICE}\u00e9 "}}, "ASCII"),
        ({"keys": {"a": ALICE}, "models": []}, "MODELS"),
        ({"keys": {"a": ALICE}, "models": ["a/b"]}, "a/b"),
        ({"keys": 5}, "KEYS"),
    ):
        with pytest.raises(ConfigurationError, match=word) as caught:
            OpenAISettings.load(**wrong)  # type: ignore[arg-type]
        assert "short-k" not in str(caught.value)
        assert ALICE not in str(caught.value)


async def test_a_key_may_have_a_successor_under_the_same_name() -> None:
    async with front_door(keys={"alice": [ALICE, BOB]}) as front:
        await front.chat("a", key=ALICE)
        assert (await front.chat("b", key=BOB)).json()["choices"][0]["message"]["content"] == "2: b"
