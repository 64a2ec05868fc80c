"""Clients: the Web API, called for an installation with its token."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import aiohttp
from slack_sdk.web.async_client import AsyncWebClient

from sdqueue_producers.errors import Permanent
from sdqueue_producers.slack.installations import Installations
from sdqueue_producers.slack.settings import SlackSettings


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

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
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
            StoreUnavailable: that cannot be found out now.
        """
        installation = await self._installations.find(install)
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
            timeout=self._settings.api_timeout_s,  # type: ignore[arg-type]  # seconds go to aiohttp, which takes floats
            session=self.session,
            retry_handlers=[],
        )
