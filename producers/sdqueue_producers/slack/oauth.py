"""OAuth: the pages by which a workspace installs the app."""

from __future__ import annotations

import hashlib
import hmac
import html
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from slack_sdk.errors import SlackApiError
from slack_sdk.oauth import AuthorizeUrlGenerator
from slack_sdk.web.async_client import AsyncWebClient
from starlette.requests import Request as WebRequest
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from sdqueue.errors import StoreUnavailable
from sdqueue_producers.slack.clients import UNREACHABLE, refusal_of
from sdqueue_producers.slack.installations import Installation, Installations
from sdqueue_producers.slack.payload import UnreadablePayload, installation_id, optional
from sdqueue_producers.slack.settings import SlackSettings
from sdqueue_producers.state import ProducerState

STATE_TTL_S: Final = 600.0
"""Seconds in which a person must have agreed; Slack's own code lives as long."""

COOKIE: Final = "sdqueue_slack_install"

log = logging.getLogger("sdqueue.slack")


class OAuthFailed(Exception):  # how a page ends, seen by nobody else
    """The installation did not come about.

    Parameters:
        status: of the page.
        told: to the person, in plain words.
    """

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status
        self.told = told


class OAuth:
    """``/slack/install`` sends a browser to Slack, and ``/slack/oauth_redirect`` is where it comes back to.

    The way there and back is tied together by a random value that is in the address, in a cookie of the browser, and
    for ten minutes in the state: it is good once, and only in the browser in which it began, so that nobody can be made
    to finish an installation that somebody else has begun.

    Parameters:
        settings: of the channel.
        state: keeps the random values.
        installations: keep what came of it.
        client: makes a client of the Web API without a token.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        settings: SlackSettings,
        state: ProducerState,
        installations: Installations,
        client: Callable[[], AsyncWebClient],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._state = state
        self._installations = installations
        self._client = client
        self._clock = clock
        self._secure = urlsplit(settings.redirect_url).scheme == "https"
        self._authorize = AuthorizeUrlGenerator(
            client_id=settings.client_id,
            scopes=settings.scope_names,
            redirect_uri=settings.redirect_url,
            authorization_url=settings.authorize_url,
        )

    def routes(self) -> Sequence[Route]:
        """The two pages."""
        return (
            Route("/slack/install", self._install, methods=["GET"]),
            Route("/slack/oauth_redirect", self._finish, methods=["GET"]),
        )

    async def _install(self, request: WebRequest) -> Response:
        value = secrets.token_urlsafe(32)
        try:
            await self._state.set({_key(value): "1"}, ttl_s=STATE_TTL_S)
        except StoreUnavailable:
            return _page(503, "Not now", "This cannot be begun at the moment; please try again in a minute.")
        response = RedirectResponse(self._authorize.generate(value), status_code=302)
        response.set_cookie(
            COOKIE,
            value,
            max_age=int(STATE_TTL_S),
            path="/slack",
            secure=self._secure,
            httponly=True,
            samesite="lax",  # the way back from Slack is a link from another site
        )
        response.headers.update(_HEADERS)
        return response

    async def _finish(self, request: WebRequest) -> Response:
        try:
            await self._spend(request)
            installation, name = await self._exchange(request)
            await self._installations.save(installation)
        except OAuthFailed as failed:
            response = _page(failed.status, "Not installed", failed.told)
        except StoreUnavailable as error:
            log.error("a Slack installation could not be kept: %s", error)  # noqa: TRY400  # the traceback tells no more
            response = _page(503, "Not installed", "It cannot be kept at the moment; please begin again in a minute.")
        else:
            log.info("Slack installation %s was made, with the scopes %s", installation.id, installation.scopes)
            response = _page(200, "Installed", f"The app is installed in {name}. You can close this page.")
        response.delete_cookie(COOKIE, path="/slack", secure=self._secure, httponly=True, samesite="lax")
        return response

    async def _spend(self, request: WebRequest) -> None:
        """See that the way back fits a way there, and let it never fit again."""
        value = request.query_params.get("state", "")
        cookie = request.cookies.get(COOKIE, "")
        again = "Begin again at /slack/install, in one browser and within ten minutes."
        if not value or not hmac.compare_digest(value.encode("utf-8", "replace"), cookie.encode("utf-8", "replace")):
            raise OAuthFailed(400, f"This was not begun in this browser. {again}")
        [begun] = await self._state.get([_key(value)])
        if begun is None:
            raise OAuthFailed(400, f"This took too long, or was finished before. {again}")
        if not await self._state.add(f"{_key(value)}:spent", "1", ttl_s=STATE_TTL_S):
            raise OAuthFailed(400, f"This was finished before. {again}")
        await self._state.delete([_key(value)])

    async def _exchange(self, request: WebRequest) -> tuple[Installation, str]:
        """The token for Slack's code, with the workspace's name."""
        if request.query_params.get("error"):
            raise OAuthFailed(403, "Slack says that the installation was not agreed to.")
        code = request.query_params.get("code", "")
        if not code:
            raise OAuthFailed(400, "Slack's code is missing. Begin again at /slack/install.")
        try:
            answer = await self._client().oauth_v2_access(
                client_id=self._settings.client_id,
                client_secret=self._settings.client_secret.get_secret_value(),
                code=code,
                redirect_uri=self._settings.redirect_url,
            )
        except SlackApiError as error:
            slug, status = refusal_of(error)
            log.warning("Slack did not give a token for an installation: %s, status %s", slug, status)
            if slug == "unknown" or status == 429 or status >= 500:
                raise OAuthFailed(503, "Slack is out of order. Begin again at /slack/install in a minute.") from None
            raise OAuthFailed(400, f"Slack refused it ({slug}). Begin again at /slack/install.") from None
        except UNREACHABLE as error:
            log.warning("Slack could not be asked for a token: %s", type(error).__name__)
            raise OAuthFailed(503, "Slack cannot be reached. Begin again at /slack/install in a minute.") from None
        data = answer.data
        if not isinstance(data, dict):
            raise OAuthFailed(503, "Slack's answer cannot be read. Begin again at /slack/install in a minute.")
        return self._installed(data)

    def _installed(self, data: dict[str, Any]) -> tuple[Installation, str]:
        team, enterprise = _object(data.get("team")), _object(data.get("enterprise"))
        token = data.get("access_token")
        if data.get("token_type") != "bot" or not isinstance(token, str) or not token:
            raise OAuthFailed(400, "Slack gave no token of a bot: the app asks for no scopes of one.")
        if data.get("expires_in"):
            raise OAuthFailed(
                400, "The app has token rotation, which is not supported. Turn it off in the app's settings."
            )
        whole = data.get("is_enterprise_install") is True
        try:
            install = installation_id(optional(team, "id"), optional(enterprise, "id"), whole)
        except UnreadablePayload:
            raise OAuthFailed(400, "Slack did not say which workspace it is.") from None
        scopes = str(data.get("scope") or "")
        missing = [name for name in self._settings.scope_names if name not in scopes.split(",")]
        if missing:
            log.warning("Slack installation %s lacks the scopes %s", install, ", ".join(missing))
        installation = Installation(
            id=install,
            bot_token=token,
            bot_user=str(data.get("bot_user_id") or ""),
            scopes=tuple(filter(None, scopes.split(","))),
            installed_at=self._clock(),
        )
        return installation, str((enterprise if whole else team).get("name") or install)


def _key(value: str) -> str:
    """Hashed, so that who can read the state cannot use what is in it."""
    return f"slack:oauth:{hashlib.sha256(value.encode('utf-8', 'replace')).hexdigest()}"


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the address has Slack's code in it
    "X-Content-Type-Options": "nosniff",
}


def _page(status: int, title: str, told: str) -> HTMLResponse:
    title, told = html.escape(title), html.escape(told)
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{title}</title><h1>{title}</h1><p>{told}</p></html>",
        status_code=status,
        headers=_HEADERS,
    )
