"""Slack at both ends: signed events over HTTP become turns, an agent answers, and users see each answer once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sdqueue_producers import MemoryState, ProducerObserver
from sdqueue_producers.egress import Egress, EgressOptions
from sdqueue_producers.ingress import Ingress
from sdqueue_producers.process import WebServer
from sdqueue_producers.slack import SlackChannel, SlackSettings

from sdqueue import Consumer, ConsumerOptions, SessionWorker
from sdqueue.agents import FunctionAgent
from sdqueue.brokers import MemoryBroker, Topology
from sdqueue.client import Client
from tests.producers.slack.payloads import SECRET, app_mention, assistant_thread, direct, message, sign
from tests.producers.slack.server import FakeSlack, Fault, Installation, cut, hang, limited, refused

WORDS = ("Once ", "upon ", "a ", "time")
ASSISTANT_TS = "1699999000.000100"


def _name(fault: Fault) -> str:
    return f"{'hang' if fault.hang else 'cut'}-{'after' if fault.late else 'before'}"


class Notes(ProducerObserver):
    """Counts what became of replies."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.retried: list[str] = []
        self.dead: list[str] = []

    def reply_ambiguous(self, *, channel: str, reply_id: str, outcome: str) -> None:
        self.outcomes.append(outcome)

    def reply_retried(self, *, channel: str, reply_id: str, attempts: int, wait_s: float, error: str) -> None:
        self.retried.append(error)

    def reply_dead(self, *, channel: str, reply_id: str, reason: str, error: str) -> None:
        self.dead.append(reason)


class House:
    """Everything between a user's message and the answer that they see."""

    def __init__(self, slack: FakeSlack, http: httpx.AsyncClient, notes: Notes) -> None:
        self.slack = slack
        self.notes = notes
        self._http = http

    async def say(self, payload: dict[str, Any], times: int = 1) -> None:
        """What Slack does with an event, ``times`` over."""
        body = json.dumps(payload).encode()
        stamp = str(int(time.time()))
        headers = {
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": sign(body, stamp, SECRET),
            "Content-Type": "application/json",
        }
        for _ in range(times):
            response = await self._http.post("/slack/events", content=body, headers=headers)
            assert response.status_code == 200, response.text

    async def shows(self, channel: str, thread: str | None, texts: list[str]) -> None:
        """Wait until users see these texts and nothing changes any more."""
        async with asyncio.timeout(60):
            await self.slack.until(lambda: self.slack.texts(channel, thread) == texts and not self._growing(channel))

    def _growing(self, channel: str) -> bool:
        return any(message.streaming_since is not None for message in self.slack.messages[channel].values())


@asynccontextmanager
async def house(
    *,
    words: Callable[[str], tuple[str, ...]] | None = None,
    seen_s: float = 30.0,
    api_timeout_s: float = 30.0,
    **fake: Any,
) -> AsyncIterator[House]:
    """All of it in this process, over a broker in memory.

    Parameters:
        words: what the agent says to a text, piece by piece.
        seen_s: seconds that it waits after the first piece for users to see it.
        api_timeout_s: seconds that Slack may take for an answer.
        fake: see :class:`FakeSlack`.
    """

    async with AsyncExitStack() as stack:
        slack = await stack.enter_async_context(FakeSlack(**fake))

        async def agent(text: str, history: object) -> AsyncIterator[str]:
            first, *rest = words(text) if words else (text,)
            yield first
            if rest:
                # The rest is said when users see the beginning, or it is clear that they will not for now.
                with suppress(TimeoutError):
                    async with asyncio.timeout(seen_s):
                        await slack.until(lambda: slack.anywhere(first))
            for word in rest:
                yield word

        settings = SlackSettings(
            signing_secret=SecretStr(SECRET),
            bot_token=SecretStr("xoxb-1"),
            api_url=slack.url,
            api_timeout_s=api_timeout_s,
        )
        state, notes = MemoryState(), Notes()
        broker = await stack.enter_async_context(MemoryBroker(Topology("t", partitions=4)))
        await broker.apply()
        channel = await stack.enter_async_context(SlackChannel(settings, state))
        options = EgressOptions(ask_again_s=0.05, poll_s=0.05)
        egress = await stack.enter_async_context(Egress(channel, broker, state, options, notes))
        failing = asyncio.create_task(egress.wait_failed())
        worker = SessionWorker(agent_factory=lambda: FunctionAgent(agent))
        await stack.enter_async_context(Consumer(broker, worker, ConsumerOptions(name="c")))
        client = await stack.enter_async_context(Client(broker))
        ingress = await stack.enter_async_context(Ingress([channel], client, state))
        server = await stack.enter_async_context(WebServer(ingress.app, host="127.0.0.1", port=0))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30))
        yield House(slack, http, notes)
        assert not failing.done(), failing
        failing.cancel()


def ts(number: int) -> str:
    return f"{int(time.time()) - 5}.{number:06d}"


async def test_a_mention_is_answered_once_in_its_thread_though_slack_says_it_twice_and_in_two_kinds() -> None:
    async with house() as home:
        thread = ts(1)
        await home.say(message("<@UBOT1> hello", ts=thread), times=2)
        await home.say(app_mention("<@UBOT1> hello", ts=thread), times=3)

        await home.shows("C1", thread, ["hello"])
        await home.say(app_mention("<@UBOT1> hello", ts=thread))
        await home.say(app_mention("<@UBOT1> again", ts=ts(2), thread_ts=thread, client_msg_id="2"))

        await home.shows("C1", thread, ["hello", "again"])


