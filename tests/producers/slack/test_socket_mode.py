"""Socket Mode: an envelope is acknowledged once its turns are confirmed, whatever happens to the connections."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sdqueue_producers import MemoryState, Receipt
from sdqueue_producers.slack import SlackChannel, SlackSettings, socket_mode

from sdqueue.errors import BrokerUnavailable, ConfigurationError
from tests.producers.ingress.front import served
from tests.producers.slack import payloads as p
from tests.producers.slack import server
from tests.producers.slack.server import FakeSlack
from tests.producers.slack.sockets import FakeSockets


class Inbox:
    """Takes receipts as the ingress does; may be told to wait, or to fail."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.fail = False
        self.came = asyncio.Event()
        self.begun = 0

    async def submit(self, receipt: Receipt) -> None:
        self.begun += 1
        self.came.set()
        await self.open.wait()
        if self.fail:
            raise BrokerUnavailable("the broker is away")
        self.texts.extend(turn.text for turn in receipt.turns)
        if receipt.after is not None:
            await receipt.after()


class World:
    def __init__(self, slack: FakeSlack, sockets: FakeSockets, channel: SlackChannel, inbox: Inbox) -> None:
        self.slack = slack
        self.sockets = sockets
        self.channel = channel
        self.inbox = inbox

    def listen(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.channel.listen(self.inbox.submit))


