"""The pages by which a workspace installs the app, with a real browser's way: addresses, cookies and redirects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sdqueue_producers import MemoryState, Permanent, RetryAfter
from sdqueue_producers.slack import Installation, SlackChannel, SlackSettings
from sdqueue_producers.slack.installations import open_installations
from sdqueue_producers.slack.settings import SCOPES

from sdqueue.errors import StoreUnavailable
from tests.producers.ingress.front import served
from tests.producers.slack import server
from tests.producers.slack.server import FakeSlack

# slack_sdk 3.47 gives the app's credentials to aiohttp in a way that aiohttp 4 will not take any more.
pytestmark = pytest.mark.filterwarnings("ignore:BasicAuth is deprecated:DeprecationWarning")

TOKEN = "xoxb-the-new-token"


class Site:
    """The pages, served on 127.0.0.1, in front of a FakeSlack."""

    def __init__(self, slack: FakeSlack, channel: SlackChannel, state: MemoryState, http: httpx.AsyncClient) -> None:
        self.slack = slack
        self.channel = channel
        self.state = state
        self.http = http
        self.installations = open_installations("state://", bot_token="", state=state)

    async def begin(self) -> str:
        """Go to /slack/install, and keep the cookie; the state that Slack is to give back."""
        response = await self.http.get("/slack/install")
        assert response.status_code == 302
        return parse_qs(urlsplit(response.headers["location"]).query)["state"][0]

    async def come_back(self, **query: str) -> httpx.Response:
        return await self.http.get("/slack/oauth_redirect", params=query)

    def agree(self, code: str = "code-1", **more: object) -> str:
        """Somebody agrees, and Slack gives a code."""
        told = {"team": "T5", "bot": "UBOT5", "scopes": SCOPES} | more
        self.slack.codes[code] = server.Installation(TOKEN, **told)  # type: ignore[arg-type]
        return code


@asynccontextmanager
async def site_of(state: MemoryState | None = None, **given: object) -> AsyncIterator[Site]:
    state = MemoryState() if state is None else state
    async with FakeSlack() as slack:
        told = {
            "signing_secret": "s", "client_id": "client-1", "client_secret": "client-secret-1",
            "redirect_url": "http://127.0.0.1/slack/oauth_redirect", "installations": "state://", "api_url": slack.url,
        } | given  # fmt: skip
        channel = SlackChannel(SlackSettings.load(**told), state)
        async with channel, served(channel, state=state, consume=False) as front:
            yield Site(slack, channel, state, front.http)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with site_of() as made:
        yield made


def said(response: httpx.Response, status: int, word: str) -> bool:
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for secret in (TOKEN, "client-secret-1", "code-1"):
        assert secret not in response.text
    return (
        response.status_code == status
        and response.headers["content-type"] == "text/html; charset=utf-8"
        and word in response.text
    )


async def test_a_workspace_installs_the_app(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    # Given somebody who begins
    with caplog.at_level(logging.DEBUG):
        response = await site.http.get("/slack/install")
        # Then the browser is sent to Slack, with the scopes, and remembers what it began
        target = urlsplit(response.headers["location"])
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        assert (target.scheme, target.netloc, target.path) == ("https", "slack.com", "/oauth/v2/authorize")
        assert query["client_id"] == "client-1"
        assert query["scope"].split(",") == list(SCOPES)
        assert query["redirect_uri"] == "http://127.0.0.1/slack/oauth_redirect"
        cookie = next(iter(SimpleCookie(response.headers["set-cookie"]).values()))
        assert cookie.value == query["state"]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "lax", "/slack")
        # When they agree and come back
        response = await site.come_back(state=query["state"], code=site.agree())
    # Then the workspace is installed, and its client has the token
    assert said(response, 200, "installed in Team")
    installation = await site.installations.find("T5")
    assert installation is not None
    assert (installation.bot_token, installation.bot_user) == (TOKEN, "UBOT5")
    assert installation.scopes == SCOPES
    assert (await (await site.channel._clients("T5")).auth_test())["team_id"] == "T5"
    # And no log has a secret
    for secret in (TOKEN, "client-secret-1", "code-1", query["state"]):
        assert secret not in "\n".join(
            record.getMessage() for record in caplog.records if record.name.startswith(("sdqueue", "slack_sdk"))
        )


async def test_an_organisation_installs_the_app(site: Site) -> None:
    code = site.agree(enterprise="E5")
    assert said(await site.come_back(state=await site.begin(), code=code), 200, "installed in Org")
    assert (await site.installations.find("E5")) is not None
    assert (await site.installations.find("T5")) is None


async def test_the_cookie_goes_over_https_alone_where_the_site_does() -> None:
    async with site_of(redirect_url="https://bot.example/slack/oauth_redirect") as site:
        response = await site.http.get("/slack/install")
        assert "secure" in response.headers["set-cookie"].lower()


async def test_a_state_is_good_once(site: Site) -> None:
    state = await site.begin()
    cookies = dict(site.http.cookies)
    assert said(await site.come_back(state=state, code=site.agree()), 200, "Installed")
    # When the same way back is gone again, by a browser that still has the cookie
    site.http.cookies.update(cookies)
    assert said(await site.come_back(state=state, code=site.agree("code-2")), 400, "finished before")
    assert "code-2" in site.slack.codes  # Slack was not asked


async def test_two_ways_back_at_once_are_one(site: Site) -> None:
    state = await site.begin()
    site.agree("code-1")
    site.agree("code-2")
    cookies = dict(site.http.cookies)
    async with httpx.AsyncClient(base_url=site.http.base_url, cookies=cookies, trust_env=False) as other:
        pages = await asyncio.gather(
            site.come_back(state=state, code="code-1"),
            other.get("/slack/oauth_redirect", params={"state": state, "code": "code-2"}),
        )
    assert sorted(page.status_code for page in pages) == [200, 400]


async def test_a_state_is_good_in_its_own_browser(site: Site) -> None:
    # Given an installation that somebody has begun, who now hands its address to somebody else
    state = await site.begin()
    code = site.agree()
    async with httpx.AsyncClient(base_url=site.http.base_url, trust_env=False) as other:
        response = await other.get("/slack/oauth_redirect", params={"state": state, "code": code})
        assert said(response, 400, "not begun in this browser")
        await other.get("/slack/install")
        response = await other.get("/slack/oauth_redirect", params={"state": state, "code": code})
        assert said(response, 400, "not begun in this browser")
    # Then it was not used up by that
    assert said(await site.come_back(state=state, code=code), 200, "Installed")


async def test_a_state_lasts_ten_minutes() -> None:
    now = 1000.0
    async with site_of(MemoryState(clock=lambda: now)) as site:
        state = await site.begin()
        now += 601
        assert said(await site.come_back(state=state, code=site.agree()), 400, "took too long")


@pytest.mark.parametrize("query", [{}, {"state": ""}, {"state": "x"}, {"code": "code-1"}, {"state": "é", "code": "x"}])
async def test_a_way_back_that_was_not_begun_is_refused(site: Site, query: dict[str, str]) -> None:
    site.agree()
    assert said(await site.come_back(**query), 400, "not begun in this browser")
    assert "oauth.v2.access" not in site.slack.methods()


async def test_a_cookie_alone_is_worth_nothing(site: Site) -> None:
    site.http.cookies.set("sdqueue_slack_install", "made-up", path="/slack")
    assert said(await site.come_back(state="made-up", code=site.agree()), 400, "finished before")


async def test_whoever_does_not_agree_is_told(site: Site) -> None:
    response = await site.come_back(state=await site.begin(), error="<script>access_denied")
    assert said(response, 403, "not agreed to")
    assert "script" not in response.text


async def test_a_missing_code_is_told(site: Site) -> None:
    assert said(await site.come_back(state=await site.begin()), 400, "code is missing")


async def test_a_wrong_code_is_told(site: Site) -> None:
    assert said(await site.come_back(state=await site.begin(), code="made-up"), 400, "invalid_code")


async def test_a_wrong_client_secret_is_told() -> None:
    async with site_of(client_secret="other") as site:
        assert said(await site.come_back(state=await site.begin(), code=site.agree()), 400, "bad_client_secret")


@pytest.mark.parametrize(
    "fault",
    [
        server.limited(),
        server.broken(500),
        server.broken(503),
        server.cut(late=False),
        server.cut(late=True),
        server.Fault(raw="<html>not JSON</html>"),
        server.Fault(raw="[]"),
        server.Fault(raw=""),
    ],
)
async def test_a_slack_that_is_out_of_order_is_told(site: Site, fault: server.Fault) -> None:
    site.slack.fail("oauth.v2.access", fault)
    assert said(await site.come_back(state=await site.begin(), code=site.agree()), 503, "in a minute")
    assert await site.installations.find("T5") is None


async def test_a_slack_that_hangs_is_told() -> None:
    async with site_of(api_timeout_s=0.2) as site:
        site.slack.fail("oauth.v2.access", server.hang(late=False))
        assert said(await site.come_back(state=await site.begin(), code=site.agree()), 503, "cannot be reached")


WITH_TOKEN = {"ok": True, "access_token": TOKEN, "token_type": "bot", "team": {"id": "T5", "name": "Team"}}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (WITH_TOKEN | {"token_type": "user"}, "no token of a bot"),
        (WITH_TOKEN | {"access_token": None}, "no token of a bot"),
        (WITH_TOKEN | {"expires_in": 43200, "refresh_token": "xoxe-1"}, "token rotation"),
        (WITH_TOKEN | {"team": None}, "which workspace"),
        (WITH_TOKEN | {"team": {"id": 5}}, "which workspace"),
        (WITH_TOKEN | {"team": {"id": ["T"]}}, "which workspace"),
        (WITH_TOKEN | {"ok": False, "error": "bad_redirect_uri"}, "Slack refused it (bad_redirect_uri)"),
    ],
)
async def test_an_answer_that_will_not_do_is_told(
    site: Site, answer: dict[str, object], told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(site.slack, "_oauth", lambda body, request: answer)
    assert said(await site.come_back(state=await site.begin(), code="x"), 400, told)
    assert await site.installations.find("T5") is None
    assert TOKEN not in caplog.text


async def test_names_are_escaped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = WITH_TOKEN | {"team": {"id": "T5", "name": "<script>alert(1)"}}
    monkeypatch.setattr(site.slack, "_oauth", lambda body, request: answer)
    response = await site.come_back(state=await site.begin(), code="x")
    assert said(response, 200, "&lt;script&gt;")
    assert "<script" not in response.text


async def test_a_state_that_is_away_is_told() -> None:
    class Away(MemoryState):
        async def set(self, values: object, *, ttl_s: float | None) -> None:
            raise StoreUnavailable("redis://user:password@host is away")

    async with site_of(Away()) as site:
        assert said(response := await site.http.get("/slack/install"), 503, "try again")
        assert "password" not in response.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/slack/install", "/slack/oauth_redirect"])
async def test_the_pages_are_to_be_looked_at(site: Site, method: str, path: str) -> None:
    assert (await site.http.request(method, path)).status_code == 405


async def test_without_a_client_id_there_are_no_pages() -> None:
    async with site_of(client_id="", client_secret="", redirect_url="") as site:
        assert (await site.http.get("/slack/install")).status_code == 404


async def test_an_installation_that_is_gone_has_no_client(site: Site) -> None:
    await site.installations.save(Installation("T5", TOKEN, installed_at=1.0))
    await site.channel._clients("T5")
    await site.installations.delete("T5", until=2.0)
    with pytest.raises(Permanent, match="T5 has no token") as error:
        await site.channel._clients("T5")
    assert error.value.reason == "installation-gone"


async def test_a_token_that_cannot_be_read_now_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text("{")
    async with site_of(installations=f"file://{path}") as site:
        with pytest.raises(RetryAfter, match="cannot be read") as error:
            await site.channel._clients("T5")
        assert error.value.seconds is None
