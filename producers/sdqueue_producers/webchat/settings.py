"""WebchatSettings: what the web chat can be told."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from sdqueue_producers.settings import ChannelSettings

LEAST_SECRET: Final = 32
"""Characters that a secret has at least: as many as HMAC-SHA256 has bytes."""

_SITE: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")


class WebchatSettings(ChannelSettings):
    """Settings ``SDQUEUE_WEBCHAT_…``; lists are written with commas between."""

    channel: ClassVar[str] = "webchat"

    secrets: SecretStr = Field(
        description="What signs visitor tokens, several with commas between: the first signs, all are accepted; "
        "`openssl rand -base64 33` makes one."
    )
    backend_secrets: SecretStr = Field(
        default=SecretStr(""),
        description="What the operator's own backend shows as a bearer token to get tokens for its visitors, several "
        "with commas between. Default: it cannot get any.",
    )
    sites: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("main",), description="Names of the sites that are served; visitors of one are strangers to others."
    )
    origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Other origins whose pages may use the chat, such as https://shop.example; * is all."
    )
    anonymous: bool = Field(default=False, description="Whether anybody gets a token of a new visitor.")
    anonymous_per_minute: int = Field(
        default=10, ge=1, description="Tokens that one client address gets in a minute, new ones and renewed ones."
    )
    token_ttl_s: float = Field(
        default=3600.0, ge=1, le=30 * 86_400, description="Seconds that a token of a named visitor is good for."
    )
    anonymous_ttl_s: float = Field(
        default=7 * 86_400.0, ge=1, le=365 * 86_400, description="The same for an anonymous one."
    )
    max_chars: int = Field(default=8000, ge=1, le=65_536, description="Longest message of a visitor, in characters.")
    messages_per_minute: int = Field(default=30, ge=1, description="Messages that a session may send in a minute.")
    feed_entries: int = Field(default=500, ge=10, le=10_000, description="Entries of a session that are kept.")
    feed_ttl_s: float = Field(default=86_400.0, ge=60, description="Seconds that a session is kept after its last one.")
    max_connections: int = Field(
        default=5000, ge=1, description="Sockets and event streams that one process holds at once."
    )
    session_connections: int = Field(default=20, ge=1, description="The same, of one session.")
    heartbeat_s: float = Field(
        default=15.0, gt=0, description="Seconds after which a connection without news hears that it is alive."
    )
    send_timeout_s: float = Field(
        default=20.0, gt=0, description="Seconds that a client may take to accept something, before it is cut off."
    )
    stream: bool = Field(default=True, description="Whether answers are shown while they are made.")
    page: bool = Field(default=True, description="Whether GET /webchat/ shows a page to try the chat on.")

    @field_validator("sites", "origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("secrets", "backend_secrets")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        for secret in _parts(value):
            if len(secret) < LEAST_SECRET:
                raise ValueError(
                    f"each secret has at least {LEAST_SECRET} characters; `openssl rand -base64 33` makes one"
                )
        return value

    @field_validator("secrets")
    @classmethod
    def _there(cls, value: SecretStr) -> SecretStr:
        if not _parts(value):
            raise ValueError("has no secret; `openssl rand -base64 33` makes one")
        return value

    @field_validator("sites")
    @classmethod
    def _sites(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or any(not _SITE.fullmatch(site) for site in value):
            raise ValueError("each site is 1 to 32 letters, digits, _ and -, and there is at least one")
        return value

    @field_validator("origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin == "*":
                continue
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or not parts.netloc
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ValueError(f"{origin!r} is no origin; write it as https://shop.example, without a path")
        return tuple(origin.lower() for origin in value)

    @property
    def signing(self) -> tuple[bytes, ...]:
        """The secrets of visitor tokens, the one that signs first."""
        return _parts(self.secrets)

    @property
    def backend(self) -> tuple[bytes, ...]:
        """The bearer secrets of the operator's backend."""
        return _parts(self.backend_secrets)


def _parts(value: SecretStr) -> tuple[bytes, ...]:
    return tuple(part.strip().encode() for part in value.get_secret_value().split(",") if part.strip())
