"""Callbacks to real receivers over HTTPS on 127.0.0.1: signed, never redirected, never to a forbidden address."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sdqueue_producers import Bucket, MemoryState, Outgoing, Permanent, RetryAfter, Sent
from sdqueue_producers.webhook import WebhookChannel
from standardwebhooks import Webhook

from sdqueue.errors import ConfigurationError
from tests.producers.webhook.tools import (
    OTHER_SECRET,
    SECRET,
    THIRD_SECRET,
    Authority,
    Receiver,
    make_authority,
    make_channel,
    outgoing_reply,
    serving,
)

HOST = "receiver.test"
Addresses = list[tuple[socket.AddressFamily, str]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), HOST)


async def loopback(host: str, port: int, family: socket.AddressFamily) -> Addresses:
    """Every name is 127.0.0.1."""
    return [(socket.AF_INET, "127.0.0.1")]


def endpoint(receiver: Receiver, authority: Authority, **more: Any) -> dict[str, Any]:
    return {
        "secrets": [SECRET],
        "callback_url": f"https://{HOST}:{receiver.port}/replies?from=sdqueue",
        "callback_secrets": [OTHER_SECRET],
        "callback_ca_file": str(authority.ca_file),
        "allow_networks": ["127.0.0.0/8"],
        **more,
    }


@asynccontextmanager
async def calling(
    receiver: Receiver, authority: Authority, *, lookup: Any = loopback, state: MemoryState | None = None, **more: Any
) -> AsyncIterator[WebhookChannel]:
    """A channel whose endpoint crm posts to a receiver that listens."""
    settings = {"crm": endpoint(receiver, authority, **more)}
    async with make_channel(endpoints=settings, lookup=lookup, state=state) as channel:
        yield channel


async def deliver(channel: WebhookChannel, out: Outgoing | None = None) -> Sent:
    out = out or outgoing_reply()
    return await channel.deliver(out.reply.address, out)


def answering(status: int, **headers: str) -> Callable[[web.Request], Any]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


async def test_a_reply_is_posted_signed_so_that_the_standardwebhooks_package_verifies_it(authority: Authority) -> None:
    async with serving(Receiver(), authority.tls) as receiver, calling(receiver, authority) as channel:
        assert await deliver(channel, outgoing_reply("grüß dich")) == Sent()
    (got,) = receiver.got
    assert got.verified()["text"] == "grüß dich"
    assert got.headers["webhook-id"] == "webhook:crm:evt_1:0"
    assert got.headers["host"] == f"{HOST}:{receiver.port}"
    assert got.headers["content-type"] == "application/json"
    assert "cookie" not in got.headers
    body = got.verified()
    assert body.keys() == {
        "type", "timestamp", "id", "turn_id", "session_id", "seq", "kind", "text", "tool_calls", "metadata",
    }  # fmt: skip
    assert (body["type"], body["id"], body["turn_id"], body["session_id"]) == (
        "reply.final", "webhook:crm:evt_1:0", "evt_1", "user-42",
    )  # fmt: skip


async def test_an_error_reply_says_that_it_is_one(authority: Authority) -> None:
    async with serving(Receiver(), authority.tls) as receiver, calling(receiver, authority) as channel:
        await deliver(channel, outgoing_reply("sorry", kind="error"))
    assert receiver.got[0].verified()["type"] == "reply.error"


async def test_every_callback_secret_signs_so_that_a_receiver_can_rotate(authority: Authority) -> None:
    async with (
        serving(Receiver(), authority.tls) as receiver,
        calling(receiver, authority, callback_secrets=[THIRD_SECRET, OTHER_SECRET]) as channel,
    ):
        await deliver(channel)
    (got,) = receiver.got
    assert got.verified(THIRD_SECRET) == got.verified(OTHER_SECRET)


async def test_each_attempt_has_the_same_id_and_body_and_a_time_and_signature_of_its_own(authority: Authority) -> None:
    async with (
        serving(Receiver(answering(500)), authority.tls) as receiver,
        calling(receiver, authority) as channel,
    ):
        out = outgoing_reply()
        for wait_s in (1.1, 0):  # the header counts whole seconds
            with pytest.raises(RetryAfter):
                await deliver(channel, out)
            await asyncio.sleep(wait_s)
    one, other = receiver.got
    assert one.body == other.body
    assert one.headers["webhook-id"] == other.headers["webhook-id"]
    assert int(one.headers["webhook-timestamp"]) < int(other.headers["webhook-timestamp"])
    assert one.verified() == other.verified()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_a_success(authority: Authority, status: int) -> None:
    async with (
        serving(Receiver(answering(status)), authority.tls) as receiver,
        calling(receiver, authority) as channel,
    ):
        assert await deliver(channel) == Sent()


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_any_3xx_is_a_failure_and_is_not_followed(authority: Authority, status: int) -> None:
    receiver = Receiver()
    async with serving(receiver, authority.tls), calling(receiver, authority) as channel:
        receiver.answer = answering(status, Location=f"https://{HOST}:{receiver.port}/elsewhere")
        with pytest.raises(RetryAfter, match="redirects are not followed") as caught:
            await deliver(channel)
    assert len(receiver.got) == 1
    assert caught.value.seconds is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500, 502, 504])
async def test_other_failures_are_tried_again_by_the_schedule(authority: Authority, status: int) -> None:
    async with (
        serving(Receiver(answering(status)), authority.tls) as receiver,
        calling(receiver, authority) as channel,
    ):
        with pytest.raises(RetryAfter, match=f"HTTP {status}") as caught:
            await deliver(channel)
        assert caught.value.seconds is None
        assert channel.caps.retry_s == (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)


@pytest.mark.parametrize(
    ("status", "value", "low", "high"),
    [
        (429, "7", 7, 7),
        (503, "120", 120, 120),
        (503, "date", 50, 61),
        (429, "99999999999999999999", 86_400, 86_400),
        (503, "0", 0, 0),
    ],
)
async def test_retry_after_is_honoured(authority: Authority, status: int, value: str, low: float, high: float) -> None:
    if value == "date":
        value = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    async with (
        serving(Receiver(answering(status, Retry_After=value)), authority.tls) as receiver,
        calling(receiver, authority) as channel,
    ):
        with pytest.raises(RetryAfter) as caught:
            await deliver(channel)
    assert caught.value.seconds is not None
    assert low <= caught.value.seconds <= high
    assert caught.value.bucket == ("callback:crm" if status == 429 else None)


@pytest.mark.parametrize(
    "value", ["soon", "-5", "1.5", "\xb2", "Tue, 99 Foo 2026", f"Sun, 06 Nov 1994 {'9' * 20}:49:37 GMT"]
)
async def test_a_retry_after_that_makes_no_sense_is_none(authority: Authority, value: str) -> None:
    async with (
        serving(Receiver(answering(503, Retry_After=value)), authority.tls) as receiver,
        calling(receiver, authority) as channel,
    ):
        with pytest.raises(RetryAfter) as caught:
            await deliver(channel)
    assert caught.value.seconds is None


async def test_the_limit_of_an_endpoints_receiver_is_one_bucket(authority: Authority) -> None:
    async with (
        serving(Receiver(), authority.tls) as receiver,
        calling(receiver, authority, callback_per_s=7) as channel,
    ):
        assert channel.buckets(outgoing_reply().reply.address) == [Bucket("callback:crm", 7, 1.0)]
        assert channel.buckets({"nonsense": 1}) == []
        assert channel.buckets(outgoing_reply(endpoint="other").reply.address) == []


async def test_410_disables_the_receiver_until_its_configuration_changes(authority: Authority) -> None:
    state = MemoryState()
    async with serving(Receiver(answering(410)), authority.tls) as receiver:
        async with calling(receiver, authority, state=state) as channel:
            for _ in range(2):  # the second time it is not even asked
                with pytest.raises(Permanent) as caught:
                    await deliver(channel)
                assert caught.value.reason == "gone"
            assert len(receiver.got) == 1
        receiver.answer = None
        async with calling(receiver, authority, state=state) as channel:  # another process
            with pytest.raises(Permanent):
                await deliver(channel)
        async with calling(receiver, authority, state=state, callback_revision=2) as channel:
            assert await deliver(channel) == Sent()
    assert len(receiver.got) == 2


async def test_what_is_remembered_of_a_receiver_that_is_gone_does_not_tell_its_url(authority: Authority) -> None:
    state = MemoryState()
    async with (
        serving(Receiver(answering(410)), authority.tls) as receiver,
        calling(receiver, authority, state=state) as channel,
    ):
        with pytest.raises(Permanent):
            await deliver(channel)
    (value,) = await state.get(["webhook:gone:crm"])
    assert value is not None
    assert HOST not in value


async def test_a_receiver_that_cuts_the_connection_after_reading_is_asked_again(authority: Authority) -> None:
    async def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serving(Receiver(cut), authority.tls) as receiver, calling(receiver, authority) as channel:
        with pytest.raises(RetryAfter):
            await deliver(channel)
        assert len(receiver.got) == 1
        receiver.answer = None
        assert await deliver(channel) == Sent()
    assert {got.headers["webhook-id"] for got in receiver.got} == {"webhook:crm:evt_1:0"}


async def test_a_receiver_that_hangs_is_given_up(authority: Authority) -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(600)
        return web.Response()

    async with (
        serving(Receiver(hang), authority.tls) as receiver,
        calling(receiver, authority, callback_timeout_s=0.3) as channel,
    ):
        async with asyncio.timeout(15):  # by default a receiver may take 20 s
            with pytest.raises(RetryAfter, match=r"0\.3 s"):
                await deliver(channel)


async def test_an_endless_answer_is_not_read(authority: Authority) -> None:
    sent = 0
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
                sent += 65_536
        except (ConnectionError, OSError):
            return response
        finally:
            ended.set()

    async with serving(Receiver(endless), authority.tls) as receiver, calling(receiver, authority) as channel:
        assert await deliver(channel) == Sent()
        await asyncio.wait_for(ended.wait(), 30)  # our end has closed the connection
    assert sent < 64 * 1024 * 1024


async def test_a_slow_answer_counts_by_its_status_alone(authority: Authority) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(600)
        return response

    async with serving(Receiver(slow), authority.tls) as receiver, calling(receiver, authority) as channel:
        assert await asyncio.wait_for(deliver(channel), 15) == Sent()


@pytest.mark.parametrize("answer", [b"", b"\x00\xff nonsense\r\n\r\n", b"HTTP/1.1 200\r\nX" + b"y" * 100_000])
async def test_an_answer_that_is_no_http_is_a_failure_that_does_not_tell_the_url(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        settings = {
            "secrets": [SECRET],
            "callback_url": f"http://{HOST}:{server.sockets[0].getsockname()[1]}/?key=very-secret",
            "callback_secrets": [OTHER_SECRET],
            "allow_networks": ["127.0.0.0/8"],
            "allow_http": True,
        }
        async with make_channel(endpoints={"crm": settings}, lookup=loopback) as channel:
            with pytest.raises(RetryAfter) as caught:
                await deliver(channel)
    assert "very-secret" not in str(caught.value)
    assert len(str(caught.value)) < 500


async def test_a_receiver_that_nobody_vouches_for_gets_nothing(authority: Authority, tmp_path: Path) -> None:
    stranger = make_authority(tmp_path, HOST)
    async with serving(Receiver(), stranger.tls) as receiver, calling(receiver, authority) as channel:
        with pytest.raises(RetryAfter, match="certificate"):
            await deliver(channel)
    assert receiver.got == []


async def test_a_certificate_of_another_name_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = make_authority(tmp_path, "other.test")
    async with serving(Receiver(), other.tls) as receiver, calling(receiver, other) as channel:
        with pytest.raises(RetryAfter, match="certificate"):
            await deliver(channel)
    assert receiver.got == []


def test_a_file_of_authorities_that_cannot_be_read_is_told_at_the_start(tmp_path: Path) -> None:
    settings = {
        "secrets": [SECRET], "callback_url": "https://receiver.test/", "callback_secrets": [SECRET],
        "callback_ca_file": str(tmp_path / "none.pem"),
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match="callback_ca_file"):
        make_channel(endpoints={"crm": settings})


async def test_nobody_listens(authority: Authority) -> None:
    async with serving(Receiver(), authority.tls) as receiver:
        pass
    async with calling(receiver, authority) as channel:
        with pytest.raises(RetryAfter):
            await deliver(channel)


async def test_no_proxy_of_the_environment_is_used(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Receiver()) as proxy, serving(Receiver(), authority.tls) as receiver:
        for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with calling(receiver, authority) as channel:
            await deliver(channel)
    assert proxy.got == []
    assert len(receiver.got) == 1


async def test_cookies_are_not_kept(authority: Authority) -> None:
    async with (
        serving(Receiver(answering(200, Set_Cookie="a=b")), authority.tls) as receiver,
        calling(receiver, authority) as channel,
    ):
        for id_ in ("evt_1", "evt_2"):
            await deliver(channel, outgoing_reply(id_=id_))
    assert ["cookie" in got.headers for got in receiver.got] == [False, False]


# Addresses


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["fe80::1%2"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
    ],
)
async def test_a_name_with_a_forbidden_address_is_not_called(authority: Authority, addresses: list[str]) -> None:
    async def lookup(host: str, port: int, family: socket.AddressFamily) -> Addresses:
        return [(socket.AF_INET6 if ":" in one else socket.AF_INET, one) for one in addresses]

    async with (
        serving(Receiver(), authority.tls) as receiver,
        calling(receiver, authority, lookup=lookup, allow_networks=[]) as channel,
    ):
        with pytest.raises(RetryAfter, match="not called"):
            await deliver(channel)
    assert receiver.got == []


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to(authority: Authority) -> None:
    """DNS rebinding: a name that is good when it is checked, and bad when it is asked for again."""
    asked = []

    async def rebinding(host: str, port: int, family: socket.AddressFamily) -> Addresses:
        asked.append(host)
        return [(socket.AF_INET, "127.0.0.1" if len(asked) == 1 else "127.0.0.2")]

    async with (
        serving(Receiver(), authority.tls) as receiver,
        calling(receiver, authority, lookup=rebinding, allow_networks=["127.0.0.1/32"]) as channel,
    ):
        assert await deliver(channel) == Sent()
        assert asked == [HOST]  # once: there is no second question whose answer could be another one
        receiver.answer = answering(500, Connection="close")
        with pytest.raises(RetryAfter, match="HTTP 500"):
            await deliver(channel)  # on the connection that is there, to the address that was checked
        with pytest.raises(RetryAfter, match=r"127\.0\.0\.2 is no public address"):
            await deliver(channel)
    assert len(receiver.got) == 2
    assert asked == [HOST, HOST]


async def test_the_systems_own_resolver_is_checked_as_well(authority: Authority) -> None:
    async with serving(Receiver(), authority.tls) as receiver:
        settings = endpoint(receiver, authority, allow_networks=[])
        settings["callback_url"] = f"https://localhost:{receiver.port}/"
        async with make_channel(endpoints={"crm": settings}) as channel:
            with pytest.raises(RetryAfter, match="no public address"):
                await deliver(channel)
    assert receiver.got == []


async def test_an_address_in_the_url_is_called_without_a_name(authority: Authority) -> None:
    async def never(host: str, port: int, family: socket.AddressFamily) -> Addresses:
        raise AssertionError("an address is not looked up")

    async with serving(Receiver(), authority.tls) as receiver:
        settings = endpoint(receiver, authority)
        settings["callback_url"] = f"https://127.0.0.1:{receiver.port}/"
        async with make_channel(endpoints={"crm": settings}, lookup=never) as channel:
            assert await deliver(channel) == Sent()


async def test_without_tls_only_in_an_allowed_network(authority: Authority) -> None:
    async with serving(Receiver()) as receiver:
        settings = endpoint(receiver, authority, allow_http=True, callback_ca_file=None)
        settings["callback_url"] = f"http://{HOST}:{receiver.port}/"
        async with make_channel(endpoints={"crm": settings}, lookup=loopback) as channel:
            assert await deliver(channel) == Sent()

        async def public(host: str, port: int, family: socket.AddressFamily) -> Addresses:
            return [(socket.AF_INET, "8.8.8.8")]

        async with make_channel(endpoints={"crm": settings}, lookup=public) as channel:
            with pytest.raises(RetryAfter, match="http://"):
                await deliver(channel)


# Which way a reply goes


async def test_a_reply_that_a_held_request_has_got_is_not_posted_as_well(authority: Authority) -> None:
    state = MemoryState()
    async with serving(Receiver(), authority.tls) as receiver, calling(receiver, authority, state=state) as channel:
        await state.set({"webhook:way:webhook:crm:evt_1": "held"}, ttl_s=60)
        assert await deliver(channel, outgoing_reply(held=True)) == Sent()
        assert receiver.got == []
        assert await deliver(channel, outgoing_reply(held=True, id_="evt_2")) == Sent()  # nobody holds this one
        assert len(receiver.got) == 1
        assert await state.get(["webhook:way:webhook:crm:evt_2"]) == ["callback"]


async def test_addresses_of_nobody_are_dead(authority: Authority) -> None:
    async with serving(Receiver(), authority.tls) as receiver, calling(receiver, authority) as channel:
        out = outgoing_reply(endpoint="closed")
        with pytest.raises(Permanent) as caught:
            await channel.deliver(out.reply.address, out)
        assert caught.value.reason == "no-endpoint"
        for address in (None, 7, [], {}, {"endpoint": "crm"}, {"endpoint": 1, "id": "a", "session": "b", "held": True}):
            with pytest.raises(Permanent) as caught:
                await channel.deliver(address, out)
            assert caught.value.reason == "bad-address"


def test_the_signature_is_that_of_the_specification() -> None:
    """The worked example of Standard Webhooks: id.timestamp.body, HMAC-SHA256, base64."""
    webhook = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    at = datetime.fromtimestamp(1614265330, UTC)
    sign = webhook.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, '{"test": 2432232314}')
    assert sign == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
