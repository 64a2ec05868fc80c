"""What Slack refuses, and what becomes of connections, is told as the egress understands it."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator

import pytest
from sdqueue_producers import Ambiguous, DeliveryError, Permanent, RetryAfter

from tests.producers.slack.helpers import THREAD, TOKEN, address, delivery, outgoing
from tests.producers.slack.server import FakeSlack, Fault, broken, cut, hang, limited, refused


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with FakeSlack() as server:
        yield server


async def failure(slack: FakeSlack, fault: Fault) -> DeliveryError:
    slack.fail("chat.postMessage", fault)
    with pytest.raises(DeliveryError) as raised:
        await delivery(slack, timeout_s=1).deliver(address(), outgoing("Hello"))
    return raised.value


async def edit_failure(slack: FakeSlack, fault: Fault) -> DeliveryError:
    sent = await delivery(slack).deliver(address(), outgoing("Hel"))
    slack.fail("chat.update", fault)
    with pytest.raises(DeliveryError) as raised:
        await delivery(slack, timeout_s=1).edit(address(), sent.ref, outgoing("Hello"))
    return raised.value


async def test_429_waits_as_long_as_slack_says_and_nothing_else_is_sent_to_the_channel(slack: FakeSlack) -> None:
    error = await failure(slack, limited(30))

    assert isinstance(error, RetryAfter)
    assert (error.seconds, error.bucket) == (30.0, "post:T1:C1")


@pytest.mark.parametrize("header", [None, "", "soon", "-1", "nan", "inf", "1e99"])
async def test_429_without_a_sensible_retry_after_leaves_the_wait_to_us(slack: FakeSlack, header: str | None) -> None:
    error = await failure(slack, limited(header))

    assert isinstance(error, RetryAfter)
    assert error.seconds is None


@pytest.mark.parametrize("slug", ["ratelimited", "rate_limited", "message_limit_exceeded"])
async def test_an_answer_200_that_says_ratelimited_is_a_429(slack: FakeSlack, slug: str) -> None:
    error = await failure(slack, refused(slug))

    assert isinstance(error, RetryAfter)
    assert error.bucket == "post:T1:C1"


async def test_an_edit_that_is_limited_stops_the_edits_of_the_workspace(slack: FakeSlack) -> None:
    error = await edit_failure(slack, limited(7))

    assert isinstance(error, RetryAfter)
    assert (error.seconds, error.bucket) == (7.0, "edit:T1")


@pytest.mark.parametrize("slug", ["service_unavailable", "request_timeout", "team_added_to_org", "org_login_required"])
async def test_what_was_surely_not_done_is_tried_again(slack: FakeSlack, slug: str) -> None:
    assert isinstance(await failure(slack, refused(slug)), RetryAfter)


@pytest.mark.parametrize("status", [403, 404])
async def test_a_page_that_says_nothing_was_done_is_tried_again(slack: FakeSlack, status: int) -> None:
    assert isinstance(await failure(slack, broken(status)), RetryAfter)


@pytest.mark.parametrize(
    "fault",
    [
        refused("internal_error"),
        refused("fatal_error"),
        Fault(status=500, error="internal_error"),
        Fault(status=503, error="fatal_error"),
        broken(500, late=True),
        broken(502),
        broken(503, late=True),
        broken(504),
        cut(late=True),
        cut(late=False),
        hang(late=False),
        Fault(raw="a proxy's page"),
        Fault(raw=""),
        Fault(status=500, raw="a proxy's page"),
    ],
)
async def test_what_may_have_been_done_is_ambiguous_for_a_post_and_tried_again_for_an_edit(
    slack: FakeSlack, fault: Fault
) -> None:
    assert isinstance(await failure(slack, fault), Ambiguous)
    assert isinstance(await edit_failure(slack, fault), RetryAfter)


@pytest.mark.parametrize(
    "body", ["not json", "[1]", "null", '"text"', "{}", '{"ok": false}', '{"ok": false, "error": 5}']
)
async def test_an_answer_that_is_not_slacks_is_ambiguous(slack: FakeSlack, body: str) -> None:
    assert isinstance(await failure(slack, Fault(json=body)), Ambiguous)


@pytest.mark.parametrize(
    "slug",
    [
        "channel_not_found",
        "is_archived",
        "not_in_channel",
        "account_inactive",
        "token_revoked",
        "invalid_auth",
        "msg_too_long",
        "no_text",
        "restricted_action",
        "restricted_action_thread_locked",
        "something_new_of_slacks",
    ],
)
async def test_what_slack_refuses_for_good_is_permanent_with_its_slug(slack: FakeSlack, slug: str) -> None:
    error = await failure(slack, refused(slug))

    assert isinstance(error, Permanent)
    assert error.reason == slug.replace("_", "-")
    assert f"chat.postMessage to C1: {slug}; " in error.detail


@pytest.mark.parametrize("slug", ["message_not_found", "cant_update_message", "edit_window_closed", "is_inactive"])
async def test_an_edit_that_is_not_possible_is_permanent(slack: FakeSlack, slug: str) -> None:
    error = await edit_failure(slack, refused(slug))

    assert isinstance(error, Permanent)
    assert error.reason == slug.replace("_", "-")


async def test_a_slug_that_is_none_is_not_passed_on(slack: FakeSlack) -> None:
    error = await failure(slack, refused("<script>" * 100))

    assert isinstance(error, Ambiguous)
    assert "script" not in str(error)


async def test_where_nobody_listens_it_is_tried_again(slack: FakeSlack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api/"
        with pytest.raises(RetryAfter):
            await delivery(slack, url=url).deliver(address(), outgoing("Hello"))


async def test_where_tls_fails_it_is_tried_again(slack: FakeSlack) -> None:
    with pytest.raises(RetryAfter):
        await delivery(slack, url=slack.url.replace("http:", "https:")).deliver(address(), outgoing("Hello"))

    assert slack.texts("C1", THREAD) == []


async def test_a_token_is_in_no_error_and_no_log(slack: FakeSlack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen = []
    for fault in (limited(1), refused("invalid_auth"), broken(), cut(late=False), Fault(json="[1]")):
        error = await failure(slack, fault)
        seen += [repr(error), str(error), repr(error.__cause__), str(error.__suppress_context__)]
    with pytest.raises(Permanent) as raised:
        await delivery(slack, token="xoxb-unknown").deliver(address(), outgoing("Hello"))
    seen += [str(raised.value), caplog.text]

    assert raised.value.reason == "invalid-auth"
    assert not [text for text in seen if TOKEN in text or "xoxb" in text]
