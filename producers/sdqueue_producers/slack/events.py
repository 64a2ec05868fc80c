"""What an event of Slack's Events API becomes: a turn, something to remember, or nothing.

One message can come as two events, ``app_mention`` and ``message``, and both in any order. It is for the bot if it

- was said in a direct message, or in one of a group that the bot is in,
- names the bot, whichever of the two events tells so,
- or was said in a thread in which the bot takes part: where it was named before, or which it has begun.

Both events of such a message make the same turn, of which the second is a repeat. Any other message makes none, and so
does not claim the id that a mention of the same message is to have.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from sdqueue.errors import InvalidTurn
from sdqueue_producers.request import Receipt, refusal
from sdqueue_producers.slack.installations import Installations
from sdqueue_producers.slack.messages import Said
from sdqueue_producers.slack.payload import Envelope, UnreadablePayload, mapping, optional, required, timestamp
from sdqueue_producers.slack.threads import Thread, Threads

log = logging.getLogger("sdqueue.slack")


class Events:
    """Reads events, wherever they have come from.

    Parameters:
        threads: those that the bot takes part in.
        installations: one that is gone is forgotten.
        stream: whether turns ask for delta replies.
        follow_threads: whether threads are followed without further mentions.
    """

    def __init__(
        self, threads: Threads, installations: Installations, *, stream: bool = True, follow_threads: bool = True
    ) -> None:
        self._threads = threads
        self._installations = installations
        self._stream = stream
        self._follow_threads = follow_threads

    async def read(self, payload: Mapping[str, Any]) -> Receipt:
        """What came of a payload.

        Raises:
            StoreUnavailable: what is remembered about threads cannot be reached.
        """
        try:
            return await self._read(payload)
        except UnreadablePayload as error:
            return refusal(400, error.reason, f"{error}")
        except InvalidTurn as error:
            return refusal(400, "turn-invalid", f"{error}")

    async def _read(self, payload: Mapping[str, Any]) -> Receipt:
        kind = payload.get("type")
        if kind == "app_rate_limited":
            minute = payload.get("minute_rate_limited")
            log.warning(
                "Slack has held back events of workspace %s: more than 30,000 in an hour, at %s (seconds since 1970)",
                optional(payload, "team_id"),
                minute if isinstance(minute, int) else "an unknown time",
            )
            return ignored("app-rate-limited")
        if kind != "event_callback":
            return ignored("payload-unknown")
        envelope = Envelope.read(payload)
        match envelope.event["type"]:
            case "app_mention" | "message":
                return await self._message(envelope)
            case "assistant_thread_started" | "assistant_thread_context_changed":
                return self._assistant_thread(envelope)
            case "app_uninstalled":
                return self._gone(envelope)
            case "tokens_revoked" if mapping(envelope.event, "tokens").get("bot"):
                return self._gone(envelope)
        return ignored("event-unknown")

    async def _message(self, envelope: Envelope) -> Receipt:
        said = Said.read(envelope)
        if isinstance(said, str):
            return ignored(said)
        group = envelope.event.get("channel_type") == "mpim"
        thread = None
        if said.thread_ts is not None:
            thread = await self._threads.find(envelope.install, said.channel, said.thread_ts)
        followed = self._follow_threads and (thread is not None or self._begun_by_bot(envelope))
        if not (said.direct or group or said.mentioned or followed):
            return ignored("not-for-the-bot")
        thread = thread or Thread(assistant=said.direct and bool(mapping(envelope.event, "assistant_thread")))
        turn = said.turn(stream=self._stream, assistant=thread.assistant, context=thread.context)
        if said.thread is None:
            return Receipt(turns=(turn,), aliases=said.aliases)
        remember = partial(self._threads.remember, envelope.install, said.channel, said.thread, thread)
        return Receipt(turns=(turn,), aliases=said.aliases, after=remember)

    @staticmethod
    def _begun_by_bot(envelope: Envelope) -> bool:
        return bool(envelope.bot) and envelope.event.get("parent_user_id") == envelope.bot

    def _assistant_thread(self, envelope: Envelope) -> Receipt:
        told = mapping(envelope.event, "assistant_thread")
        context = mapping(told, "context")
        known = {name: optional(context, name) for name in ("channel_id", "team_id", "enterprise_id")}
        thread_ts = timestamp(told, "thread_ts")
        assert thread_ts is not None
        thread = Thread(assistant=True, context={name: value for name, value in known.items() if value})
        channel = required(told, "channel_id")
        return Receipt(
            reason="assistant-thread",
            after=partial(self._threads.remember, envelope.install, channel, thread_ts, thread),
        )

    def _gone(self, envelope: Envelope) -> Receipt:
        async def forget() -> None:
            until = envelope.event_time or time.time()
            if await self._installations.delete(envelope.install, until=until):
                log.warning("Slack installation %s is gone (%s); its token was forgotten", envelope.install, kind)
            else:
                log.warning(
                    "Slack says that installation %s is gone (%s); no older token is kept for it here, or "
                    "SDQUEUE_SLACK_BOT_TOKEN has it",
                    envelope.install,
                    kind,
                )

        kind = envelope.event["type"]
        return Receipt(reason="installation-gone", after=forget)


def ignored(reason: str) -> Receipt:
    """Taken, and nothing came of it: Slack need not send it again.

    Parameters:
        reason: a stable slug, which is counted.
    """
    return Receipt(reason=reason)
