"""SlackSettings: what the Slack channel can be told."""

from __future__ import annotations

from typing import ClassVar, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from sdqueue_producers.settings import ChannelSettings
from sdqueue_producers.slack.status import DEFAULT_STATUS

SCOPES: Final = (
    "app_mentions:read",
    "assistant:write",
    "channels:history",
    "chat:write",
    "chat:write.public",
    "commands",
    "files:read",
    "groups:history",
    "im:history",
    "mpim:history",
)
"""What the bot asks of a workspace; ``deploy/slack/manifest.yaml`` names the same, and a test compares them."""


class SlackSettings(ChannelSettings):
    """Settings of the Slack channel: ``SDQUEUE_SLACK_…``, or the table ``[slack]``."""

    channel: ClassVar[str] = "slack"

    signing_secret: SecretStr = Field(
        default=SecretStr(""), description="The signing secret of the app; without it nothing is received over HTTP."
    )
    bot_token: SecretStr = Field(
        default=SecretStr(""),
        description="The bot's token, xoxb-…, of the one workspace that installations=env:// serves.",
    )
    app_token: SecretStr = Field(
        default=SecretStr(""),
        description="A token of the app, xapp-…, with the scope connections:write; with it Socket Mode is used.",
    )
    socket_connections: int = Field(
        default=2, ge=1, le=10, description="How many sockets this process opens; Slack allows an app 10 in all."
    )
    installations: str = Field(
        default="env://",
        description="Where the tokens of workspaces are: env:// (bot_token), file:///path/tokens.json, or "
        "state://, the state that all producers share.",
    )
    client_id: str = Field(
        default="",
        description="The client id of the app; with it and client_secret the app can be installed at /slack/install.",
    )
    client_secret: SecretStr = Field(default=SecretStr(""), description="The client secret of the app.")
    redirect_url: str = Field(default="", description="The public address of /slack/oauth_redirect.")
    scopes: str = Field(default=",".join(SCOPES), description="What an installation asks for, with commas between.")
    stream: bool = Field(default=True, description="Whether turns ask for delta replies.")
    follow_threads: bool = Field(
        default=True,
        description="Whether what is said in a thread in which the bot takes part is for it without a mention.",
    )
    thread_ttl_s: float = Field(
        default=30 * 86_400.0, gt=0, description="Seconds after the last turn of a thread for which it is followed."
    )
    status: str = Field(
        default=DEFAULT_STATUS, description="Shown in assistant threads while an answer is made, behind the app's name."
    )
    api_url: str = Field(default="https://slack.com/api/", description="Where Slack's Web API is.")
    authorize_url: str = Field(
        default="https://slack.com/oauth/v2/authorize", description="Where a browser is sent to install the app."
    )
    api_timeout_s: float = Field(default=15.0, gt=0, description="Seconds that a call of the Web API may take.")

    @field_validator("api_url", "authorize_url", "redirect_url")
    @classmethod
    def _secured(cls, value: str) -> str:
        """Tokens and codes go there, so it is https, or this machine."""
        parts = urlsplit(value)
        local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
        if value and not (parts.hostname and (parts.scheme == "https" or local)):
            raise ValueError("must be an https:// address; http:// only on this machine")
        return value

    @field_validator("api_url")
    @classmethod
    def _folder(cls, value: str) -> str:
        return value if value.endswith("/") else f"{value}/"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.bot_token.get_secret_value().startswith("xapp-"):
            raise ValueError("SDQUEUE_SLACK_BOT_TOKEN is an app-level token (xapp-…); the bot's begins with xoxb-")
        if self.app_token.get_secret_value().startswith("xoxb-"):
            raise ValueError("SDQUEUE_SLACK_APP_TOKEN is the bot's token (xoxb-…); an app-level one begins with xapp-")
        if not self.signing_secret.get_secret_value() and not self.app_token.get_secret_value():
            raise ValueError(
                "nothing can be received: set SDQUEUE_SLACK_SIGNING_SECRET to receive over HTTP, or "
                "SDQUEUE_SLACK_APP_TOKEN for Socket Mode"
            )
        given = [bool(self.client_id), bool(self.client_secret.get_secret_value()), bool(self.redirect_url)]
        if any(given) and not all(given):
            raise ValueError(
                "to install the app over OAuth, set SDQUEUE_SLACK_CLIENT_ID, SDQUEUE_SLACK_CLIENT_SECRET and "
                "SDQUEUE_SLACK_REDIRECT_URL together"
            )
        if any(given) and self.installations.startswith("env:"):
            raise ValueError(
                "an installation over OAuth must be kept: set SDQUEUE_SLACK_INSTALLATIONS to state:// or file:///path"
            )
        return self

    @property
    def scope_names(self) -> tuple[str, ...]:
        """The single scopes."""
        return tuple(name.strip() for name in self.scopes.split(",") if name.strip())
