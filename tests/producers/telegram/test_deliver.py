"""How replies get into chats, and what comes of it when Telegram does not take them."""

from __future__ import annotations

import logging
import traceback

import pytest
from pydantic import SecretStr
from sdqueue_producers import Ambiguous, Bucket, DeliveryError, MemoryState, Permanent, RetryAfter, Sent
from sdqueue_producers.telegram import TelegramChannel

from tests.producers.telegram.conftest import address, made, outgoing
from tests.producers.telegram.server import TOKEN, Cut, FakeTelegram, Refusal


async def test_a_reply_is_a_plain_message_in_its_topic(telegram: FakeTelegram, channel: TelegramChannel) -> None:
    sent = await channel.deliver(address(topic=33), outgoing("<b>*hi*</b>"))
    assert sent == Sent(1000)
    assert telegram.named("sendMessage") == [{"chat_id": 7, "text": "<b>*hi*</b>", "message_thread_id": 33}]


async def test_in_a_group_the_first_part_is_a_reply_to_the_message(
    telegram: FakeTelegram, channel: TelegramChannel
) -> None:
    await channel.deliver(address(-5, "supergroup"), outgoing("one"))
    await channel.deliver(address(-5, "supergroup"), outgoing("two", part=1))
    first, second = telegram.named("sendMessage")
    assert first["reply_parameters"] == {"message_id": 101, "allow_sending_without_reply": True}
    assert "reply_parameters" not in second


async def test_4096_characters_of_any_kind_are_one_message(telegram: FakeTelegram, channel: TelegramChannel) -> None:
    assert channel.caps.max_chars == 4096
    await channel.deliver(address(), outgoing("😀" * channel.caps.max_chars))
    assert len(telegram.visible[0]) == 4096
    with pytest.raises(Permanent, match="too long"):
        await channel.deliver(address(), outgoing("x" * 4097))


async def test_an_empty_reply_is_no_message(telegram: FakeTelegram, channel: TelegramChannel) -> None:
    assert await channel.deliver(address(), outgoing(" \n")) == Sent()
    assert telegram.calls == []


@pytest.mark.parametrize("said", ["can't parse entities: Unsupported start tag", "entities_too_long"])
async def test_formatting_that_telegram_cannot_read_is_shown_plain(telegram: FakeTelegram, said: str) -> None:
    async with made(telegram, parse_mode="HTML") as channel:
        telegram.fail("sendMessage", Refusal(400, f"Bad Request: {said}"))
        await channel.deliver(address(), outgoing("a <b"))
        assert [call.get("parse_mode") for call in telegram.named("sendMessage")] == ["HTML", None]
        assert telegram.visible == ["a <b"]
        await channel.edit(address(), 1000, outgoing("a <b>half", kind="delta"))
        assert "parse_mode" not in telegram.named("editMessageText")[0]


REFUSALS: list[tuple[Refusal, type[DeliveryError], str]] = [
    (Refusal(403, "Forbidden: bot was blocked by the user"), Permanent, "blocked"),
    (Refusal(400, "Bad Request: chat not found"), Permanent, "chat-not-found"),
    (Refusal(400, "Bad Request: message thread not found"), Permanent, "topic-closed"),
    (Refusal(400, "Bad Request: not enough rights to send text messages to the chat"), Permanent, "no-rights"),
    (Refusal(400, "Bad Request: something of tomorrow"), Permanent, "refused"),
    (Refusal(500), Ambiguous, ""),
    (Refusal(502, body="<html>Bad Gateway</html>"), Ambiguous, ""),
    (Refusal(401, "Unauthorized"), RetryAfter, ""),
    (Refusal(200, body="not JSON"), Ambiguous, ""),
]


@pytest.mark.parametrize(("refusal", "kind", "reason"), REFUSALS)
async def test_what_telegram_refuses_is_told_from_what_it_may_take_later(
    telegram: FakeTelegram, channel: TelegramChannel, refusal: Refusal, kind: type[DeliveryError], reason: str
) -> None:
    telegram.fail("sendMessage", refusal)
    with pytest.raises(kind) as caught:
        await channel.deliver(address(), outgoing("x"))
    assert getattr(caught.value, "reason", "") == reason
    assert telegram.visible == []


@pytest.mark.parametrize(("told", "seconds"), [(10**400, 86_400.0), (-1, None), (0, 0.0)])
async def test_a_wait_that_makes_no_sense_is_bounded(
    telegram: FakeTelegram, channel: TelegramChannel, told: int, seconds: float | None
) -> None:
    telegram.fail("sendMessage", Refusal(429, "Too Many Requests", retry_after=told))
    with pytest.raises(RetryAfter) as caught:
        await channel.deliver(address(), outgoing("hi"))
    assert caught.value.seconds == seconds


