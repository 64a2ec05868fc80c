"""TelegramSettings: bots, and how they hear of messages."""

from __future__ import annotations

import re
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from sdqueue_producers.settings import ChannelSettings

ONE_BOT = "bot"
"""The name of the bot whose token is the setting ``token``."""


class TelegramSettings(ChannelSettings):
    """Settings of the channel ``telegram``: ``SDQUEUE_TELEGRAM_TOKEN`` and so on, or the table ``[telegram]``."""

    channel: ClassVar[str] = "telegram"

    token: SecretStr = Field(
        default=SecretStr(""), description=f"The token of the only bot, which is named {ONE_BOT!r}."
    )
    tokens: dict[str, SecretStr] = Field(
        default_factory=dict, description="Tokens of several bots by name; a name is part of the session ids."
    )
    mode: Literal["webhook", "polling"] = Field(
        default="webhook",
        description="webhook: Telegram posts to /telegram/<bot>; polling: this asks for messages and needs no public "
        "address.",
    )
    secret_token: SecretStr = Field(
        default=SecretStr(""),
        description="What Telegram has to send with every post, 16 to 256 of A-Z, a-z, 0-9, _ and -; with webhooks.",
    )
    api_url: str = Field(default="https://api.telegram.org", description="Where the Bot API is.")
    groups: Literal["addressed", "all", "none"] = Field(
        default="addressed",
        description="What is answered in groups: addressed (a mention of the bot, a reply to it, a command), all that "
        "Telegram passes on, or none.",
    )
    parse_mode: Literal["", "HTML", "MarkdownV2", "Markdown"] = Field(
        default="", description="How Telegram reads answers; empty: as plain text. What it cannot read is sent plain."
    )
    stream: bool = Field(
        default=True, description="Show answers while they are made, by edits, in private chats: groups allow too few."
    )
    reply_in_groups: bool = Field(default=True, description="In groups, answer as a reply to the message.")
    poll_timeout_s: int = Field(default=25, ge=0, le=50, description="Seconds that one request for messages waits.")
    call_timeout_s: float = Field(default=15.0, gt=0, le=120, description="Seconds that another call may take.")

    @field_validator("tokens")
    @classmethod
    def _names_form(cls, tokens: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name in tokens:
            if not re.fullmatch(r"[a-z0-9_-]{1,32}", name):
                raise ValueError(f"{name!r}: a bot's name is 1 to 32 of a-z, 0-9, _ and -")
        return tokens

    @field_validator("secret_token")
    @classmethod
    def _secret_form(cls, secret: SecretStr) -> SecretStr:
        if secret.get_secret_value() and not re.fullmatch(r"[A-Za-z0-9_-]{16,256}", secret.get_secret_value()):
            raise ValueError("must be 16 to 256 of A-Z, a-z, 0-9, _ and -")
        return secret

    @field_validator("api_url")
    @classmethod
    def _url_form(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", url):
            raise ValueError(f"{url!r} is no address such as https://api.telegram.org")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        bots = self.bots
        if not bots:
            raise ValueError("no bot: set SDQUEUE_TELEGRAM_TOKEN to what @BotFather gave")
        for name, token in bots.items():
            if not re.fullmatch(r"[0-9]{1,20}:[A-Za-z0-9_-]{10,}", token.get_secret_value()):
                raise ValueError(f"the token of bot {name!r} is not one of @BotFather's, such as 12345:AAF…")
        if len({token.get_secret_value() for token in bots.values()}) < len(bots):
            raise ValueError("two bots have the same token")
        if self.mode == "webhook" and not self.secret_token.get_secret_value():
            raise ValueError("SDQUEUE_TELEGRAM_SECRET_TOKEN is needed with webhooks, so that nobody else can post")
        return self

    @property
    def bots(self) -> dict[str, SecretStr]:
        """All tokens by the bots' names."""
        one = {ONE_BOT: self.token} if self.token.get_secret_value() else {}
        return one | self.tokens
