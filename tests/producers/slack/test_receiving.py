"""What Slack's events become."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from sdqueue_producers import MemoryState, Receipt
from sdqueue_producers.slack.events import Events
from sdqueue_producers.slack.installations import Installation, StateInstallations
from sdqueue_producers.slack.threads import Threads

from tests.producers.slack import payloads as p


class Receiver:
    """Events as they come to one bot; ``take`` does what the ingress does with the receipts."""

    def __init__(self, *, stream: bool = True, follow_threads: bool = True) -> None:
        self.now = 1_700_000_100.0
        self.state = MemoryState(clock=lambda: self.now)
        self.installations = StateInstallations(self.state)
        self.events = Events(
            Threads(self.state, 3600.0), self.installations, stream=stream, follow_threads=follow_threads
        )

    async def take(self, payload: p.Payload) -> Receipt:
        receipt = await self.events.read(payload)
        if receipt.after is not None:
            await receipt.after()
        return receipt


@pytest.fixture
def bot() -> Receiver:
    return Receiver()


async def test_a_mention_is_a_turn_of_its_thread(bot: Receiver) -> None:
    # Given a message in a channel that names the bot
    # When it comes
    [turn] = (await bot.take(p.app_mention(f"<@{p.BOT}> what's up?"))).turns
    # Then its session is the thread that it begins, and the answer goes there
    assert turn.id == "slack:T1:C1:1700000000.000100"
    assert turn.session_id == "slack:T1:C1:1700000000.000100"
    assert turn.text == "what's up?"
    assert turn.channel == "slack"
    assert turn.sender == "T1:U1"
    assert turn.stream
    assert turn.created_at is not None
    assert turn.created_at.timestamp() == pytest.approx(1_700_000_000.0001)
    assert turn.address == {
        "install": "T1", "channel": "C1", "thread_ts": "1700000000.000100", "ts": "1700000000.000100",
        "assistant": False, "user": "U1", "recipient_team": "T1",
    }  # fmt: skip
    assert turn.metadata["slack"] == {
        "team": "T1", "install": "T1", "channel": "C1", "user": "U1", "user_team": "T1", "ts": "1700000000.000100",
        "thread_ts": None, "event": "app_mention", "event_id": "Ev1",
    }  # fmt: skip


async def test_a_bare_mention_is_no_empty_text(bot: Receiver) -> None:
    """Models take none."""
    [turn] = (await bot.take(p.app_mention(f" <@{p.BOT}> "))).turns
    assert turn.text == f"@{p.BOT}"


@pytest.mark.parametrize("order", [("app_mention", "message"), ("message", "app_mention")])
async def test_both_events_of_one_message_make_the_same_turn(bot: Receiver, order: tuple[str, ...]) -> None:
    # Given a message that names the bot, which comes as two events in any order
    text = f"hey <@{p.BOT}> look"
    events = {"app_mention": p.app_mention(text), "message": p.message(text, envelope={"event_id": "Ev2"})}
    # When both come
    turns = [turn for kind in order for turn in (await bot.take(events[kind])).turns]
    # Then they are one turn twice
    assert len(turns) == 2
    assert len({turn.id for turn in turns}) == 1
    assert len({(turn.session_id, turn.text) for turn in turns}) == 1


async def test_a_message_that_is_not_for_the_bot_claims_no_id(bot: Receiver) -> None:
    # Given a message without a mention
    receipt = await bot.take(p.message("just talking"))
    assert (receipt.turns, receipt.aliases, receipt.reason) == ((), (), "not-for-the-bot")
    # When a mention of the bot is added to it later, which comes under the same timestamp
    edited = await bot.take(p.app_mention(edited={"user": "U1", "ts": "1700000009.000000"}))
    # Then that is a turn
    assert len(edited.turns) == 1


async def test_a_message_has_its_client_id_as_a_second_name(bot: Receiver) -> None:
    first = await bot.take(p.direct(ts="1700000000.000100"))
    again = await bot.take(p.direct(ts="1700000002.000300"))
    assert first.turns[0].id != again.turns[0].id
    assert first.aliases == again.aliases == ("slack:T1:11111111-2222-4333-8444-555555555555",)


async def test_direct_messages_are_one_session_and_threads_of_them_are_their_own(bot: Receiver) -> None:
    [plain] = (await bot.take(p.direct("hi"))).turns
    [later] = (await bot.take(p.direct("again", ts="1700000005.000100"))).turns
    [threaded] = (await bot.take(p.direct("aside", ts="1700000006.000100", thread_ts="1700000000.000100"))).turns
    assert plain.session_id == later.session_id == "slack:T1:D1"
    assert plain.address["thread_ts"] is None
    assert plain.address["ts"] == "1700000000.000100"
    assert threaded.session_id == "slack:T1:D1:1700000000.000100"
    assert threaded.address["thread_ts"] == "1700000000.000100"


async def test_a_group_of_people_with_the_bot_needs_no_mention(bot: Receiver) -> None:
    [turn] = (await bot.take(p.group_direct("anyone?"))).turns
    [same] = (await bot.take(p.app_mention("anyone?", channel="G1"))).turns
    assert turn.session_id == same.session_id == "slack:T1:G1:1700000000.000100"


async def test_a_thread_in_which_the_bot_was_named_is_followed(bot: Receiver) -> None:
    # Given a thread in which nobody has named the bot
    assert (await bot.take(p.thread_reply())).reason == "not-for-the-bot"
    # When somebody does
    named = await bot.take(p.app_mention(ts="1700000000.500000", thread_ts="1699999999.000100"))
    # Then what is said there afterwards is for the bot, in the same session
    followed = await bot.take(p.thread_reply(ts="1700000002.000100"))
    assert [turn.session_id for turn in (*named.turns, *followed.turns)] == ["slack:T1:C1:1699999999.000100"] * 2
    # But not what is said in another thread, nor in another channel under the same timestamp
    assert not (await bot.take(p.thread_reply(thread_ts="1699999998.000100"))).turns
    assert not (await bot.take(p.thread_reply(channel="C2"))).turns


async def test_a_thread_that_a_mention_has_begun_is_followed_until_it_is_forgotten(bot: Receiver) -> None:
    await bot.take(p.app_mention(ts="1699999999.000100"))
    assert (await bot.take(p.thread_reply())).turns
    bot.now += 3599
    assert (await bot.take(p.thread_reply(ts="1700000002.000100"))).turns  # which prolongs it
    bot.now += 3599
    assert (await bot.take(p.thread_reply(ts="1700000003.000100"))).turns
    bot.now += 3601
    assert not (await bot.take(p.thread_reply(ts="1700000004.000100"))).turns


async def test_a_thread_under_a_message_of_the_bot_is_followed(bot: Receiver) -> None:
    assert (await bot.take(p.thread_reply(parent_user_id=p.BOT))).turns


async def test_threads_are_not_followed_where_that_is_switched_off() -> None:
    bot = Receiver(follow_threads=False)
    await bot.take(p.app_mention(ts="1699999999.000100"))
    assert not (await bot.take(p.thread_reply())).turns
    assert (await bot.take(p.thread_reply(f"<@{p.BOT}> and now?"))).turns


async def test_deltas_are_asked_for_as_set() -> None:
    [turn] = (await Receiver(stream=False).take(p.direct())).turns
    assert not turn.stream


async def test_nothing_is_remembered_before_the_turn_is_confirmed(bot: Receiver) -> None:
    # Given a mention whose turn was never confirmed, so that nothing was run after it
    receipt = await bot.events.read(p.app_mention(ts="1699999999.000100"))
    assert receipt.turns
    # Then the thread is not followed
    assert not (await bot.take(p.thread_reply())).turns


# What is kept, and what is dropped


async def test_files_are_named_in_the_metadata(bot: Receiver) -> None:
    [turn] = (await bot.take(p.file_share())).turns
    assert turn.text == "see this"
    assert turn.metadata["attachments"] == [
        {
            "id": "F1",
            "name": "report.pdf",
            "mimetype": "application/pdf",
            "size": 12345,
            "url": "https://files.slack.com/files-pri/T1-F1/report.pdf",
        }
    ]
    assert "publicsecret" not in turn.to_bytes().decode()


async def test_a_message_of_files_alone_says_which(bot: Receiver) -> None:
    [turn] = (await bot.take(p.file_share(text=""))).turns
    assert turn.text == "[report.pdf]"


async def test_a_file_of_which_only_the_id_is_known_is_kept(bot: Receiver) -> None:
    [turn] = (await bot.take(p.connect_file())).turns
    assert turn.metadata["attachments"] == [{"id": "F2", "name": None, "mimetype": None, "size": None, "url": None}]


async def test_a_reply_that_is_also_sent_to_the_channel_is_kept(bot: Receiver) -> None:
    [turn] = (await bot.take(p.thread_broadcast())).turns
    assert (turn.text, turn.session_id) == ("to all", "slack:T1:C1:1699999999.000100")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (p.bot_message(), "message-of-a-bot"),
        (p.bot_message(channel="D1", channel_type="im"), "message-of-a-bot"),
        (p.own_message(), "message-of-a-bot"),
        (p.direct(user=p.BOT), "message-of-a-bot"),
        (p.app_mention(bot_id="B9"), "message-of-a-bot"),
        (p.direct(user="USLACKBOT"), "not-said-by-a-person"),
        (p.message_changed(), "not-said-by-a-person"),
        (p.message_deleted(), "not-said-by-a-person"),
        *((p.happened(subtype), "not-said-by-a-person") for subtype in p.HAPPENED),
        (p.event_callback({"type": "reaction_added", "user": "U1"}), "event-unknown"),
        (p.event_callback({"type": "app_home_opened"}), "event-unknown"),
        ({"type": "something_new"}, "payload-unknown"),
        ({}, "payload-unknown"),
        (p.tokens_revoked(oauth=["U1"]), "event-unknown"),
    ],
)
async def test_what_no_person_has_said_makes_no_turn(bot: Receiver, payload: p.Payload, reason: str) -> None:
    receipt = await bot.take(payload)
    assert (receipt.turns, receipt.on_ok.status_code, receipt.reason) == ((), 200, reason)


# Assistants


async def test_an_assistant_thread_is_known_with_what_the_person_looks_at(bot: Receiver) -> None:
    # Given an assistant thread that was opened beside a channel
    assert (await bot.take(p.assistant_thread())).turns == ()
    # When something is said in it
    said = p.direct("summarise", thread_ts="1699999000.000100")
    [turn] = (await bot.take(said)).turns
    # Then the turn says so, so that a status can be shown
    assert turn.address["assistant"] is True
    assert turn.session_id == "slack:T1:D1:1699999000.000100"
    assert turn.metadata["slack"]["context"] == {"channel_id": "C7", "team_id": "T1"}
    # And when the person goes on to another channel, the next turn says that
    await bot.take(p.assistant_thread("assistant_thread_context_changed", {"channel_id": "C8", "team_id": "T1"}))
    [turn] = (await bot.take(said)).turns
    assert turn.metadata["slack"]["context"]["channel_id"] == "C8"
    # And an assistant that looks at nothing is one as well
    await bot.take(p.assistant_thread(context={}))
    [turn] = (await bot.take(said)).turns
    assert turn.address["assistant"] is True
    assert "context" not in turn.metadata["slack"]


async def test_an_assistant_thread_is_told_by_its_message_where_its_begin_was_missed(bot: Receiver) -> None:
    said = p.direct(thread_ts="1699999000.000100", assistant_thread={"action_token": "secret-token"})
    [turn] = (await bot.take(said)).turns
    assert turn.address["assistant"] is True
    assert "secret-token" not in turn.to_bytes().decode()
    [plain] = (await bot.take(p.direct(thread_ts="1699999001.000100"))).turns
    assert plain.address["assistant"] is False


# Workspaces


async def test_a_shared_channel_belongs_to_the_workspace_of_the_bot(bot: Receiver) -> None:
    [turn] = (await bot.take(p.shared_channel())).turns
    assert turn.address["install"] == "T1"
    assert turn.address["recipient_team"] == "T2"
    assert turn.session_id.startswith("slack:T1:C1:")
    assert turn.id == "slack:T2:C1:1700000000.000100"
    assert turn.sender == "T2:U2"


async def test_an_organisation_is_one_installation(bot: Receiver) -> None:
    [turn] = (await bot.take(p.organisation())).turns
    assert turn.address["install"] == "E1"
    assert turn.session_id.startswith("slack:E1:C1:")
    assert turn.sender == "T1:U1"


@pytest.mark.parametrize("payload", [p.app_uninstalled(), p.tokens_revoked(bot=[p.BOT])])
async def test_an_installation_that_is_gone_is_forgotten(
    bot: Receiver, payload: p.Payload, caplog: pytest.LogCaptureFixture
) -> None:
    await bot.installations.save(Installation("T1", "xoxb-secret", installed_at=1_699_999_000.0))
    await bot.installations.save(Installation("T2", "xoxb-other", installed_at=1_699_999_000.0))
    with caplog.at_level(logging.WARNING):
        receipt = await bot.take(payload)
    assert receipt.turns == ()
    assert await bot.installations.find("T1") is None
    assert await bot.installations.find("T2") is not None
    assert "T1 is gone" in caplog.text
    assert "xoxb" not in caplog.text


async def test_late_news_of_an_end_leave_what_was_installed_since(bot: Receiver) -> None:
    # Given the app was removed, and installed again, before Slack delivers the first
    await bot.installations.save(Installation("T1", "xoxb-new", installed_at=1_700_000_050.0))
    # When it does
    await bot.take(p.app_uninstalled(event_time=1_700_000_000))
    # Then the new token stays
    assert await bot.installations.find("T1") is not None


async def test_an_organisation_that_removes_the_app_is_forgotten(bot: Receiver) -> None:
    await bot.installations.save(Installation("E1", "xoxb-e"))
    await bot.take(p.app_uninstalled(team_id=None, enterprise_id="E1", is_enterprise_install=True))
    assert await bot.installations.find("E1") is None


async def test_held_back_events_are_logged(bot: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        receipt = await bot.take(p.app_rate_limited())
    assert receipt.reason == "app-rate-limited"
    assert "held back events of workspace T1" in caplog.text


# Wrong shapes


def _without(name: str, make: Callable[[], p.Payload] = p.app_mention) -> p.Payload:
    payload = make()
    del payload["event"][name]
    return payload


@pytest.mark.parametrize(
    "payload",
    [
        p.event_callback([]),  # type: ignore[arg-type]
        p.event_callback({}),
        p.event_callback({"type": 5}),
        _without("ts"),
        _without("channel"),
        p.app_mention(ts=1700000000.0001),
        p.app_mention(ts="yesterday"),
        p.app_mention(ts="999999999999.1"),
        p.app_mention(thread_ts=5),
        p.app_mention(channel={"id": "C1"}),
        p.app_mention(channel="C" * 300),
        p.app_mention(channel="C1:T2"),
        p.app_mention(user=["U1"]),
        p.app_mention(text=["a"]),
        p.app_mention(text="x" * 300_000),
        p.app_mention(client_msg_id={}),
        p.message(subtype=5),
        p.app_mention(envelope={"authorizations": "T1"}),
        p.app_mention(envelope={"authorizations": [5]}),
        p.app_mention(envelope={"authorizations": [{}]}),
        p.app_mention(envelope={"authorizations": [{"team_id": "a\nb"}]}),
        p.app_mention(envelope={"team_id": None, "authorizations": None}),
        p.assistant_thread(context=[]),  # type: ignore[arg-type]
        p.event_callback({"type": "assistant_thread_started"}),
        p.event_callback({"type": "tokens_revoked", "tokens": "all"}),
    ],
)
async def test_wrong_shapes_are_refused_with_a_reason(bot: Receiver, payload: p.Payload) -> None:
    receipt = await bot.take(payload)
    assert (receipt.turns, receipt.on_ok.status_code) == ((), 400)
    assert receipt.reason in ("payload-malformed", "turn-invalid")


@pytest.mark.parametrize(
    "files", [5, [5], [{"id": 5}], [{"name": "x"}], {"id": "F1"}, None, [{"id": "F1", "size": -1, "name": 7}] * 100]
)
async def test_wrong_files_do_not_cost_the_message(bot: Receiver, files: object) -> None:
    [turn] = (await bot.take(p.direct("see", files=files))).turns
    assert turn.text == "see"
    assert len(turn.metadata.get("attachments", [])) <= 50


async def test_text_that_no_text_can_hold_is_cleaned(bot: Receiver) -> None:
    [turn] = (await bot.take(p.direct("a\x00b \ud83d c \ud83d\ude00"))).turns
    assert turn.text == "ab � c 😀"
    assert turn.to_bytes()
