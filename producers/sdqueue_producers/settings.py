"""ChannelSettings: what one channel can be told, read from where the settings of sdqueue are read."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from sdqueue.errors import ConfigurationError


class ChannelSettings(BaseSettings):
    """Base of the settings of a channel; each field is ``SDQUEUE_<CHANNEL>_<FIELD>``.

    Read, first wins: arguments, the environment, ``.env``, and the table ``[<channel>]`` of ``sdqueue.toml``. Fields
    that are lists or tables are JSON in the environment. Secrets are ``SecretStr``, so that nothing shows them.

    ::

        class SlackSettings(ChannelSettings):
            channel = "slack"
            bot_token: SecretStr = SecretStr("")
    """

    channel: ClassVar[str]

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, ``.env``, TOML."""
        prefix = cls._prefix()
        return (
            init_settings,
            EnvSettingsSource(settings_cls, env_prefix=prefix),
            DotEnvSettingsSource(settings_cls, env_prefix=prefix),
            InitSettingsSource(settings_cls, init_kwargs=cls._table()),
        )

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the settings; arguments that are ``None`` are as if not given.

        Raises:
            ConfigurationError: a value is wrong; the message names every wrong one, without showing it.
        """
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            problems = [
                f"  {cls._prefix()}{'.'.join(map(str, e['loc'])).upper()}: {e['msg'].removeprefix('Value error, ')}"
                if e["loc"]
                else f"  {e['msg'].removeprefix('Value error, ')}"
                for e in error.errors(include_url=False, include_input=False)
            ]
            told = "\n".join(problems)
            raise ConfigurationError(f"wrong settings of channel {cls.channel}:\n{told}") from None
        except SettingsError as error:  # a list or table in the environment that is not JSON; it names the field
            raise ConfigurationError(f"wrong settings of channel {cls.channel}: {error}; it must be JSON") from None

    @classmethod
    def _prefix(cls) -> str:
        return f"SDQUEUE_{cls.channel.upper().replace('-', '_')}_"

    @classmethod
    def _table(cls) -> dict[str, Any]:
        path = Path(os.environ.get("SDQUEUE_CONFIG") or "sdqueue.toml")
        if not path.is_file():
            return {}
        try:
            table = tomllib.loads(path.read_text("utf-8")).get(cls.channel, {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}: is not TOML in UTF-8: {error}") from None
        if not isinstance(table, dict):
            raise ConfigurationError(f"{path}: {cls.channel} must be a table: [{cls.channel}]")
        unknown = sorted(table.keys() - cls.model_fields.keys())
        if unknown:
            raise ConfigurationError(
                f"no such setting, in [{cls.channel}] of {path}: {', '.join(unknown)}; there are "
                f"{', '.join(cls.model_fields)}"
            )
        return table
