"""Replies become messages in Slack, are edited, and are found again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sdqueue_producers import Ambiguous, Permanent, Sent
from sdqueue_producers.slack.delivery import CAPS
from sdqueue_producers.slack.text import MAX_MARKDOWN

from tests.producers.slack.helpers import THREAD, address, delivery, outgoing
from tests.producers.slack.server import FakeSlack, Installation, cut, hang


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with FakeSlack() as server:
        yield server


async def test_a_reply_is_posted_in_its_thread_as_markdown(slack: FakeSlack) -> None:
    sent = await delivery(slack).deliver(address(), outgoing("**Hello** & <b>"))

    [message] = slack.visible("C1", THREAD)
    assert (message.text, message.ts) == ("**Hello** & <b>", sent.ref)
    [call] = slack.calls
    assert call.body["markdown_text"] == "**Hello** & <b>"
    assert "text" not in call.body


async def test_links_in_a_reply_are_not_fetched_by_slack(slack: FakeSlack) -> None:
    await delivery(slack).deliver(address(), outgoing("https://example.com/?q=secret"))

    assert slack.calls[0].body["unfurl_links"] is False
    assert slack.calls[0].body["unfurl_media"] is False


async def test_a_reply_to_a_direct_message_is_posted_in_the_channel(slack: FakeSlack) -> None:
    await delivery(slack).deliver(address(channel="D1", thread_ts=None), outgoing("Hello"))

    assert slack.texts("D1") == ["Hello"]


@pytest.mark.parametrize("call", ["<!channel>", "<!here|here>", "<!everyone>", "<!subteam^S1>", "<!CHANNEL>"])
async def test_a_reply_does_not_call_everybody(slack: FakeSlack, call: str) -> None:
    sent = await delivery(slack).deliver(address(), outgoing(f"Hi {call} and <@U1>"))
    await delivery(slack).edit(address(), sent.ref, outgoing(f"Bye {call}"))

    assert slack.visible("C1", THREAD)[0].shown == [f"Hi <\u2060{call[1:]} and <@U1>", f"Bye <\u2060{call[1:]}"]


async def test_the_longest_message_can_be_posted_and_edited(slack: FakeSlack) -> None:
    sent = await delivery(slack).deliver(address(), outgoing("x" * CAPS.max_chars))
    await delivery(slack).edit(address(), sent.ref, outgoing("y" * CAPS.max_chars))

    assert slack.texts("C1", THREAD) == ["y" * CAPS.max_chars]
    assert CAPS.max_chars < MAX_MARKDOWN


@pytest.mark.parametrize("text", ["", " \n "])
async def test_a_reply_without_text_is_refused_before_slack_is_asked(slack: FakeSlack, text: str) -> None:
    with pytest.raises(Permanent) as refused:
        await delivery(slack).deliver(address(), outgoing(text))

    assert refused.value.reason == "no-text"
    assert slack.calls == []


@pytest.mark.parametrize(
    "wrong",
    [None, [], "C1", {}, {"install": "T1"}, {"channel": "C1"}, {"install": 1, "channel": "C1"}, address(thread_ts=5)],
)
async def test_an_address_that_is_not_slacks_is_refused(slack: FakeSlack, wrong: Any) -> None:
    for call in (delivery(slack).deliver(wrong, outgoing("x")), delivery(slack).find(wrong, outgoing("x"))):
        with pytest.raises(Permanent) as refused:
            await call
        assert refused.value.reason == "bad-address"
    assert delivery(slack).buckets(wrong) == ()
    assert slack.calls == []


async def test_an_installation_that_is_gone_is_said_to_be(slack: FakeSlack) -> None:
    with pytest.raises(Permanent) as refused:
        await delivery(slack).deliver(address(install="T2"), outgoing("x"))

    assert refused.value.reason == "installation-gone"


def test_posts_are_limited_by_channel_and_edits_by_workspace() -> None:
    one, other = (delivery(FakeSlack()).buckets(address(channel=name)) for name in ("C1", "C2"))

    posts = [[bucket for bucket in buckets if bucket.applies(edit=False)] for buckets in (one, other)]
    edits = [[bucket for bucket in buckets if bucket.applies(edit=True)] for buckets in (one, other)]
    assert [(b.key, b.count, b.per_s) for (b,) in posts] == [("post:T1:C1", 1, 1.0), ("post:T1:C2", 1, 1.0)]
    assert edits[0] == edits[1]
    assert [(b.key, b.count, b.per_s) for (b,) in edits[:1]] == [("edit:T1", 50, 60.0)]


# Edits


async def test_an_edit_shows_another_text_and_the_id_of_another_reply(slack: FakeSlack) -> None:
    first, second = outgoing("Hel"), outgoing("Hello")
    channel = delivery(slack)
    sent = await channel.deliver(address(), first)

    assert await channel.edit(address(), sent.ref, second) == sent

    assert slack.texts("C1", THREAD) == ["Hello"]
    assert await channel.find(address(), first) is None
    assert await channel.find(address(), second) == sent


@pytest.mark.parametrize("ref", [None, 5, {"ts": "1.1"}])
async def test_a_ref_that_is_not_slacks_is_refused(slack: FakeSlack, ref: Any) -> None:
    with pytest.raises(Permanent) as refused:
        await delivery(slack).edit(address(), ref, outgoing("x"))

    assert refused.value.reason == "bad-ref"


async def test_an_edit_of_a_deleted_message_is_refused(slack: FakeSlack) -> None:
    with pytest.raises(Permanent) as refused:
        await delivery(slack).edit(address(), "1700000000.000001", outgoing("x"))

    assert refused.value.reason == "message-not-found"


# Finding


@pytest.mark.parametrize("thread_ts", [THREAD, None])
@pytest.mark.parametrize("ts", ["", "not a ts"])
async def test_a_post_whose_answer_was_lost_is_found(slack: FakeSlack, thread_ts: str | None, ts: str) -> None:
    channel, there, reply = delivery(slack), address(thread_ts=thread_ts, ts=ts), outgoing("Hello")
    await channel.deliver(there, outgoing("another"))
    slack.fail("chat.postMessage", cut(late=True))
    with pytest.raises(Ambiguous):
        await channel.deliver(there, reply)

    found = await channel.find(there, reply)

    assert found == Sent(slack.visible("C1", thread_ts)[1].ts)


@pytest.mark.parametrize("thread_ts", [THREAD, None])
async def test_a_post_that_did_not_arrive_is_not_found(slack: FakeSlack, thread_ts: str | None) -> None:
    channel, there, reply = delivery(slack), address(thread_ts=thread_ts), outgoing("Hello")
    await channel.deliver(there, outgoing("Hello"))
    slack.fail("chat.postMessage", cut(late=False))
    with pytest.raises(Ambiguous):
        await channel.deliver(there, reply)

    assert await channel.find(there, reply) is None


async def test_an_answer_that_never_comes_is_ambiguous_and_the_post_is_found(slack: FakeSlack) -> None:
    channel, reply = delivery(slack, timeout_s=1), outgoing("Hello")
    slack.fail("chat.postMessage", hang(late=True))
    with pytest.raises(Ambiguous):
        await channel.deliver(address(), reply)

    assert await channel.find(address(), reply) is not None


async def test_a_part_of_a_reply_is_not_taken_for_another_part(slack: FakeSlack) -> None:
    channel = delivery(slack)
    first = outgoing("one", id="t:0", part=0, parts=2)
    second = outgoing("two", id="t:0", part=1, parts=2)
    await channel.deliver(address(), first)

    assert await channel.find(address(), second) is None
    assert await channel.find(address(), first) is not None


@pytest.mark.parametrize("thread_ts", [THREAD, None])
async def test_a_post_is_found_on_a_later_page(slack: FakeSlack, thread_ts: str | None) -> None:
    channel, there = delivery(slack), address(thread_ts=thread_ts)
    posted = [outgoing("x") for _ in range(120)]
    for reply in posted:
        await channel.deliver(there, reply)

    assert await channel.find(there, posted[0]) is not None
    assert await channel.find(there, posted[-1]) is not None


async def test_a_long_history_is_not_read_without_an_end(slack: FakeSlack) -> None:
    channel, there = delivery(slack), address(thread_ts=None)
    for _ in range(501):
        await channel.deliver(there, outgoing("x"))
    slack.calls.clear()

    with pytest.raises(Permanent) as refused:
        await channel.find(there, outgoing("Hello"))

    assert refused.value.reason == "too-many-messages"
    assert slack.methods() == ["conversations.history"] * 5


async def test_without_the_history_scope_nothing_is_found_and_it_is_said_once(
    slack: FakeSlack, caplog: pytest.LogCaptureFixture
) -> None:
    slack.install(Installation("xoxb-1", scopes=("chat:write",)))
    channel = delivery(slack)

    for _ in range(2):
        with pytest.raises(Permanent) as refused:
            await channel.find(address(), outgoing("Hello"))
        assert refused.value.reason == "missing-scope"
        assert "channels:history" in refused.value.detail

    [record] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "channels:history" in record.getMessage()


# The status


async def test_an_assistant_thread_shows_that_an_answer_is_made_until_it_is_there(slack: FakeSlack) -> None:
    channel, there = delivery(slack), address(assistant=True)

    await channel.typing(there, True)
    assert slack.statuses == {("C1", THREAD): "is thinking…"}
    await channel.deliver(there, outgoing("Hello"))
    assert slack.statuses == {}

    await channel.typing(there, True)
    await channel.typing(there, False)
    assert slack.status_log == ["is thinking…", "is thinking…", ""]


@pytest.mark.parametrize("there", [address(), address(assistant=True, thread_ts=None), address(assistant="yes")])
async def test_elsewhere_there_is_no_status(slack: FakeSlack, there: dict[str, Any]) -> None:
    await delivery(slack).typing(there, True)

    assert slack.calls == []
