"""What the tests of delivering share: replies, addresses, and a SlackDelivery in front of a FakeSlack."""

from __future__ import annotations

import itertools
import time
from typing import Any, Final

from sdqueue_producers import Outgoing, Permanent
from sdqueue_producers.slack.delivery import SlackDelivery
from slack_sdk.web.async_client import AsyncWebClient

from sdqueue.messages import OutboundReply
from tests.producers.slack.server import FakeSlack

TOKEN: Final = "xoxb-1"
THREAD: Final = "1700000000.000100"
_numbers: Final = itertools.count(1)


def address(**fields: Any) -> dict[str, Any]:
    """A mention in a thread of C1, as the receiving half writes it."""
    return {
        "install": "T1",
        "channel": "C1",
        "thread_ts": THREAD,
        "ts": f"{int(time.time()) - 60}.000100",
        "user": "U1",
        "recipient_team": "T1",
        **fields,
    }


def outgoing(text: str, *, id: str | None = None, **fields: Any) -> Outgoing:  # noqa: A002 - the reply's own word
    """A reply on its way, with an id of its own."""
    turn = f"t{next(_numbers)}"
    reply = OutboundReply(
        id=id or f"{turn}:0", turn_id=turn, session_id="s", seq=1, kind="final", text=text, channel="slack"
    )
    return Outgoing(reply, text, **fields)


def delivery(slack: FakeSlack, *, timeout_s: int = 5, url: str | None = None, token: str = TOKEN) -> SlackDelivery:
    """Delivers as installation T1; others are gone."""

    async def clients(install: str) -> AsyncWebClient:
        if install != "T1":
            raise Permanent("installation-gone", f"there is no installation {install}")
        return AsyncWebClient(token, base_url=url or slack.url, timeout=timeout_s, retry_handlers=[])

    return SlackDelivery(clients)
