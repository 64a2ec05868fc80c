"""ChannelSettings: what one channel can be told, read from where the settings of sdqueue are read."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

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
from sdqueue.secretfiles import SecretFilesSource, secret_files
from sdqueue.settings import installed_channels

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_WORDS: Final = {
    "missing": "is needed, and not set",
    "dict_type": "must be a table; in the environment, a JSON object",
    "list_type": "must be a list; in the environment, a JSON array",
    "tuple_type": "must be a list; in the environment, a JSON array",
    "extra_forbidden": "there is no such setting",
    "bool_parsing": "must be true or false",
}
"""What is said in place of pydantic's words, which are about Python."""


class ChannelSettings(BaseSettings):
    """Base of the settings of a channel; each field is ``SDQUEUE_<CHANNEL>_<FIELD>``.

    Read, first wins: arguments, the environment, files ``sdqueue_<channel>_<field>`` in ``SDQUEUE_SECRETS_DIR``,
    ``.env``, and the table ``[<channel>]`` of ``sdqueue.toml``. Fields that are lists or tables are JSON in all but the
    last. Secrets are ``SecretStr``, so that nothing shows them.

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
        """Arguments, environment, files of secrets, ``.env``, TOML."""
        prefix = cls._prefix()
        return (
            init_settings,
            EnvSettingsSource(settings_cls, env_prefix=prefix),
            SecretFilesSource(settings_cls, env_prefix=prefix),
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
            told = "\n".join(f"  {cls._problem(e)}" for e in error.errors(include_url=False, include_input=False))
            raise ConfigurationError(f"wrong settings of channel {cls.channel}:\n{told}") from None
        except SettingsError as error:  # a list or table in the environment that is not JSON; it names the field
            field = re.search(r'field "(\w+)"', str(error))
            what = f"{cls._prefix()}{field[1].upper()}" if field else str(error)
            raise ConfigurationError(f"wrong settings of channel {cls.channel}:\n  {what}: must be JSON") from None

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """Variables, and files of secrets, that begin like those of this channel and are none: mistyped, perhaps."""
        known = {f"{cls._prefix()}{name.upper()}" for name in cls.model_fields}
        longer = tuple(f"{cls._prefix()}{other}_" for other in cls._longer_names())  # channel `web` beside `web-shop`
        found = {name: name for name in os.environ} | {n.upper(): str(f) for n, f in secret_files().items()}
        mine = (name for name in found if name.startswith(cls._prefix()) and not name.startswith(longer))
        return sorted(found[name] for name in mine if name not in known)

    @classmethod
    def _longer_names(cls) -> list[str]:
        own = f"{cls.channel.replace('-', '_')}_"
        names = (name.replace("-", "_") for name in installed_channels())
        return [name.removeprefix(own).upper() for name in names if name.startswith(own)]

    def origin(self, name: str) -> str:
        """Where the value of a field was read: ``environment``, the path of a file of its own, ``.env``,
        ``sdqueue.toml``, or ``default``."""
        if name not in self.model_fields_set:
            return "default"
        if os.environ.get(f"{self._prefix()}{name.upper()}"):
            return "environment"
        secrets = SecretFilesSource(type(self), env_prefix=self._prefix())
        if name in secrets():
            return str(secrets.files[name])
        return str(_config_path()) if name in self._table() else ".env"

    @classmethod
    def _problem(cls, error: ErrorDetails) -> str:
        """A wrong value, by the name of its variable, and where in it."""
        message = _WORDS.get(error["type"]) or error["msg"].removeprefix("Value error, ")
        if not error["loc"]:
            return message
        name, *inside = map(str, error["loc"])
        if error["type"] == "missing" and (field := cls.model_fields.get(name)) and field.description:
            message += f". {field.description}"
        return f"{cls._prefix()}{name.upper()}: {'.'.join(inside)}{': ' if inside else ''}{message}"

    @classmethod
    def _prefix(cls) -> str:
        return f"SDQUEUE_{cls.channel.upper().replace('-', '_')}_"

    @classmethod
    def _table(cls) -> dict[str, Any]:
        path = _config_path()
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


def _config_path() -> Path:
    return Path(os.environ.get("SDQUEUE_CONFIG") or "sdqueue.toml")
