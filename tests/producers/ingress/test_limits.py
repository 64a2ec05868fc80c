"""What a stranger sends badly, or not to its end, is refused with a reason: never a turn, a 500 or a traceback."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import pytest
from sdqueue_producers.ingress import IngressOptions

from tests.producers.ingress.front import Chat, Front, body, served

SMALL = IngressOptions(max_body_bytes=1000, request_timeout_s=30.0)
HASTY = IngressOptions(max_body_bytes=1000, request_timeout_s=1.0)


def post(path: str = "/chat", *headers: str, content: bytes = b"") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1") + content


def reason(response: bytes) -> str:
    return str(json.loads(response.partition(b"\r\n\r\n")[2])["error"])


async def still_serves(front: Front, turns: int = 0) -> None:
    """It answers as before, and nothing has become a turn, failed or a traceback."""
    said = body({"session": "s", "id": "after", "text": "hello"})
    assert (await front.http.post("/chat", content=said)).status_code == 200
    assert [turn.id for turn in await front.got(turns + 1)][turns:] == ["after"]
    assert not front.seen.of("channel_defect")


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read() -> None:
    async with served(Chat(), options=SMALL) as front:
        got = await front.raw(post("/chat", "Content-Length: 1001"))
        assert got.startswith(b"HTTP/1.1 413")
        assert reason(got) == "body-too-large"
        assert front.seen.of("request_answered")[0] | {"seconds": 0} == {
            "channel": "chat", "status": 413, "reason": "body-too-large", "seconds": 0,
        }  # fmt: skip
        await still_serves(front)


@pytest.mark.parametrize("length", ["9" * 30, "-1", "1e3", "0x10", "12, 13", ""])
async def test_a_length_that_is_none_is_a_4xx(length: str) -> None:
    async with served(Chat(), options=SMALL) as front:
        assert 400 <= await front.status(post("/chat", f"Content-Length: {length}"), end=True) < 500
        await still_serves(front)


async def test_a_chunked_body_is_cut_off_at_the_limit() -> None:
    async with served(Chat(), options=SMALL) as front:
        chunk = b"190\r\n" + b"x" * 400 + b"\r\n"
        got = await front.raw(post("/chat", "Transfer-Encoding: chunked"), more=[chunk, chunk, chunk], pause_s=0.01)
        assert got.startswith(b"HTTP/1.1 413")
        await still_serves(front)


async def test_a_client_that_reads_only_at_the_end_still_gets_the_reason() -> None:
    async with served(Chat(), options=SMALL) as front:
        answer = await front.http.post("/chat", content=b"x" * 3_000_000)
        assert (answer.status_code, answer.json()["error"]) == (413, "body-too-large")
        await still_serves(front)


async def test_a_body_of_the_largest_size_is_read() -> None:
    async with served(Chat(), options=SMALL) as front:
        for size, status in ((1000, 200), (1001, 413)):
            said = body({"session": "s", "id": str(size), "text": "hello"}).ljust(size)
            assert (await front.http.post("/chat", content=said)).status_code == status


async def test_a_body_shorter_than_it_says_is_no_turn() -> None:
    async with served(Chat(), options=HASTY) as front:
        said = body({"session": "s", "id": "1", "text": "hello"})
        got = await front.raw(post("/chat", f"Content-Length: {len(said) + 1}", content=said))
        assert got.startswith(b"HTTP/1.1 408")
        await still_serves(front)


async def test_a_body_that_drips_is_refused_in_time() -> None:
    async with served(Chat(), options=HASTY) as front:
        got = await front.raw(post("/chat", "Content-Length: 900"), more=[b"x"] * 3, pause_s=0.02, patience_s=8)
        assert got.startswith(b"HTTP/1.1 408")
        assert reason(got) == "request-timeout"
        await still_serves(front)


@pytest.mark.parametrize("begun", [b"", b"POST /chat HT", b"POST /chat HTTP/1.1\r\nHost: x\r\nX-A: "])
async def test_a_head_that_drips_is_refused_in_time(begun: bytes) -> None:
    async with served(Chat(), options=SMALL, head_timeout_s=0.5) as front:
        assert (await front.raw(begun, patience_s=8)).startswith(b"HTTP/1.1 400")  # by default it is given 10 s
        await still_serves(front)


async def test_slow_senders_do_not_hold_memory() -> None:
    """Two hundred senders with a body of 10 MB that drips: nothing is kept of them when their time is over."""
    options = IngressOptions(max_body_bytes=20_000_000, request_timeout_s=0.5)  # their heads may take longer
    async with served(Chat(), options=options) as front:
        head = post("/chat", "Content-Length: 10000000", content=b"x" * 20_000)
        tracemalloc.start()
        try:
            got = await asyncio.gather(*(front.raw(head) for _ in range(200)))
            del head
            left, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert {response[:12] for response in got} == {b"HTTP/1.1 408"}
        assert left < 4_000_000
        await still_serves(front)


async def test_a_client_that_goes_away_in_mid_body_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with served(Chat(), options=SMALL) as front:
        said = body({"session": "s", "id": "1", "text": "hello"})
        for data in (post("/chat", f"Content-Length: {len(said)}", content=said[:-1]), b"POST /ch", b""):
            _, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(data)
            await writer.drain()
            writer.transport.abort()
        await still_serves(front)
        assert not caplog.records


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("POST /chat/%zz", 400),
        ("POST /chat/%", 400),
        ("POST /chat/%ff%fe", 400),
        ("POST /chat/%00", 400),
        ("POST /chat/%0d%0aX:y", 400),
        ("POST /chat?a=%ff", 400),
        ("POST /chat?" + "&".join(f"a{n}=1" for n in range(300)), 400),
        ("POST /chat?" + "a" * 20_000, 414),
        ("POST /chat/" + "a" * 5000, 414),
        ("POST /chat/\xff", 400),
        ("POST /nothing", 404),
        ("POST /chat/", 404),
        ("POST //chat", 404),
        ("POST /chat/../healthz", 404),
        ("GET /chat", 400),  # the channel is asked, whatever the method
        ("BREW /chat", 400),
        ("POST /healthz", 405),
        ("\x00\x01\x02", 400),
    ],
)
async def test_what_is_written_badly_is_a_4xx_with_a_reason(request_line: str, status: int) -> None:
    async with served(Chat(), options=SMALL) as front:
        data = f"{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
        got = await front.raw(data.encode("latin-1"), end=True)
        assert int(got.split(b" ", 2)[1]) == status
        assert got.partition(b"\r\n\r\n")[2]
        await still_serves(front)


@pytest.mark.parametrize(
    "headers", [[f"X-{n}: {n}" for n in range(1000)], ["X: " + "a" * 40_000], ["X: " + "a" * 5_000_000]]
)
async def test_too_many_and_too_long_headers_are_refused(headers: list[str]) -> None:
    async with served(Chat(), options=SMALL) as front:
        try:
            status = await front.status(post("/chat", *headers, "Connection: close", "Content-Length: 0"))
        except ConnectionResetError:
            status = 400  # closed while five megabytes were still coming
        assert status in (400, 431)
        await still_serves(front)


async def test_a_channel_that_fails_gets_a_500_that_tells_nothing_and_a_trace_in_the_log() -> None:
    chat = Chat()

    async def broken(request: object) -> None:
        raise RuntimeError("the secret is 42")

    chat.before = broken
    async with served(chat) as front:
        answer = await front.http.post("/chat", content=body())
        assert (answer.status_code, answer.json()["error"]) == (500, "internal-error")
        assert "42" not in answer.text
        (failed,) = front.seen.of("channel_defect")
        assert (failed["channel"], failed["error"]) == ("chat", "receive: RuntimeError: the secret is 42")
        assert "in broken" in failed["trace"]


async def test_turns_of_another_channel_are_a_defect_and_not_published() -> None:
    async with served(Chat()) as front:
        said = body({"session": "s", "id": "1", "text": "x", "channel": "other"})
        assert (await front.http.post("/chat", content=said)).status_code == 500
        assert "'other'" in front.seen.of("channel_defect")[0]["error"]
        assert not front.turns


async def test_what_a_channel_gets_of_a_request() -> None:
    chat = Chat()
    async with served(chat) as front:
        await front.http.post(
            "/chat/a%20b?x=1&x=2&y=", content=b"raw", headers=[("X-Two", "1"), ("x-two", "2"), ("Signature", "s")]
        )
        (request,) = chat.requests
        assert (request.method, request.path, request.body, request.client) == (
            "POST", "/chat/a b", b"raw", "127.0.0.1",
        )  # fmt: skip
        assert dict(request.query) == {"x": "2", "y": ""}
        assert (request.headers["x-two"], request.headers["signature"]) == ("1, 2", "s")