async def test_an_answer_grows_as_a_native_stream_in_a_thread() -> None:
    async with house(words=lambda _: WORDS) as home:
        thread = ts(1)
        await home.say(app_mention(ts=thread))

        await home.shows("C1", thread, ["Once upon a time"])

        assert home.slack.methods()[0] == "chat.startStream"
        assert home.slack.methods()[-1] == "chat.stopStream"
        assert "chat.postMessage" not in home.slack.methods()


async def test_an_answer_in_a_direct_message_grows_by_edits() -> None:
    async with house(words=lambda _: WORDS) as home:
        await home.say(direct(ts=ts(1)))

        await home.shows("D1", None, ["Once upon a time"])

        [message] = home.slack.visible("D1")
        assert message.shown == ["Once ", "Once upon a time"]
        assert home.slack.methods() == ["chat.postMessage", "chat.update"]


async def test_an_assistant_thread_shows_that_an_answer_is_made_until_it_is_there() -> None:
    """By the ingress that took the turn; the egress notes that it has ended."""
    async with house(words=lambda _: WORDS) as home:
        await home.say(assistant_thread())
        await home.say(direct(ts=ts(2), thread_ts=ASSISTANT_TS))

        async with asyncio.timeout(30):
            await home.slack.until(lambda: any(home.slack.status_log))
        await home.shows("D1", ASSISTANT_TS, ["Once upon a time"])
        async with asyncio.timeout(30):
            await home.slack.until(lambda: not any(home.slack.statuses.values()))
        said = len(home.slack.status_log)
        await asyncio.sleep(2.5)  # it looks every second: nothing is shown any more
        assert not any(home.slack.status_log[said:])


@pytest.mark.parametrize(
    ("place", "method"),
    [
        ("direct", "chat.postMessage"),
        ("thread", "chat.postMessage"),
        ("thread", "chat.startStream"),
        ("thread", "chat.appendStream"),
        ("thread", "chat.stopStream"),
    ],
)
@pytest.mark.parametrize("fault", [cut(late=True), cut(late=False), hang(late=True), hang(late=False)], ids=_name)
async def test_a_connection_that_is_cut_or_hangs_leaves_each_answer_visible_once(
    place: str, method: str, fault: Any
) -> None:
    async with house(words=lambda text: (f"{text}: ", *WORDS), seen_s=1.0, api_timeout_s=0.5) as home:
        home.slack.fail(method, fault)
        home.slack.fail("chat.update", fault)
        channel, thread = ("C1", ts(1)) if place == "thread" else ("D1", None)
        for number, text in enumerate(("one", "two"), 1):
            payload = (
                app_mention(text, ts=ts(number), **({"thread_ts": thread} if number > 1 else {}), client_msg_id=text)
                if thread
                else direct(text, ts=ts(number), client_msg_id=text)
            )
            if thread and number == 1:
                thread = payload["event"]["ts"]
            await home.say(payload)

        async with asyncio.timeout(60):
            await home.slack.until(lambda: "two: Once upon a time" in home.slack.texts(channel, thread))
        await home.say(direct("three", channel="D9", ts=ts(9), client_msg_id="3"))
        await home.shows("D9", None, ["three: Once upon a time"])

        seen = [text for text in home.slack.texts(channel, thread) if text]
        assert seen == ["one: Once upon a time", "two: Once upon a time"]
        assert home.notes.dead == []


async def test_a_storm_of_429_delays_answers_and_neither_loses_doubles_nor_swaps_them() -> None:
    async with house() as home:
        for method in ("chat.postMessage", "chat.startStream", "chat.stopStream", "chat.update"):
            home.slack.fail(method, limited(1), refused("ratelimited"), times=2)
        for number in range(3):
            await home.say(direct(f"q{number}", ts=ts(number), client_msg_id=str(number)))

        await home.shows("D1", None, ["q0", "q1", "q2"])
        assert home.notes.dead == []


async def test_many_answers_keep_to_slacks_limits() -> None:
    """Given a Slack that limits as it documents, six answers to one channel are all shown, in order, and Slack
    refuses next to none of the calls."""
    async with house(limits=True) as home:
        for number in range(6):
            await home.say(direct(f"q{number}", ts=ts(number), client_msg_id=str(number)))

        await home.shows("D1", None, [f"q{number}" for number in range(6)])

        assert len(home.notes.retried) <= 1


@pytest.mark.parametrize("growing", [False, True])
async def test_without_the_history_scope_an_answer_with_an_unknown_outcome_is_shown_again_and_counted(
    growing: bool,
) -> None:
    """Given an app that may not read history, an answer whose outcome is unknown is sent again by default, and is not
    a dead letter."""
    async with house(words=lambda _: WORDS if growing else ("".join(WORDS),)) as home:
        home.slack.install(Installation("xoxb-1", scopes=("chat:write",)))
        home.slack.fail("chat.postMessage", cut(late=False))

        await home.say(direct(ts=ts(1)))

        await home.shows("D1", None, ["Once upon a time"])
        assert home.notes.outcomes == ["resent"]
        assert home.notes.dead == []
