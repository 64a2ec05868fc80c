"""Slack in front of the real ingress: what is answered, published and remembered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import httpx
import pytest
from sdqueue_producers import MemoryState, Request
from sdqueue_producers.slack import Installation, SlackChannel, SlackSettings
from sdqueue_producers.slack.installations import StateInstallations

from sdqueue.brokers import MemoryBroker, Message, Topology
from sdqueue.errors import BrokerUnavailable, StoreUnavailable
from tests.producers.ingress.front import Front, served
from tests.producers.slack import payloads as p


class Flaky(MemoryBroker):
    """Does not confirm turns while it is told not to."""

    away = False

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        if self.away and exchange == self.topology.turns:
            raise BrokerUnavailable("away")
        await super().publish(exchange, routing_key, message, timeout=timeout)


class Forgetful(MemoryState):
    """Takes nothing about threads while it is told not to."""

    away = False

    async def set(self, values: dict[str, str], *, ttl_s: float | None) -> None:  # type: ignore[override]
        if self.away and any(key.startswith("slack:thread:") for key in values):
            raise StoreUnavailable("away")
        await super().set(values, ttl_s=ttl_s)


def slack_of(state: MemoryState) -> SlackChannel:
    return SlackChannel(SlackSettings.load(signing_secret=p.SECRET, installations="state://"), state)


async def post(front: Front, request: Request) -> httpx.Response:
    return await front.http.post(request.path, content=request.body, headers=dict(request.headers))


async def event(front: Front, payload: p.Payload) -> int:
    return (await post(front, p.event_request(payload))).status_code


async def test_everything_two_to_four_times_and_out_of_order_is_each_turn_once() -> None:
    # Given 40 mentions, each of which Slack sends as two events, each of those up to twice, out of order and at once
    chance = random.Random(3)
    payloads = []
    for n in range(40):
        told = {"ts": f"17000000{n:02}.000100", "channel": f"C{n % 5}", "client_msg_id": f"m{n}"}
        for payload in (p.app_mention(f"<@{p.BOT}> {n}", **told), p.message(f"<@{p.BOT}> {n}", **told)):
            payloads.extend([payload] * chance.randint(1, 2))
    chance.shuffle(payloads)
    state = MemoryState()
    async with slack_of(state) as slack, served(slack, state=state) as front:
        # When they come, eight at a time
        room = asyncio.Semaphore(8)

        async def send(payload: p.Payload) -> int:
            async with room:
                return await event(front, payload)

        answers = await asyncio.gather(*(send(payload) for payload in payloads))
        # Then all are taken, and each is one turn
        assert set(answers) == {200}
        assert sorted(int(turn.text) for turn in await front.got(40)) == list(range(40))
        assert len(front.seen.of("turn_published")) == 40
        assert len(front.seen.of("turn_repeated")) == len(payloads) - 40


async def test_a_turn_that_is_not_confirmed_is_answered_with_503_and_remembered_nowhere() -> None:
    state = MemoryState()
    async with Flaky(Topology(partitions=4)) as broker:
        await broker.apply()
        async with slack_of(state) as slack, served(slack, broker=broker, state=state) as front:
            # Given a broker that is away, while the bot is named
            broker.away = True
            mention = p.app_mention(ts="1699999999.000100")
            assert await event(front, mention) == 503
            broker.away = False
            # Then the thread is not followed
            assert await event(front, p.thread_reply("too early")) == 200
            assert front.turns == []
            # When Slack sends it again
            assert await event(front, mention) == 200
            # Then it is a turn, and the thread is
            assert await event(front, p.thread_reply("and now", ts="1700000005.000100", client_msg_id="m2")) == 200
            assert [turn.text for turn in await front.got(2)] == ["hello", "and now"]


async def test_what_cannot_be_remembered_is_sent_again_though_its_turn_is_known() -> None:
    state = Forgetful()
    async with slack_of(state) as slack, served(slack, state=state) as front:
        # Given a state that does not take what is to be remembered of a thread
        state.away = True
        mention = p.app_mention(ts="1699999999.000100")
        assert await event(front, mention) == 503
        state.away = False
        # When Slack sends the event again
        assert await event(front, mention) == 200
        # Then the thread is followed, and there was one turn of it
        assert await event(front, p.thread_reply(client_msg_id="m2")) == 200
        assert [turn.text for turn in await front.got(2)] == ["hello", "and then?"]
        assert len(front.seen.of("turn_published")) == 2


async def test_an_installation_that_is_gone_is_forgotten_when_slack_tells() -> None:
    state = MemoryState()
    installations = StateInstallations(state)
    await installations.save(Installation("T1", "xoxb-1", installed_at=1.0))
    async with slack_of(state) as slack, served(slack, state=state) as front:
        assert await event(front, p.app_uninstalled()) == 200
        assert await installations.find("T1") is None
        assert front.seen.of("request_answered")[-1]["reason"] == "installation-gone"


@pytest.mark.parametrize(
    ("make", "status", "reason"),
    [
        (lambda: p.event_request(p.message("just talking")), 200, "not-for-the-bot"),
        (lambda: p.event_request(p.own_message()), 200, "message-of-a-bot"),
        (lambda: p.event_request(p.event_callback({"type": "reaction_added"})), 200, "event-unknown"),
        (lambda: p.event_request(p.app_mention(ts=5)), 400, "payload-malformed"),
        (lambda: p.event_request(p.direct(), at=1.0), 401, "signature-wrong"),
        (lambda: p.form_request(p.interaction(), "/slack/interactions"), 200, "interaction"),
    ],
)
async def test_what_makes_no_turn_is_counted_by_its_reason(
    make: Callable[[], Request], status: int, reason: str
) -> None:
    state = MemoryState()
    request_ = make()  # now: a signature is old after five minutes, and other tests may have come first
    async with slack_of(state) as slack, served(slack, state=state) as front:
        assert (await post(front, request_)).status_code == status
        [answered] = front.seen.of("request_answered")
        assert (answered["channel"], answered["status"], answered["reason"]) == ("slack", status, reason)
        assert front.seen.of("turn_published") == []


async def test_a_command_is_answered_with_nothing_to_show() -> None:
    state = MemoryState()
    async with slack_of(state) as slack, served(slack, state=state) as front:
        response = await post(front, p.form_request(p.command()))
        assert (response.status_code, response.content) == (200, b"")
        assert [turn.session_id for turn in await front.got(1)] == ["slack:T1:C1"]
