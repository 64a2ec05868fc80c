"""ask: a call of Slack's Web API, whose failures are what the egress understands.

What Slack says about an error decides (https://docs.slack.dev/reference/methods/chat.postMessage, "Errors"):

- limited, in migration, or out of service: nothing was done → ``RetryAfter``
- ``internal_error`` and ``fatal_error``: "some aspect of the operation" may have succeeded → ``Ambiguous``
- any other slug, known or not → ``Permanent``

A 5xx without such a slug may come from a server that has done it before it failed, or from a proxy whose connection to
that server broke, which is a 503 as well. So it is ``Ambiguous``, as is a connection that is cut once it was there.
Where a repeat does no harm, as with an edit, ``Ambiguous`` becomes ``RetryAfter``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable
from typing import Any, Final

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from sdqueue_producers.errors import Ambiguous, DeliveryError, Permanent, RetryAfter

_LIMITED: Final = {"ratelimited", "rate_limited", "message_limit_exceeded"}
_LATER: Final = {
    "service_unavailable",
    "request_timeout",  # "the POST data was either missing or truncated"
    "team_added_to_org",  # being moved to an organisation, as the next two
    "org_login_required",
    "external_channel_migrating",
    "update_failed",  # chat.update only, which does no harm when repeated
}
_UNKNOWN: Final = {"internal_error", "fatal_error", "messaging_processing_failed"}

_INSTALL_AGAIN: Final = "the token is not good any more; install the app in the workspace again"
_SETTINGS: Final = "the workspace's settings forbid it; ask its administrators"
_TO_DO: Final = {
    "channel_not_found": "the channel is gone or the app cannot see it; invite the app",
    "not_in_channel": "invite the app to the channel",
    "is_archived": "the channel is archived; unarchive it",
    "is_inactive": "the channel is frozen or archived; unarchive it",
    "account_inactive": _INSTALL_AGAIN,
    "invalid_auth": _INSTALL_AGAIN,
    "not_authed": _INSTALL_AGAIN,
    "token_expired": _INSTALL_AGAIN,
    "token_revoked": _INSTALL_AGAIN,
    "restricted_action": _SETTINGS,
    "restricted_action_read_only_channel": _SETTINGS,
    "restricted_action_thread_locked": _SETTINGS,
    "restricted_action_thread_only_channel": _SETTINGS,
    "restricted_action_non_threadable_channel": _SETTINGS,
    "ekm_access_denied": _SETTINGS,
    "edit_window_closed": "the workspace lets messages be edited only for some time",
    "cant_update_message": "the message is another app's or user's",
    "message_not_found": "somebody has deleted the message",
    "msg_too_long": "make the answer shorter, or max_chars smaller",
    "messages_tab_disabled": "switch on the messages tab under App Home in the app's settings",
    "missing_scope": "add the scope to the app and install it again",
}
_SLUG: Final = re.compile(r"[a-z0-9_]{1,64}")


async def ask(
    request: Awaitable[AsyncSlackResponse], what: str, *, bucket: str | None = None, repeatable: bool = False
) -> dict[str, Any]:
    """Await the answer of a call.

    Parameters:
        request: a call of an ``AsyncWebClient`` without retry handlers.
        what: names it in errors: the method, and the channel.
        bucket: the rate limit that the call counts against.
        repeatable: doing it twice does no harm, so that an unknown outcome is one to try again.

    Returns:
        The answer, whose ``ok`` is true.

    Raises:
        RetryAfter, Permanent, Ambiguous: see the module. None of them shows a token: what Slack and the HTTP client
            say is not passed on, but for the slug.
    """
    try:
        data = (await request).data
    except SlackApiError as error:
        raise _refused(error.response, what, bucket, repeatable) from None
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        # No connection: the name is not known, nobody listens, or TLS fails. Nothing was sent.
        raise RetryAfter(None, f"{what}: no connection to Slack ({type(error).__name__})") from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _unknown(f"{what}: the connection was lost ({type(error).__name__})", repeatable) from None
    except (AttributeError, ValueError, TypeError):
        # slack_sdk takes it for granted that a 200 carries a JSON object; something between us and Slack may differ.
        raise _unknown(f"{what}: the answer is not one of Slack's", repeatable) from None
    if not isinstance(data, dict):
        raise _unknown(f"{what}: the answer is not one of Slack's", repeatable)
    return data


def _refused(response: Any, what: str, bucket: str | None, repeatable: bool) -> DeliveryError:
    # An AsyncSlackResponse, or aiohttp's own where the body was no JSON.
    status: int = response.status_code if isinstance(response, AsyncSlackResponse) else response.status
    data = getattr(response, "data", None)
    slug = data.get("error") if isinstance(data, dict) else None
    if not isinstance(slug, str) or not _SLUG.fullmatch(slug):
        slug = None
    why = f"{what}: {slug or f'HTTP {status}'}"
    if status == 429 or slug in _LIMITED:
        return RetryAfter(_seconds(response.headers.get("Retry-After")), why, bucket=bucket)
    if slug in _LATER:
        return RetryAfter(None, why)
    if slug in _UNKNOWN or status >= 500 or (slug is None and status < 400):
        return _unknown(why, repeatable)
    if slug is None:
        return RetryAfter(None, why)  # a 4xx page that Slack does not make: a proxy refuses us
    needed = data.get("needed") if isinstance(data, dict) else None
    scope = f" ({needed})" if slug == "missing_scope" and isinstance(needed, str) else ""
    return Permanent(
        slug.replace("_", "-"), f"Slack refused {what}: {slug}{scope}; {_TO_DO.get(slug, 'see the method in its docs')}"
    )


def _unknown(why: str, repeatable: bool) -> DeliveryError:
    return RetryAfter(None, why) if repeatable else Ambiguous(f"{why}; whether Slack has done it is not known")


def _seconds(header: str | None) -> float | None:
    """Retry-After, which Slack gives in seconds; ``None`` for anything that is no sensible number of them."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds <= 86_400 else None
