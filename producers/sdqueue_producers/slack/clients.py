"""Clients: the Web API, called for an installation with its token."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Final, Self

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.async_client import AsyncWebClient

from sdqueue.errors import StoreUnavailable
from sdqueue_producers.errors import Permanent, RetryAfter
from sdqueue_producers.slack.installations import Installations
from sdqueue_producers.slack.settings import SlackSettings

UNREACHABLE: Final = (
    SlackClientError,
    aiohttp.ClientError,
    TimeoutError,
    OSError,
    ValueError,
    AttributeError,  # by slack_sdk, where the answer is neither a JSON object nor an error page
)
"""What a call can raise besides ``SlackApiError``: no answer came, or none that can be read."""


class Clients:
    """Makes clients of the Web API over one pool of connections. Used as ``async with clients``.

    None of them repeats a call by itself: slack_sdk's own repetition can post a message twice, and repeating is the
    core's business.

    Parameters:
        installations: have the tokens.
        settings: of the channel.
    """

    def __init__(self, installations: Installations, settings: SlackSettings) -> None:
        self._installations = installations
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._log = logging.getLogger("sdqueue.slack.api")
        self._log.setLevel(logging.INFO)  # below that slack_sdk writes down whole answers, with the tokens in them

    async def __aenter__(self) -> Self:
        # The limit is the session's: slack_sdk's own is not applied to a session that it was given.
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._settings.api_timeout_s))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool of connections."""
        if self._session is None or self._session.closed:
            raise RuntimeError("the Slack channel is not entered, or left already: use it as `async with channel`")
        return self._session

    def anonymous(self) -> AsyncWebClient:
        """A client without a token."""
        return self._client(None)

    async def __call__(self, install: str) -> AsyncWebClient:
        """The client of an installation. It is looked up each time, since a token can be replaced at any time.

        Raises:
            Permanent: there is no such installation, or none any more.
            RetryAfter: that cannot be found out now.
        """
        try:
            installation = await self._installations.find(install)
        except StoreUnavailable as error:
            raise RetryAfter(None, f"the token of Slack installation {install} cannot be read: {error}") from None
        if installation is None:
            raise Permanent(
                "installation-gone",
                f"Slack installation {install} has no token here: the app was removed there, or was never installed; "
                "install it at /slack/install and replay the dead letter",
            )
        return self._client(installation.bot_token)

    def _client(self, token: str | None) -> AsyncWebClient:
        return AsyncWebClient(
            token=token,
            base_url=self._settings.api_url,
            session=self.session,
            retry_handlers=[],
            logger=self._log,
        )


def refusal_of(error: SlackApiError) -> tuple[str, int]:
    """Slack's slug for why it refuses a call, ``unknown`` where the answer cannot be read, and the HTTP status.

    The error's own text has the whole answer in it, so it is shown to nobody.
    """
    data = getattr(error.response, "data", None)
    slug = data.get("error") if isinstance(data, dict) else None
    status = getattr(error.response, "status_code", getattr(error.response, "status", 0))
    return slug if isinstance(slug, str) and slug else "unknown", status if isinstance(status, int) else 0
