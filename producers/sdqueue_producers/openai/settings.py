"""OpenAISettings: keys, models and waiting times of the front door."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import Field, SecretStr, field_validator

from sdqueue_producers.settings import ChannelSettings

MIN_KEY_CHARS = 16
"""Shortest secret that is accepted as a key."""


class OpenAISettings(ChannelSettings):
    """Settings of the channel ``openai``: ``SDQUEUE_OPENAI_KEYS`` and so on, or the table ``[openai]``."""

    channel: ClassVar[str] = "openai"

    keys: dict[str, list[SecretStr]] = Field(
        default_factory=dict,
        validate_default=True,
        description="Bearer keys by name, at least one; a list holds several, while one is replaced. The name is part "
        "of the session ids, so that nobody reaches the sessions of another name.",
    )
    models: list[str] = Field(
        default=["sdqueue"],
        min_length=1,
        description="Names that clients may ask for; the one asked for is metadata.model of the turn.",
    )
    session_headers: list[str] = Field(
        default=["x-session-id", "x-openwebui-chat-id"],
        description="Headers that name the session, the first one present counts.",
    )
    answer_timeout_s: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="Longest wait for an answer, or for its next piece, in seconds; 0: the longest turn and 30 s more.",
    )
    keepalive_s: float = Field(
        default=15.0,
        gt=0,
        le=300,
        description="Seconds of silence after which a stream says that it is alive. Up to the first of them an error "
        "still has its own status.",
    )
    kept_answers_s: float = Field(
        default=3600.0,
        ge=0,
        le=30 * 86_400,
        description="Seconds that answers of /v1/responses can be fetched by their ids; 0: not at all.",
    )

    @field_validator("keys", mode="before")
    @classmethod
    def _one_or_several(cls, keys: Any) -> Any:
        if not isinstance(keys, dict):
            return keys
        return {name: [key] if isinstance(key, str | SecretStr) else key for name, key in keys.items()}

    @field_validator("keys")
    @classmethod
    def _keys_form(cls, keys: dict[str, list[SecretStr]]) -> dict[str, list[SecretStr]]:
        if not keys:
            raise ValueError('at least one key is needed, such as {"alice": "a-long-random-secret"}')
        for name, secrets in keys.items():
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
                raise ValueError(f"{name!r}: a key's name is 1 to 64 of A-Z, a-z, 0-9, _, . and -")
            for secret in secrets:
                if not re.fullmatch(rf"[\x21-\x7e]{{{MIN_KEY_CHARS},}}", secret.get_secret_value()):
                    raise ValueError(
                        f"the key {name!r} must be {MIN_KEY_CHARS} or more ASCII characters without spaces"
                    )
        known = [secret.get_secret_value() for secrets in keys.values() for secret in secrets]
        if not all(keys.values()) or len(set(known)) < len(known):
            raise ValueError("a name has no key, or a key is there twice")
        return keys

    @field_validator("models")
    @classmethod
    def _models_form(cls, models: list[str]) -> list[str]:
        for model in models:
            if not re.fullmatch(r"[A-Za-z0-9_.:@-]{1,128}", model):
                raise ValueError(f"{model!r}: a model's name is 1 to 128 of A-Z, a-z, 0-9, _, ., :, @ and -")
        if len(set(models)) < len(models):
            raise ValueError("a model is named twice")
        return models

    @field_validator("session_headers")
    @classmethod
    def _headers_form(cls, headers: list[str]) -> list[str]:
        return [header.strip().lower() for header in headers]
