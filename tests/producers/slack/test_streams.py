"""Native streams in Slack: nothing is doubled, nothing is missing, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdqueue_producers import Permanent, RetryAfter, Stream
from sdqueue_producers.slack.text import harmless, settled

from tests.producers.slack.helpers import THREAD, address, delivery, outgoing
from tests.producers.slack.server import FakeSlack, Fault, broken, cut, hang, limited, refused


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with FakeSlack() as server:
        yield server


async def begun(slack: FakeSlack, *, timeout_s: int = 5) -> Stream:
    stream = await delivery(slack, timeout_s=timeout_s).stream(address(), outgoing(""))
    assert stream is not None
    return stream


async def test_a_stream_grows_and_ends_with_the_reply_that_can_be_found(slack: FakeSlack) -> None:
    stream, reply = await begun(slack), outgoing("Hello, world!")
    await stream.append("Hello")
    await stream.append(", wor")

    sent = await stream.finish(reply, "Hello, wor")

    [message] = slack.visible("C1", THREAD)
    assert message.shown == ["", "Hello", "Hello, wor", "Hello, world!"]
    assert message.streaming_since is None
    assert sent.ref == stream.ref == message.ts
    assert await delivery(slack).find(address(), reply) == sent
    assert "chat.update" not in slack.methods()


async def test_a_stream_that_has_shown_everything_is_only_stopped(slack: FakeSlack) -> None:
    stream = await begun(slack)
    await stream.append("Hello")

    await stream.finish(outgoing("Hello"), "Hello")

    assert slack.visible("C1", THREAD)[0].shown == ["", "Hello"]
    assert "markdown_text" not in slack.calls[-1].body


async def test_a_stream_whose_text_is_not_the_answer_is_stopped_and_replaced(slack: FakeSlack) -> None:
    stream = await begun(slack)
    await stream.append("I think")

    sent = await stream.finish(outgoing("No: 42"), "I think")

    assert slack.texts("C1", THREAD) == ["No: 42"]
    assert await delivery(slack).edit(address(), sent.ref, outgoing("No: 43")) == sent


@pytest.mark.parametrize(
    "there",
    [
        address(thread_ts=None),
        address(channel="D1", thread_ts=None),
        address(user=None),
        address(recipient_team=None),
    ],
)
async def test_without_a_thread_or_a_recipient_there_is_no_stream_and_slack_is_not_asked(
    slack: FakeSlack, there: dict[str, Any]
) -> None:
    assert await delivery(slack).stream(there, outgoing("")) is None
    assert slack.calls == []


@pytest.mark.parametrize(
    "fault",
    [refused("channel_type_not_supported"), refused("unknown_method"), limited(30), broken(), cut(late=False)],
)
async def test_where_a_stream_cannot_begin_edits_take_over(slack: FakeSlack, fault: Fault) -> None:
    slack.fail("chat.startStream", fault)

    assert await delivery(slack).stream(address(), outgoing("")) is None


@pytest.mark.parametrize("slug", ["message_not_in_streaming_state", "stopped_by_user"])
async def test_a_stream_that_has_ended_says_so_and_is_finished_all_the_same(slack: FakeSlack, slug: str) -> None:
    stream = await begun(slack)
    await stream.append("Hello")
    slack.expire_streams()
    slack.fail("chat.appendStream", refused(slug))

    with pytest.raises(Permanent) as ended:
        await stream.append(", world")
    await stream.finish(outgoing("Hello, world"), "Hello")

    assert ended.value.reason == slug.replace("_", "-")
    assert slack.texts("C1", THREAD) == ["Hello, world"]


async def test_a_stream_ends_by_slacks_clock() -> None:
    now = [0.0]
    async with FakeSlack(stream_s=300.0, clock=lambda: now[0]) as slack:
        stream = await begun(slack)
        await stream.append("Hello")
        now[0] = 300.0

        with pytest.raises(Permanent):
            await stream.append(", world")


async def test_an_append_that_is_limited_shows_nothing_and_can_be_given_again(slack: FakeSlack) -> None:
    stream = await begun(slack)
    slack.fail("chat.appendStream", limited(3))

    with pytest.raises(RetryAfter) as limit:
        await stream.append("Hello")
    await stream.append("Hello")
    await stream.finish(outgoing("Hello"), "Hello")

    assert (limit.value.seconds, limit.value.bucket) == (3.0, "edit:T1")
    assert slack.visible("C1", THREAD)[0].shown == ["", "Hello"]
    assert "chat.update" not in slack.methods()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("fault", [cut, hang])
async def test_an_append_with_an_unknown_outcome_neither_doubles_nor_loses_text(
    slack: FakeSlack, fault: Any, late: bool
) -> None:
    stream = await begun(slack, timeout_s=1)
    await stream.append("one ")
    slack.fail("chat.appendStream", fault(late=late))

    await stream.append("two ")
    await stream.append("three ")
    await stream.finish(outgoing("one two three four"), "one two three ")

    [message] = slack.visible("C1", THREAD)
    assert message.text == "one two three four"
    assert "one three" not in " ".join(message.shown)
    assert slack.methods().count("chat.appendStream") == 2


async def test_an_append_that_is_given_up_by_the_caller_counts_as_unknown(slack: FakeSlack) -> None:
    stream = await begun(slack)
    slack.fail("chat.appendStream", hang(late=True))

    waiting = asyncio.create_task(stream.append("one "))
    await slack.called("chat.appendStream")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stream.finish(outgoing("one two"), "")

    assert slack.texts("C1", THREAD) == ["one two"]


@pytest.mark.parametrize("fault", [cut(late=True), cut(late=False), broken(500, late=True), broken(500)])
async def test_a_stop_with_an_unknown_outcome_shows_the_text_once(slack: FakeSlack, fault: Fault) -> None:
    stream, reply = await begun(slack), outgoing("Hello, world")
    await stream.append("Hello")
    slack.fail("chat.stopStream", fault)

    sent = await stream.finish(reply, "Hello")

    [message] = slack.visible("C1", THREAD)
    assert (message.text, message.streaming_since) == ("Hello, world", None)
    assert await delivery(slack).find(address(), reply) == sent


async def test_a_stop_that_is_limited_can_be_given_again(slack: FakeSlack) -> None:
    stream = await begun(slack)
    await stream.append("Hello")
    slack.fail("chat.stopStream", limited(2))

    with pytest.raises(RetryAfter):
        await stream.finish(outgoing("Hello, world"), "Hello")
    await stream.finish(outgoing("Hello, world"), "Hello")

    assert slack.visible("C1", THREAD)[0].shown == ["", "Hello", "Hello, world"]


async def test_a_finish_that_fails_in_the_middle_can_be_given_again(slack: FakeSlack) -> None:
    stream = await begun(slack)
    await stream.append("Hello")
    slack.fail("chat.stopStream", cut(late=True))
    slack.fail("chat.update", limited(2))

    with pytest.raises(RetryAfter):
        await stream.finish(outgoing("Hello, world"), "Hello")
    await stream.finish(outgoing("Hello, world"), "Hello")

    assert slack.texts("C1", THREAD) == ["Hello, world"]


async def test_another_process_finishes_the_stream_of_one_that_was_killed_by_an_edit(slack: FakeSlack) -> None:
    abandoned = await begun(slack)
    await abandoned.append("Hel")

    await delivery(slack).edit(address(), abandoned.ref, outgoing("Hello, world"))

    [message] = slack.visible("C1", THREAD)
    assert (message.text, message.streaming_since) == ("Hello, world", None)


async def test_a_stream_does_not_call_everybody_however_it_is_cut(slack: FakeSlack) -> None:
    stream, text = await begun(slack), "Dear <!channel>, <b>hi</b> <!"
    for char in text:
        await stream.append(char)

    await stream.finish(outgoing(text), text)

    [message] = slack.visible("C1", THREAD)
    assert message.text == "Dear <\u2060!channel>, <b>hi</b> <!"
    assert not [shown for shown in message.shown if not message.text.startswith(shown)]
    assert "chat.update" not in slack.methods()


async def test_a_long_delta_is_appended_in_pieces(slack: FakeSlack) -> None:
    stream, text = await begun(slack), "x" * 30_000

    await stream.append(text)
    await stream.finish(outgoing(text), text)

    assert slack.texts("C1", THREAD) == [text]


async def test_a_long_delta_that_fails_in_the_middle_is_not_asked_for_again(slack: FakeSlack) -> None:
    stream, text = await begun(slack), "x" * 12_000 + "y" * 10
    slack.fail("chat.appendStream", Fault(pass_on=True), limited(2))

    await stream.append(text)
    await stream.finish(outgoing("x" * 11_000), text)

    assert slack.texts("C1", THREAD) == ["x" * 11_000]


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["<", "!", "<!", "chan", "nel", "here", "every", "one", "subteam^", ">", " ", "x", "<!C"])
    ),
    st.data(),
)
def test_text_that_is_shown_in_pieces_is_what_is_shown_at_once(words: list[str], data: st.DataObject) -> None:
    """Given a text and places where it is cut, when it is shown piece by piece, then nothing differs."""
    text, shown, held = "".join(words), "", ""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        ready, held = settled(held + text[start:end])
        shown += harmless(ready)

    assert shown + harmless(held) == harmless(text)
