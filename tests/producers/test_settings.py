"""Settings of channels: what is wrong is told by the name of its variable, in words that need no Python."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from sdqueue_producers.openai.settings import OpenAISettings
from sdqueue_producers.registry import settings_of
from sdqueue_producers.settings import ChannelSettings
from sdqueue_producers.slack.settings import SlackSettings
from sdqueue_producers.webchat.settings import WebchatSettings
from sdqueue_producers.webhook.settings import WebhookSettings

from sdqueue.errors import ConfigurationError
from sdqueue.settings import installed_channels, needed_extras

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("settings", "variable", "value", "said"),
    [
        (OpenAISettings, "SDQUEUE_OPENAI_KEYS", "me", "SDQUEUE_OPENAI_KEYS: must be JSON"),
        (OpenAISettings, "SDQUEUE_OPENAI_KEYS", "[1]", "SDQUEUE_OPENAI_KEYS: must be a table; in the env"),
        (WebchatSettings, "SDQUEUE_WEBCHAT_SECRETS", "", "SDQUEUE_WEBCHAT_SECRETS: is needed, and not set. What signs"),
        (WebchatSettings, "SDQUEUE_WEBCHAT_PAGE", "maybe", "SDQUEUE_WEBCHAT_PAGE: must be true or false"),
        (
            WebhookSettings, "SDQUEUE_WEBHOOK_ENDPOINTS", '{"crm": {"opne": true}}',
            "SDQUEUE_WEBHOOK_ENDPOINTS: crm.opne: there is no such setting",
        ),
        (
            WebhookSettings, "SDQUEUE_WEBHOOK_ENDPOINTS", '{"crm": {"tokens": "x"}}',
            "SDQUEUE_WEBHOOK_ENDPOINTS: crm.tokens: must be a list",
        ),
        (SlackSettings, "SDQUEUE_SLACK_BOT_TOKEN", "xapp-1-hidden", "SDQUEUE_SLACK_BOT_TOKEN is an app-level token"),
        (SlackSettings, "SDQUEUE_SLACK_APP_TOKEN", "xoxb-1-hidden", "SDQUEUE_SLACK_APP_TOKEN is the bot's token"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_by_its_variable(
    settings: type[ChannelSettings], variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as told:
        settings.load()
    assert said in str(told.value)
    assert "hidden" not in str(told.value)


@pytest.mark.parametrize("page", ["README.md", "docs/openai-api.md"])
def test_the_key_that_a_page_shows_is_accepted(page: str) -> None:
    """Who copies the line gets a producer that starts."""
    shown = re.findall(r"export SDQUEUE_OPENAI_KEYS='(.*)'", (ROOT / page).read_text())
    assert shown
    for keys in shown:
        OpenAISettings.load(keys=json.loads(keys))


def test_the_key_of_the_message_is_accepted() -> None:
    with pytest.raises(ConfigurationError) as told:
        OpenAISettings.load()
    OpenAISettings.load(keys=json.loads(str(told.value).partition("such as ")[2]))


def test_a_mistyped_variable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDQUEUE_OPENAI_KEY", "x")
    monkeypatch.setenv("SDQUEUE_OPENAI_KEYS", "{}")
    assert OpenAISettings.unknown_variables() == ["SDQUEUE_OPENAI_KEY"]


def test_it_is_known_where_a_value_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sdqueue.toml").write_text("[webchat]\nmax_chars = 5\nsites = ['a']\n")
    (tmp_path / ".env").write_text(f"SDQUEUE_WEBCHAT_SECRETS={'s' * 32}\n")
    monkeypatch.setenv("SDQUEUE_WEBCHAT_SITES", "b")

    settings = WebchatSettings.load()

    origins = [settings.origin(name) for name in ("sites", "secrets", "max_chars", "page")]
    assert origins == ["environment", ".env", "sdqueue.toml", "default"]


def test_every_setting_of_a_channel_says_what_it_is() -> None:
    """`sdqueue settings` shows it."""
    for channel in installed_channels():
        settings = settings_of(channel)
        assert settings is not None
        assert not [name for name, field in settings.model_fields.items() if not field.description]


@pytest.mark.parametrize(
    ("channels", "extras"),
    [
        (["webchat", "slack", "openai"], "'sdqueue[slack,webchat]'"),
        (["openai"], "'sdqueue[producers]'"),
        (["somebody-elses"], "'sdqueue[producers]'"),
    ],
)
def test_the_extras_of_all_channels_are_named_at_once(channels: list[str], extras: str) -> None:
    assert needed_extras(channels) == extras
