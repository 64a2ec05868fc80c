"""Delivering: how a call's end is told to the egress."""

from __future__ import annotations

from typing import Any

from sdqueue_producers.errors import Ambiguous, DeliveryError, Permanent, RetryAfter
from sdqueue_producers.telegram.api import CallFailed, NotSent, Refused

WRONG_TOKEN_WAIT_S = 60.0
"""Seconds until a call is tried again after the token was not accepted: somebody has to change it."""

LONGEST_WAIT_S = 86_400.0
"""Seconds that Telegram can make us wait; whatever it says beyond is a fault of its own."""


def delivery_error(error: CallFailed, *, bot: str, bucket: str, again_is_harmless: bool = False) -> DeliveryError:
    """What the egress is told.

    Parameters:
        error: how the call ended.
        bot: whose.
        bucket: the rate limit of the chat.
        again_is_harmless: a repeat shows nothing twice, as with an edit.
    """
    if isinstance(error, Refused) and error.code < 500:
        return _refused(error, bot, bucket)
    # A 5xx may come from a server that has shown it before it failed, or from a proxy that lost its connection to one.
    if isinstance(error, NotSent) or again_is_harmless:
        return RetryAfter(None, str(error))
    return Ambiguous(str(error))


def _refused(error: Refused, bot: str, bucket: str) -> DeliveryError:
    if error.code == 429:
        return RetryAfter(_seconds(error.parameters.get("retry_after")), error.description, bucket=bucket)
    if error.code == 409:
        return RetryAfter(None, str(error))
    if error.code in (401, 404):
        return RetryAfter(
            WRONG_TOKEN_WAIT_S, f"the token of bot {bot!r} is not accepted: set the one that @BotFather shows"
        )
    detail = f"{error}; bot {bot!r}"
    if error.code == 403:
        return Permanent("blocked", f"{detail}: the user has blocked it, or it was put out of the chat")
    if error.says("chat not found", "user not found", "PEER_ID_INVALID", "chat_id is empty"):
        return Permanent("chat-not-found", detail)
    if error.says("thread not found", "TOPIC_CLOSED", "TOPIC_DELETED"):
        return Permanent("topic-closed", detail)
    if error.says("message to edit not found", "can't be edited", "MESSAGE_ID_INVALID"):
        return Permanent("message-gone", detail)
    if error.says("not enough rights", "CHAT_WRITE_FORBIDDEN", "have no rights"):
        return Permanent("no-rights", detail)
    return Permanent("refused", detail)


def _seconds(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        return None
    return float(min(value, LONGEST_WAIT_S))
