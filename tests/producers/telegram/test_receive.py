"""What Telegram posts: which of it becomes a turn, and what a stranger is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sdqueue_producers import Receipt
from sdqueue_producers.telegram import TelegramChannel, TelegramSettings

from sdqueue.errors import ConfigurationError
from tests.producers.telegram.conftest import SECRET, made, post
from tests.producers.telegram.server import TOKEN, USERNAME, FakeTelegram, Refusal, message

GROUP: dict[str, Any] = {"chat": -100, "kind": "supergroup"}


def detail(receipt: Receipt) -> str:
    return str(json.loads(bytes(receipt.on_ok.body))["detail"])


async def test_a_message_in_a_chat_is_a_turn_named_by_its_update(channel: TelegramChannel) -> None:
    receipt = await channel.receive(post(message(55, "hi there")))
    (turn,) = receipt.turns
    assert (turn.id, turn.session_id, turn.text) == ("telegram:bot:55", "telegram:bot:7", "hi there")
    assert (turn.channel, turn.sender, turn.stream) == ("telegram", "7", True)
    assert turn.address == {"bot": "bot", "chat": 7, "type": "private", "topic": None, "message": 155}
    assert turn.metadata["telegram"]["user"]["language_code"] == "en"  # type: ignore[index,call-overload]
    assert turn.created_at is not None
    assert turn.created_at.timestamp() == 1_750_000_055


async def test_the_same_update_posted_again_has_the_same_turn_id(channel: TelegramChannel) -> None:
    first, second = [await channel.receive(post(message(9))) for _ in range(2)]
    assert first.turns == second.turns


async def test_a_topic_is_a_session_of_its_own_and_a_thread_of_replies_is_not(channel: TelegramChannel) -> None:
    topic = message(1, "/ask x", **GROUP, message_thread_id=33, is_topic_message=True,
                    entities=[{"type": "bot_command", "offset": 0, "length": 4}])  # fmt: skip
    thread = message(2, "/ask x", **GROUP, message_thread_id=44,
                     entities=[{"type": "bot_command", "offset": 0, "length": 4}])  # fmt: skip
    (one,) = (await channel.receive(post(topic))).turns
    (two,) = (await channel.receive(post(thread))).turns
    assert one.session_id == "telegram:bot:-100:33"
    assert one.address["topic"] == 33
    assert two.session_id == "telegram:bot:-100"


FILES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"photo": [{"file_id": "small", "file_size": 9}, {"file_id": "big", "file_unique_id": "u", "file_size": 99}]},
        {"kind": "photo", "id": "big", "unique_id": "u", "size": 99},
    ),
    (
        {"document": {"file_id": "d", "file_name": "a.pdf", "mime_type": "application/pdf", "file_size": 5}},
        {"kind": "document", "id": "d", "name": "a.pdf", "type": "application/pdf", "size": 5},
    ),
    ({"voice": {"file_id": "v", "duration": 3}}, {"kind": "voice", "id": "v"}),
    ({"sticker": {"file_id": "s", "emoji": "🙂"}}, {"kind": "sticker", "id": "s"}),
    ({"location": {"latitude": 1.5, "longitude": 2.5}}, {"kind": "location", "latitude": 1.5, "longitude": 2.5}),
]


@pytest.mark.parametrize(("said", "attachment"), FILES)
async def test_files_travel_as_ids_in_the_metadata(
    channel: TelegramChannel, said: dict[str, Any], attachment: dict[str, Any]
) -> None:
    (turn,) = (await channel.receive(post(message(1, None, **said, caption="look")))).turns
    assert turn.text == "look"
    assert turn.metadata["telegram"]["attachments"] == [attachment]  # type: ignore[index,call-overload]
    assert TOKEN not in turn.to_bytes().decode()


async def test_a_message_that_is_nothing_but_files_says_which(channel: TelegramChannel) -> None:
    """Models take no empty message."""
    document = {"file_id": "d", "file_name": "report.pdf"}
    (turn,) = (await channel.receive(post(message(1, None, document=document)))).turns
    assert turn.text == "[report.pdf]"
    (turn,) = (await channel.receive(post(message(2, None, voice={"file_id": "v"})))).turns
    assert turn.text == "[voice]"


async def test_a_moving_picture_is_one_attachment(channel: TelegramChannel) -> None:
    said = message(1, None, animation={"file_id": "a"}, document={"file_id": "a"})
    (turn,) = (await channel.receive(post(said))).turns
    assert turn.metadata["telegram"]["attachments"] == [{"kind": "animation", "id": "a"}]  # type: ignore[index,call-overload]


NOTHING_FOR_US: dict[str, dict[str, Any]] = {
    "an edited message": {"update_id": 1, "edited_message": message(1)["message"]},
    "a post in a channel": {"update_id": 1, "channel_post": message(1, kind="channel")["message"]},
    "a button": {"update_id": 1, "callback_query": {"id": "x", "data": "y"}},
    "a kind of tomorrow": {"update_id": 1, "quantum_message": {}},
    "a bot's message": message(1, **{"from": {"id": 8, "is_bot": True, "first_name": "B"}}),
    "a new member": message(1, None, new_chat_members=[{"id": 1}]),
    "a group that has moved": message(1, None, migrate_to_chat_id=-5),
    "a forward of a channel": message(1, is_automatic_forward=True),
    "a message of nobody": message(1, **{"from": None}),
}


@pytest.mark.parametrize("update", NOTHING_FOR_US.values(), ids=NOTHING_FOR_US.keys())
async def test_what_no_person_has_said_is_taken_and_is_no_turn(
    channel: TelegramChannel, update: dict[str, Any]
) -> None:
    receipt = await channel.receive(post(update))
    assert receipt.turns == ()
    assert receipt.on_ok.status_code == 200


def mention(at: int = 0) -> list[dict[str, Any]]:
    return [{"type": "mention", "offset": at, "length": len(f"@{USERNAME}")}]


IN_GROUPS: dict[str, tuple[dict[str, Any], str | None]] = {
    "talk": (message(1, "hello all", **GROUP), None),
    "a mention": (message(1, f"@{USERNAME}, hello", **GROUP, entities=mention()), "hello"),
    "a mention in capitals": (message(1, f"@{USERNAME.upper()} hello", **GROUP, entities=mention()), "hello"),
    "a mention behind an emoji": (
        message(1, f"🙂 @{USERNAME}", **GROUP, entities=mention(3)),
        f"🙂 @{USERNAME}",
    ),
    "a mention of another": (
        message(1, "@other hello", **GROUP, entities=[{"type": "mention", "offset": 0, "length": 6}]),
        None,
    ),
    "a mention without a name": (
        message(1, "Bot hello", **GROUP,
                entities=[{"type": "text_mention", "offset": 0, "length": 3, "user": {"id": 4242}}]),
        "Bot hello",
    ),
    "a reply to the bot": (message(1, "yes", **GROUP, reply_to_message={"from": {"id": 4242}}), "yes"),
    "a reply to another": (message(1, "yes", **GROUP, reply_to_message={"from": {"id": 9}}), None),
    "a command": (
        message(1, "/ask it", **GROUP, entities=[{"type": "bot_command", "offset": 0, "length": 4}]),
        "/ask it",
    ),
    "a command for the bot": (
        message(1, f"/ask@{USERNAME} it", **GROUP,
                entities=[{"type": "bot_command", "offset": 0, "length": 5 + len(USERNAME)}]),
        "/ask it",
    ),
    "a command for another": (
        message(1, "/ask@other it", **GROUP, entities=[{"type": "bot_command", "offset": 0, "length": 10}]),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("update", "text"), IN_GROUPS.values(), ids=IN_GROUPS.keys())
async def test_in_groups_only_what_is_meant_for_the_bot_is_answered(
    channel: TelegramChannel, update: dict[str, Any], text: str | None
) -> None:
    receipt = await channel.receive(post(update))
    assert [turn.text for turn in receipt.turns] == ([] if text is None else [text])
    assert not any(turn.stream for turn in receipt.turns)


async def test_groups_can_be_answered_always_or_never(telegram: FakeTelegram) -> None:
    for groups, count in (("all", 1), ("none", 0)):
        async with made(telegram, groups=groups) as channel:
            assert len((await channel.receive(post(message(1, "talk", **GROUP)))).turns) == count


async def test_while_the_bots_name_cannot_be_asked_for_telegram_is_to_send_again(
    telegram: FakeTelegram, channel: TelegramChannel
) -> None:
    telegram.fail("getMe", Refusal(500))
    receipt = await channel.receive(post(message(1, "/x", **GROUP)))
    assert receipt.turns == ()
    assert receipt.on_ok.status_code == 503
    assert len((await channel.receive(post(message(1, "x", chat=7)))).turns) == 1


BAD: dict[str, tuple[Any, int]] = {
    "no JSON": (b"{", 400),
    "half a character": (b'{"update_id": 1, "message": "\\ud800"}', 400),
    "not UTF-8": (b'{"a": "\xff"}', 400),
    "nested without end": (b"[" * 100_000, 400),
    "an array": ([], 400),
    "no id": ({"message": {}}, 400),
    "a text as id": ({"update_id": "1"}, 400),
    "true as id": ({"update_id": True}, 400),
    "an id below zero": ({"update_id": -1}, 400),
    "a text as message": ({"update_id": 1, "message": "x"}, 400),
    "no chat": ({"update_id": 1, "message": {}}, 400),
    "a chat without id": ({"update_id": 1, "message": {"chat": {"type": "private"}}}, 400),
    "a sender that is a list": (message(1, **{"from": [1]}), 400),
    "a text that is a number": (message(1) | {"message": message(1)["message"] | {"text": 5}}, 400),
    "a text with NUL": (message(1, "a\0b"), 400),
    "an endless chat id": (message(1, chat=10**400), 400),
}


@pytest.mark.parametrize(("body", "status"), BAD.values(), ids=BAD.keys())
async def test_bad_bodies_get_a_reason_and_are_no_turn(channel: TelegramChannel, body: Any, status: int) -> None:
    receipt = await channel.receive(post(body))
    assert receipt.turns == ()
    assert receipt.on_ok.status_code == status
    assert detail(receipt)


async def test_only_who_knows_the_secret_may_post(channel: TelegramChannel) -> None:
    for secret in (None, "", "wrong", SECRET[:-1], SECRET + "x", "s\u00e9cret", "\ud800"):
        receipt = await channel.receive(post(message(1), secret=secret))
        assert receipt.turns == ()
        assert receipt.on_ok.status_code == 401
        assert SECRET not in detail(receipt)
    assert (await channel.receive(post(message(1), bot="other"))).on_ok.status_code == 404
    assert (await channel.receive(post(message(1), content_type="text/plain"))).on_ok.status_code == 415


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.dictionaries(
        st.sampled_from(
            [
                "from",
                "chat",
                "text",
                "caption",
                "entities",
                "reply_to_message",
                "photo",
                "document",
                "location",
                "message_thread_id",
                "is_topic_message",
                "message_id",
                "date",
                "sticker",
                "contact",
                "animation",
            ]
        ),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=5)
            | st.sampled_from(["bot_command", "mention", "private"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["id", "type", "offset", "length", "user", "from", "file_id"]), inner)
            ),
            max_leaves=8,
        ),
        max_size=6,
    ),
    kind=st.sampled_from(["private", "supergroup"]),
)
async def test_whatever_stands_in_a_message_there_is_a_turn_or_a_reason(
    channel: TelegramChannel, parts: dict[str, Any], kind: str
) -> None:
    update = message(1, kind=kind)
    update["message"] |= parts
    receipt = await channel.receive(post(update))
    assert receipt.on_ok.status_code in (200, 400)


async def test_settings_that_cannot_work_say_so_without_showing_them() -> None:
    good = {"token": SecretStr(TOKEN), "secret_token": SecretStr(SECRET)}
    for wrong, word in (
        ({"token": SecretStr("")}, "no bot"),
        ({"token": SecretStr("nonsense-nonsense")}, "BotFather"),
        ({"secret_token": SecretStr("")}, "SECRET_TOKEN"),
        ({"secret_token": SecretStr("short")}, "16 to 256"),
        ({"tokens": {"Bad Name": SecretStr(TOKEN)}}, "name"),
        ({"tokens": {"again": SecretStr(TOKEN)}}, "same token"),
        ({"api_url": "ftp://x"}, "api_url"),
        ({"mode": "smoke"}, "MODE"),
    ):
        with pytest.raises(ConfigurationError, match=f"(?i){word}") as caught:
            TelegramSettings.load(**(good | wrong))  # type: ignore[arg-type]
        assert "nonsense" not in str(caught.value)
        assert TOKEN not in str(caught.value)
