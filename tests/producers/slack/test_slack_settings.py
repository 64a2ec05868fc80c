"""The settings of the Slack channel, and the manifest that has to fit them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from sdqueue_producers import MemoryState
from sdqueue_producers.slack import SlackChannel, SlackSettings
from sdqueue_producers.slack.settings import SCOPES

from sdqueue.errors import ConfigurationError

DEPLOY = Path(__file__).parents[3] / "deploy" / "slack"
MANIFEST: dict[str, Any] = yaml.safe_load((DEPLOY / "manifest.yaml").read_text("utf-8"))
OAUTH = {
    "client_id": "1.2",
    "client_secret": "client-secret",
    "redirect_url": "https://bot.example/slack/oauth_redirect",
    "installations": "state://",
}


def test_the_manifest_asks_for_the_scopes_of_the_settings() -> None:
    assert (
        tuple(MANIFEST["oauth_config"]["scopes"]["bot"]) == SCOPES == SlackSettings.load(signing_secret="x").scope_names
    )


def test_the_manifest_names_the_paths_that_are_served() -> None:
    slack = SlackChannel(SlackSettings.load(signing_secret="x", **OAUTH), MemoryState())
    named = {
        MANIFEST["settings"]["event_subscriptions"]["request_url"],
        MANIFEST["settings"]["interactivity"]["request_url"],
        *(command["url"] for command in MANIFEST["features"]["slash_commands"]),
    }
    assert named == {f"https://bot.example.com{path}" for path in slack.paths}
    [redirect] = MANIFEST["oauth_config"]["redirect_urls"]
    assert redirect.removeprefix("https://bot.example.com") in {route.path for route in slack.routes(_submit)}


def test_the_manifest_subscribes_to_what_is_understood() -> None:
    assert set(MANIFEST["settings"]["event_subscriptions"]["bot_events"]) == {
        "app_mention", "app_uninstalled", "tokens_revoked", "assistant_thread_started",
        "assistant_thread_context_changed", "message.channels", "message.groups", "message.im", "message.mpim",
    }  # fmt: skip
    assert MANIFEST["settings"]["token_rotation_enabled"] is False  # it is not supported


async def _submit(receipt: object) -> None: ...


def test_secrets_are_not_shown() -> None:
    settings = SlackSettings.load(
        signing_secret="secret-1", bot_token="secret-2", app_token="secret-3", **OAUTH | {"client_secret": "secret-4"}
    )
    assert "secret-" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "SDQUEUE_SLACK_SIGNING_SECRET"),
        ({"signing_secret": "x", "client_id": "1"}, "SDQUEUE_SLACK_CLIENT_SECRET"),
        ({"signing_secret": "x", **OAUTH, "installations": "env://"}, "state://"),
        ({"signing_secret": "x", "api_url": "http://slack.com/api/"}, "https"),
        ({"signing_secret": "x", "api_url": "slack"}, "https"),
        ({"signing_secret": "x", **OAUTH, "redirect_url": "http://bot.example/"}, "https"),
        ({"signing_secret": "x", "socket_connections": 11}, "SDQUEUE_SLACK_SOCKET_CONNECTIONS"),
        ({"signing_secret": "x", "socket_connections": 0}, "SDQUEUE_SLACK_SOCKET_CONNECTIONS"),
    ],
)
def test_wrong_settings_are_told(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        SlackSettings.load(**given)


def test_the_api_is_slacks_unless_told() -> None:
    assert SlackSettings.load(signing_secret="x").api_url == "https://slack.com/api/"
    assert SlackSettings.load(signing_secret="x", api_url="http://127.0.0.1:1/api").api_url == "http://127.0.0.1:1/api/"


def test_they_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDQUEUE_SLACK_SIGNING_SECRET", "x")
    monkeypatch.setenv("SDQUEUE_SLACK_SOCKET_CONNECTIONS", "3")
    assert SlackSettings.load().socket_connections == 3