@asynccontextmanager
async def world_of(*, listening: bool = True, **given: object) -> AsyncIterator[World]:
    async with FakeSockets() as sockets, FakeSlack() as slack:
        slack.socket_url = sockets.url
        told = {"app_token": "xapp-1", "bot_token": "xoxb-1", "socket_connections": 1, "api_url": slack.url} | given
        async with SlackChannel(SlackSettings.load(**told), MemoryState()) as channel:
            world = World(slack, sockets, channel, Inbox())
            task = world.listen() if listening else None
            try:
                yield world
            finally:
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})
                    assert task.cancelled(), task.exception()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between two tries are short."""
    monkeypatch.setattr(socket_mode, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(socket_mode, "LONGEST_WAIT_S", 0.02)


async def test_an_event_is_acknowledged_when_its_turn_is_confirmed() -> None:
    async with world_of() as world:
        # Given a broker that has not confirmed yet
        await world.sockets.connected(1)
        world.inbox.open.clear()
        # When an event comes
        envelope = world.sockets.envelope(p.direct("hello"))
        await world.sockets.give(envelope)
        await world.inbox.came.wait()
        # Then nothing is acknowledged before the confirm, and it is after
        assert world.sockets.acknowledged == []
        world.inbox.open.set()
        await world.sockets.acks(envelope)
        assert world.inbox.texts == ["hello"]


async def test_an_event_without_a_confirm_is_not_acknowledged_and_comes_again() -> None:
    async with world_of() as world:
        await world.sockets.connected(1)
        # Given a broker that is away
        world.inbox.fail = True
        envelope = world.sockets.envelope(p.direct("hello"))
        await world.sockets.give(envelope)
        await world.inbox.came.wait()
        # When it is back, and Slack sends the event again with a later one
        world.inbox.fail = False
        later = world.sockets.envelope(p.direct("later", ts="1700000001.000100"))
        await world.sockets.give(later)
        await world.sockets.acks(later)
        assert world.sockets.acknowledged == [later["envelope_id"]]
        await world.sockets.give(envelope)
        await world.sockets.acks(envelope)
        assert world.inbox.texts == ["later", "hello"]


async def test_commands_come_by_the_same_way() -> None:
    async with world_of() as world:
        await world.sockets.connected(1)
        envelope = world.sockets.envelope(dict(p.command()), "slash_commands")
        await world.sockets.give(envelope)
        await world.sockets.acks(envelope)
        assert world.inbox.texts == ["what is #random for & why?"]


@pytest.mark.parametrize("kind", ["interactive", "something_new"])
async def test_other_envelopes_are_acknowledged_and_ignored(kind: str) -> None:
    async with world_of() as world:
        await world.sockets.connected(1)
        envelope = world.sockets.envelope({"type": "block_actions"}, kind)
        await world.sockets.give(envelope)
        await world.sockets.acks(envelope)
        assert world.inbox.texts == []


async def test_nonsense_ends_no_connection() -> None:
    async with world_of() as world:
        await world.sockets.connected(1)
        # Given messages and payloads that cannot be read
        for text in ("", "{", "[]", "5", '{"type": 5}', '{"type": "events_api"}', '{"envelope_id": 5, "payload": []}'):
            await world.sockets.connections[0].send_str(text)
        await world.sockets.connections[0].send_bytes(b"\xff")
        wrong = world.sockets.envelope(p.app_mention(ts="yesterday"))
        await world.sockets.give(wrong)
        # When a good one follows
        good = world.sockets.envelope(p.direct("hello"))
        await world.sockets.give(good)
        # Then it is taken over the same connection; what can never be a turn is acknowledged, or it would come for ever
        await world.sockets.acks(good, wrong)
        assert world.inbox.texts == ["hello"]
        assert len(world.sockets.connections) == 1


@pytest.mark.parametrize("reason", ["refresh_requested", "warning"])
async def test_a_connection_that_slack_ends_is_opened_anew(reason: str) -> None:
    async with world_of() as world:
        await world.sockets.connected(1)
        # Given an event that waits for its confirm while Slack ends the connection
        world.inbox.open.clear()
        envelope = world.sockets.envelope(p.direct("hello"))
        await world.sockets.give(envelope)
        await world.inbox.came.wait()
        await world.sockets.disconnect(reason=reason)
        # When the confirm comes
        world.inbox.open.set()
        # Then it is still acknowledged, and a new connection is there, with a ticket of its own
        await world.sockets.acks(envelope)
        await world.sockets.connected(2)
        assert len(set(world.sockets.tickets)) == 2
        again = world.sockets.envelope(p.direct("again"))
        await world.sockets.give(again)
        await world.sockets.acks(again)


async def test_a_connection_that_breaks_is_opened_anew() -> None:
    async with world_of() as world:
        await world.sockets.connected(1)
        world.inbox.open.clear()
        envelope = world.sockets.envelope(p.direct("hello"))
        await world.sockets.give(envelope)
        await world.inbox.came.wait()
        await world.sockets.cut()
        world.inbox.open.set()
        await world.sockets.connected(2)
        await world.sockets.give(envelope)  # it could not be acknowledged, so Slack sends it again
        await world.sockets.acks(envelope)


async def test_a_connection_outlives_the_limit_of_a_call() -> None:
    async with world_of(api_timeout_s=0.2) as world:
        await world.sockets.connected(1)
        envelope = world.sockets.envelope(p.direct("hello"))
        await world.sockets.give(envelope)
        await world.sockets.acks(envelope)
        made = len(world.sockets.connections)
        await asyncio.sleep(0.5)  # the limit must have passed; there is no event to wait for
        envelope = world.sockets.envelope(p.direct("hello again", ts="1700000001.000100"))
        await world.sockets.give(envelope)
        await world.sockets.acks(envelope)
        assert len(world.sockets.connections) == made


async def test_several_connections_are_opened() -> None:
    async with world_of(socket_connections=3) as world:
        await world.sockets.connected(3)
        envelopes = [world.sockets.envelope(p.direct(f"{n}")) for n in range(3)]
        for connection, envelope in enumerate(envelopes):
            await world.sockets.give(envelope, connection)
        await world.sockets.acks(*envelopes)
        assert sorted(world.inbox.texts) == ["0", "1", "2"]
        # When Slack ends one, the others go on meanwhile
        await world.sockets.disconnect(0)
        await world.sockets.connected(4)


async def test_the_order_of_a_connection_is_kept() -> None:
    async with world_of() as world:
        await world.sockets.connected(1)
        envelopes = [world.sockets.envelope(p.direct(f"{n}", ts=f"1700000000.{n:06}")) for n in range(50)]
        for envelope in envelopes:
            await world.sockets.give(envelope)
        await world.sockets.acks(*envelopes)
        assert world.inbox.texts == [f"{n}" for n in range(50)]


async def test_events_wait_for_their_confirms_together_and_not_without_bound() -> None:
    async with world_of() as world:
        world.inbox.open.clear()
        await world.sockets.connected(1)
        envelopes = [world.sockets.envelope(p.direct(f"{n}")) for n in range(socket_mode.AT_ONCE + 20)]
        for envelope in envelopes:
            await world.sockets.give(envelope)
        async with asyncio.timeout(30):
            while world.inbox.begun < socket_mode.AT_ONCE:
                await asyncio.sleep(0.01)
        for _ in range(10):
            await asyncio.sleep(0.01)  # time in which more would begin, if there were no bound
        assert world.inbox.begun == socket_mode.AT_ONCE
        world.inbox.open.set()
        await world.sockets.acks(*envelopes)


# Connecting


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    "fault",
    [
        server.limited(30),
        server.refused("ratelimited"),
        server.refused("internal_error"),
        server.broken(500),
        server.cut(late=False),
        server.Fault(raw="[]"),
        server.Fault(raw=""),
    ],
)
async def test_a_slack_that_is_out_of_order_is_asked_again(
    fault: server.Fault, caplog: pytest.LogCaptureFixture
) -> None:
    async with world_of(listening=False) as world:
        world.slack.fail("apps.connections.open", fault, times=2)
        task = world.listen()
        await world.sockets.connected(1)
        assert world.slack.methods() == ["apps.connections.open"] * 3
        task.cancel()
        await asyncio.wait({task})
    assert "tried again" in caplog.text
    assert "xapp" not in caplog.text


@pytest.mark.usefixtures("soon")
async def test_a_socket_that_is_not_there_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with world_of(listening=False) as world:
        good = world.slack.socket_url
        world.slack.socket_url = "ws://127.0.0.1:1/link"
        task = world.listen()
        await world.slack.called("apps.connections.open", 3)
        world.slack.socket_url = good
        await world.sockets.connected(1)
        task.cancel()
        await asyncio.wait({task})
    assert "ticket" not in caplog.text


@pytest.mark.parametrize("error", ["invalid_auth", "missing_scope", "socket_mode_not_enabled"])
async def test_what_can_never_work_ends_with_a_reason(error: str) -> None:
    async with world_of(listening=False) as world:
        world.slack.fail("apps.connections.open", server.refused(error), times=10)
        with pytest.raises(ConfigurationError, match=f"{error}.*SDQUEUE_SLACK_APP_TOKEN"):
            await world.channel.listen(world.inbox.submit)


async def test_a_wrong_token_is_told_without_the_token() -> None:
    async with world_of(listening=False, app_token="xapp-secret", socket_connections=3) as world:
        with pytest.raises(ConfigurationError, match="invalid_auth") as error:
            await world.channel.listen(world.inbox.submit)
        assert "xapp-secret" not in str(error.value)


async def test_a_slack_that_greets_nobody_is_not_asked_as_fast_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(socket_mode.asyncio, "sleep", noted)
    async with world_of(listening=False) as world:
        world.sockets.greet = False
        task = world.listen()
        for times in range(1, 6):
            await world.sockets.connected(times)
            await world.sockets.disconnect(times - 1, "too_many_websockets")
        await world.sockets.connected(6)
        task.cancel()
        await asyncio.wait({task})
    assert waits[4] > 2 * waits[0]


async def test_without_an_app_token_nothing_listens() -> None:
    async with world_of(listening=False, app_token="", signing_secret="x") as world:
        await world.channel.listen(world.inbox.submit)
        assert world.slack.methods() == []


# With the ingress


async def test_everything_twice_to_four_times_out_of_order_over_breaking_connections_is_each_turn_once() -> None:
    # Given an ingress, and Slack with 60 messages of six people, each delivered two to four times
    chance = random.Random(7)
    async with FakeSockets() as sockets, FakeSlack() as slack:
        slack.socket_url = sockets.url
        settings = SlackSettings.load(app_token="xapp-1", bot_token="xoxb-1", socket_connections=3, api_url=slack.url)
        state = MemoryState()
        async with SlackChannel(settings, state) as channel, served(channel, state=state) as front:
            await sockets.connected(3)
            texts = {f"D{person}:{n}" for person in range(6) for n in range(10)}
            copies = [
                sockets.envelope(
                    p.direct(text, channel=text[:2], ts=f"17000000{text[1]}{text[3]}.000100", client_msg_id=None)
                )
                for text in texts
                for _ in range(chance.randint(2, 4))
            ]
            chance.shuffle(copies)
            # When they come over connections that are ended and cut meanwhile
            for number, envelope in enumerate(copies):
                live = [n for n, one in enumerate(sockets.connections) if not one.closed]
                connection = chance.choice(live)
                try:
                    await sockets.give(envelope, connection)
                except ConnectionError:
                    continue  # Slack gives it again, below
                if number % 25 == 24:
                    made = len(sockets.connections)
                    await (sockets.cut if number % 50 == 24 else sockets.disconnect)(connection)
                    await sockets.connected(made + 1)
            for envelope in copies:  # what was not acknowledged is given again
                if envelope["envelope_id"] not in sockets.acknowledged:
                    await sockets.give(envelope)
            await sockets.acks(*copies)
            # Then each is acknowledged, and each turn was published once
            assert sorted(turn.text for turn in await front.got(60)) == sorted(texts)
            assert len(front.seen.of("turn_published")) == 60
            assert front.seen.of("listener_failed") == []


async def test_a_listener_that_fails_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with FakeSlack() as slack:
            settings = SlackSettings.load(app_token="xapp-wrong", bot_token="xoxb-1", api_url=slack.url)
            async with SlackChannel(settings, MemoryState()) as channel, served(channel) as front:
                async with asyncio.timeout(30):
                    while not front.seen.of("listener_failed"):
                        await asyncio.sleep(0.01)
                [failed, *_] = front.seen.of("listener_failed")
    assert "SDQUEUE_SLACK_APP_TOKEN" in failed["error"]
    assert "xapp-wrong" not in failed["error"]