async def test_429_closes_the_chats_own_bucket_for_as_long_as_telegram_says(
    telegram: FakeTelegram, channel: TelegramChannel
) -> None:
    telegram.fail("sendMessage", Refusal(429, "Too Many Requests: retry after 17", retry_after=17))
    with pytest.raises(RetryAfter) as caught:
        await channel.deliver(address(), outgoing("x"))
    assert caught.value.seconds == 17
    assert caught.value.bucket in {bucket.key for bucket in channel.buckets(address())}


@pytest.mark.parametrize(
    ("fault", "visible"), [("cut before", []), ("cut after", ["x"]), ("fail after", ["x"]), ("hang", [])]
)
async def test_a_call_that_ends_without_telegrams_answer_is_ambiguous(
    telegram: FakeTelegram, fault: Cut, visible: list[str]
) -> None:
    async with made(telegram, call_timeout_s=0.3 if fault == "hang" else 30.0) as channel:
        telegram.fail("sendMessage", fault)
        with pytest.raises(Ambiguous):
            await channel.deliver(address(), outgoing("x"))
        assert telegram.visible == visible


async def test_without_a_connection_nothing_was_sent(telegram: FakeTelegram) -> None:
    telegram.url = "http://127.0.0.1:1"
    async with made(telegram) as channel:
        with pytest.raises(RetryAfter):
            await channel.deliver(address(), outgoing("x"))


async def test_a_group_that_has_become_a_supergroup_is_followed_for_good(telegram: FakeTelegram) -> None:
    state = MemoryState()
    where = address(-5, "group")
    async with made(telegram, state) as channel:
        telegram.fail("sendMessage", Refusal(400, "Bad Request: group chat was upgraded", migrate_to=-1005))
        await channel.deliver(where, outgoing("one"))
    async with made(telegram, state) as another:
        await another.deliver(where, outgoing("two"))
    assert [(shown.chat, shown.text) for shown in telegram.messages.values()] == [(-1005, "one"), (-1005, "two")]


async def test_a_message_is_edited_and_one_that_shows_it_already_is_done(
    telegram: FakeTelegram, channel: TelegramChannel
) -> None:
    sent = await channel.deliver(address(), outgoing("a"))
    assert await channel.edit(address(), sent.ref, outgoing("ab")) == sent
    assert await channel.edit(address(), sent.ref, outgoing("ab")) == sent
    assert telegram.visible == ["ab"]
    with pytest.raises(Permanent) as caught:
        await channel.edit(address(), 5, outgoing("x"))
    assert caught.value.reason == "message-gone"


async def test_an_edit_whose_end_is_not_known_can_be_made_again(
    telegram: FakeTelegram, channel: TelegramChannel
) -> None:
    sent = await channel.deliver(address(), outgoing("a"))
    telegram.fail("editMessageText", "cut after")
    with pytest.raises(RetryAfter):
        await channel.edit(address(), sent.ref, outgoing("ab"))


async def test_typing_is_shown_in_the_topic(telegram: FakeTelegram, channel: TelegramChannel) -> None:
    await channel.typing(address(topic=3), True)
    await channel.typing(address(topic=3), False)
    assert telegram.named("sendChatAction") == [{"chat_id": 7, "message_thread_id": 3, "action": "typing"}]


async def test_a_bot_that_is_not_in_the_settings_any_more_delivers_nothing(channel: TelegramChannel) -> None:
    with pytest.raises(Permanent, match="settings"):
        await channel.deliver(address() | {"bot": "gone"}, outgoing("x"))


def test_telegrams_limits_are_one_a_second_in_a_chat_twenty_a_minute_in_a_group_and_thirty_a_second_in_all(
    telegram: FakeTelegram,
) -> None:
    channel = made(telegram)
    assert channel.buckets(address()) == [Bucket("bot:bot", 30, 1.0), Bucket("chat:bot:7", 1, 1.0)]
    assert Bucket("group:bot:-5", 20, 60.0) in channel.buckets(address(-5, "supergroup"))


async def test_no_error_and_no_log_holds_the_token(telegram: FakeTelegram, caplog: pytest.LogCaptureFixture) -> None:
    secret = TOKEN.partition(":")[2]
    told = []
    with caplog.at_level(logging.DEBUG):
        async with made(telegram, call_timeout_s=0.3) as channel:
            for fault in ("cut before", "cut after", "hang", Refusal(500), Refusal(401), Refusal(400), Refusal(302)):
                telegram.fail("sendMessage", fault)  # type: ignore[arg-type]
                with pytest.raises(DeliveryError) as caught:
                    await channel.deliver(address(), outgoing("x"))
                told.append("".join(traceback.format_exception(caught.value)) + repr(caught.value))
            telegram.fail("sendChatAction", "cut before")
            with pytest.raises(Exception, match="connection") as other:
                await channel.typing(address(), True)
            told.append("".join(traceback.format_exception(other.value)))
        async with made(telegram, token=SecretStr(TOKEN)) as channel:
            told.append(repr(channel.__dict__))
    assert secret not in "".join(told)
    assert secret not in caplog.text
