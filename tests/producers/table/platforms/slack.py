"""Slack over HTTP, with mentions in threads, and over Socket Mode, with direct messages."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from tests.producers.slack import payloads as p
from tests.producers.slack.server import FakeSlack, Fault, Message, broken, cut, limited, refused
from tests.producers.slack.sockets import FakeSockets
from tests.producers.table.observations import Shown
from tests.producers.table.platforms.platform import Platform

FAULTS: Final = (
    limited(1), refused("ratelimited"), broken(500), broken(503, late=True), cut(late=False), cut(late=True),
)  # fmt: skip
GOOD: Final = Fault(pass_on=True)
EPOCH: Final = 1_700_000_000

ACK_S: Final = 2.0
"""Seconds after which Slack sends an envelope again that was not acknowledged."""


class TimedSlack(FakeSlack):
    """A Slack that knows when a message came to be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen_at: dict[str, float] = {}

    def _new(self, *args: Any) -> Message:
        message = super()._new(*args)
        self.seen_at[message.ts] = time.monotonic()
        return message

    def in_channel(self, channel: str, thread_ts: str | None, conversation: str) -> list[Shown]:
        """What is seen there, with every text that a message has shown and shows no more left out."""
        return [Shown(conversation, m.text, self.seen_at[m.ts]) for m in self.visible(channel, thread_ts)]


class _Slack(Platform):
    channel = "slack"

    def __init__(self, url: str, chance: random.Random, slack: TimedSlack) -> None:
        super().__init__(url, chance)
        self.slack = slack
        self.places: dict[int, tuple[str, str | None]] = {}

    async def open(self, stack: AsyncExitStack) -> None:
        await super().open(stack)
        if not self.slack.url:
            await stack.enter_async_context(self.slack)
            self.slack.fail("chat.postMessage", *self.faults(5000, *FAULTS, good=GOOD))
            for method in ("conversations.replies", "conversations.history"):
                self.slack.fail(method, *self.faults(5000, limited(1), broken(500), cut(late=False), good=GOOD))

    def settings(self) -> Mapping[str, str]:
        return {
            "SDQUEUE_SLACK_API_URL": self.slack.url,
            "SDQUEUE_SLACK_BOT_TOKEN": "xoxb-1",
            "SDQUEUE_SLACK_STREAM": "false",
        }

    def visible(self) -> tuple[Shown, ...]:
        found = [self.slack.in_channel(*place, str(conversation)) for conversation, place in self.places.items()]
        return tuple(itertools.chain.from_iterable(found))


class SlackHttp(_Slack):
    """A mention comes as two events, ``app_mention`` and ``message``, and each of them again."""

    name = "slack-http"
    sessions = "slack:T1:C"

    def __init__(self, url: str, chance: random.Random, slack: TimedSlack) -> None:
        super().__init__(url, chance, slack)
        self._twins = itertools.cycle((p.app_mention, p.message))

    def settings(self) -> Mapping[str, str]:
        return {**super().settings(), "SDQUEUE_SLACK_SIGNING_SECRET": p.SECRET}

    def session(self, conversation: int) -> str:
        return f"slack:T1:C{conversation}:{EPOCH + conversation}.000100"

    async def send(self, conversation: int, number: int) -> bool:
        channel, thread_ts = self.places.setdefault(
            conversation, (f"C{conversation}", f"{EPOCH + conversation}.000100")
        )
        assert thread_ts is not None
        ts = f"{EPOCH + conversation}.{100 + number:06d}"
        told: dict[str, Any] = {"channel": channel, "ts": ts, "event_ts": ts}
        told["client_msg_id"] = self.mark(conversation, number).replace(".", "-")
        if number:
            told["thread_ts"] = thread_ts
        payload = next(self._twins)(f"<@{p.BOT}> say {self.mark(conversation, number)}", **told)
        request = p.event_request(payload)
        return (await self.post(request.path, request.body, request.headers))[0] == 200


class SlackStream(SlackHttp):
    """The same, with answers that grow while they are made, in Slack's own streams."""

    name = "slack-stream"

    async def open(self, stack: AsyncExitStack) -> None:
        await super().open(stack)
        for method in ("chat.startStream", "chat.appendStream", "chat.stopStream", "chat.update"):
            self.slack.fail(method, *self.faults(5000, *FAULTS, good=GOOD))

    def settings(self) -> Mapping[str, str]:
        return {**super().settings(), "SDQUEUE_SLACK_STREAM": "true"}

    def visible(self) -> tuple[Shown, ...]:
        if "chat.startStream" not in self.slack.done and len(self.slack.done) > 20:
            self.strange.append("no stream was begun")
        return super().visible()


class SlackSocket(_Slack):
    """An envelope that is not acknowledged comes again, over any connection; some are cut behind one."""

    name = "slack-socket"
    sessions = "slack:T1:D"

    def __init__(self, url: str, chance: random.Random, slack: TimedSlack) -> None:
        super().__init__(url, chance, slack)
        self._sockets = FakeSockets()

    async def open(self, stack: AsyncExitStack) -> None:
        await super().open(stack)
        await stack.enter_async_context(self._sockets)
        self.slack.socket_url = self._sockets.url

    def settings(self) -> Mapping[str, str]:
        return {**super().settings(), "SDQUEUE_SLACK_APP_TOKEN": "xapp-1"}

    async def send(self, conversation: int, number: int) -> bool:
        channel, _ = self.places.setdefault(conversation, (f"D{conversation}", None))
        ts = f"{EPOCH + conversation}.{100 + number:06d}"
        mark = self.mark(conversation, number)
        payload = p.direct(f"say {mark}", channel=channel, ts=ts, event_ts=ts, client_msg_id=mark.replace(".", "-"))
        open_ones = [number for number, one in enumerate(self._sockets.connections) if not one.closed]
        if not open_ones:
            return False
        envelope, connection = self._sockets.envelope(payload), self.chance.choice(open_ones)
        try:
            await self._sockets.give(envelope, connection)
            if self.chance.random() < 0.05:
                await self._sockets.cut(connection)
            async with asyncio.timeout(ACK_S):
                await self._sockets.acks(envelope)
        except (TimeoutError, ConnectionError, AssertionError):  # it has gone meanwhile
            return False
        return True


def slack_pair(url: str, chance: random.Random) -> tuple[SlackHttp, SlackSocket]:
    """Both, on one Slack, for one process."""
    slack = TimedSlack()
    return SlackHttp(url, chance, slack), SlackSocket(url, chance, slack)
