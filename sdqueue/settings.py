"""Settings: one object, checked at the start.

Read, first wins: arguments, the environment (``SDQUEUE_…``), files in the folder that ``SDQUEUE_SECRETS_DIR`` names
(see :mod:`sdqueue.secretfiles`), ``.env``, and ``sdqueue.toml`` (or the file named by ``SDQUEUE_CONFIG``) in the
current directory.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Container, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Any, Final, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sdqueue.agents import parse_routes
from sdqueue.brokers.topology import MAX_PARTITIONS
from sdqueue.channels import DoubleTexting, OnAmbiguous, OnDead, PerChannel
from sdqueue.errors import ConfigurationError
from sdqueue.messages import MAX_TEXT_BYTES
from sdqueue.secretfiles import VARIABLE as SECRETS_DIR
from sdqueue.secretfiles import SecretFilesSource, secret_files
from sdqueue.sessions.sealing.keyring import mask_keys, parse_keys
from sdqueue.urls import (
    BROKER_SCHEMES,
    KEYS_SCHEMES,
    LOCK_SCHEMES,
    PRODUCER_STATE_SCHEMES,
    STORE_SCHEMES,
    STREAM_SCHEMES,
    check_url,
    mask,
)

SECRETS: Final = frozenset({"encryption_keys"})
"""Settings that are no options of commands, as every user of the machine can read these, and are never shown."""


class Settings(BaseSettings):
    """Everything that can be configured; each field is an environment variable with prefix ``SDQUEUE_``."""

    model_config = SettingsConfigDict(
        env_prefix="SDQUEUE_", env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True,
        env_ignore_empty=True,
    )  # fmt: skip

    broker_url: str = Field(
        default="sqlite:///.sdqueue/broker.db",
        description="Where turns and replies travel: amqp:// or amqps:// (several hosts: a,b,c), sqlite:///path.db or memory://.",
    )
    store_url: str = Field(
        default="sqlite:///.sdqueue/sessions.db",
        description="Where sessions live: redis://, rediss://, redis+cluster://, redis+sentinel://, "
        "sqlite:///path.db, file:///dir, memory:// or null:// (nothing is kept).",
    )
    lock_url: str = Field(
        default="",
        description="What locks sessions: redis://, file:///dir or memory://. Default: what fits the store.",
    )
    stream_url: str = Field(
        default="",
        description="Where streamed answers are kept for a while, so that a client may read on: redis://, "
        "sqlite:///path.db, memory:// or null:// (nowhere). Default: what fits the store.",
    )
    stream_entries: int = Field(
        default=1000, ge=0, description="Pieces of a streamed answer that are kept at most; 0: none, of any answer."
    )
    stream_ttl_s: float = Field(
        default=300.0, ge=1, description="Seconds after its last piece that a streamed answer is kept."
    )
    encryption_keys: SecretStr = Field(
        default=SecretStr(""),
        description="Master keys that seal sessions in the store, id:base64, several separated by commas: the first "
        "seals, all open. `sdqueue keys generate` makes one. Default: sessions are not encrypted.",
    )
    keys_url: str = Field(
        default="",
        description="Where the wrapped keys of sealed sessions live: redis://, sqlite:///path.db, file:///dir or "
        "memory://. Default: beside the store.",
    )
    encryption_accept_plain: bool = Field(
        default=True, description="Whether sessions that are not sealed can be read; their next save seals them."
    )
    agent: str = Field(
        default="",
        description="The agent, package.module:factory, or openai/MODEL for a language model (pip install "
        "'sdqueue[openai]'; OPENAI_API_KEY, OPENAI_BASE_URL). Default: a built-in one that remembers what you say. "
        "Several, by the channel or the metadata of a session's first turn: "
        "slack=bot:make,metadata.plan:gold=vip:make,default=bot:plain.",
    )
    system_prompt: str = Field(
        default="", description="What a language model is told first, where the agent is openai/MODEL."
    )
    namespace: str = Field(default="sdqueue", description="Prefix of every queue, exchange and key.")
    partitions: int = Field(
        default=64,
        ge=1,
        le=MAX_PARTITIONS,
        description="Queues that the turns are spread over; the same everywhere.",
    )
    apply: bool = Field(
        default=True,
        description="Whether consumers and producers declare exchanges and queues where they are missing, which takes "
        "the permission to; else they wait until somebody has (sdqueue topology apply).",
    )
    concurrency: int = Field(default=512, ge=1, le=100_000, description="Turns that one consumer process runs at once.")
    prefetch: int = Field(
        default=200, ge=1, le=2000, description="Unacknowledged turns a partition; the same in all consumers."
    )
    max_sessions: int = Field(default=1000, ge=0, description="Sessions that a consumer keeps in memory between turns.")
    lock_ttl_s: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="Seconds after which a lock that is not renewed may be taken.",
    )
    turn_timeout_s: float = Field(
        default=120.0,
        gt=0,
        le=1500,
        description="Seconds that an agent may take for a turn, all attempts together.",
    )
    max_attempts: int = Field(
        default=4, ge=1, le=100, description="Starts of the agent for a turn that fails passingly."
    )
    grace_s: float = Field(default=30.0, ge=0, description="Seconds that running turns get at a shutdown.")
    double_texting: str = Field(
        default="enqueue",
        description="What a turn does that arrives while another of its session runs: enqueue (wait), collect (all "
        "that wait become one), interrupt (stop the running one) or reject; per channel: enqueue,slack=interrupt.",
    )
    on_dead: str = Field(
        default="skip",
        description="What a dead turn does to its session: skip (go on) or park (later turns wait until it is "
        "replayed or discarded); per channel: skip,slack=park.",
    )
    mailbox_size: int = Field(
        default=64,
        ge=1,
        le=2000,
        description="Turns of one session that wait in memory; further ones wait in the store.",
    )
    backlog_size: int = Field(
        default=10_000, ge=1, description="Turns of one session that wait in the store; further ones are refused."
    )
    max_text_bytes: int = Field(
        default=MAX_TEXT_BYTES,
        ge=1,
        le=16 * 1024 * 1024,
        description="Longest text of a turn, in bytes of UTF-8.",
    )
    consumer_timeout_s: float = Field(
        default=1800.0,
        gt=0,
        description="Seconds after which the broker takes unacknowledged turns away (RabbitMQ's consumer_timeout); "
        "a third of it is warned of.",
    )
    session_ttl_s: float = Field(
        default=30 * 24 * 3600.0, ge=60, description="Seconds after its last save that Redis keeps a session."
    )
    kept_replies: int = Field(default=64, ge=1, description="Last turns of a session whose replies are remembered.")
    kept_ids_s: float = Field(
        default=24 * 3600.0,
        ge=0,
        description="Seconds that turn ids are remembered, to drop what platforms redeliver.",
    )
    history_messages: int = Field(
        default=0, ge=0, description="Messages of a conversation that are kept, the latest; 0: all."
    )
    history_tokens: int = Field(
        default=0, ge=0, description="Tokens of a conversation that are kept, estimated, the latest; 0: all."
    )
    channels: str = Field(
        default="",
        description="The channels that a producer serves, such as slack,webhook; each has settings of its own.",
    )
    producer_host: str = Field(default="127.0.0.1", description="Where a producer listens; 0.0.0.0: everywhere.")
    producer_port: int = Field(default=8080, ge=0, le=65535, description="The port of a producer; 0: any that is free.")
    producer_state_url: str = Field(
        default="",
        description="Where producers keep what they have seen and delivered, rate limits and replies that wait for a "
        "later try: redis://, sqlite:///path.db or memory://. Default: what fits the store.",
    )
    on_ambiguous: str = Field(
        default="resend",
        description="What a producer does with a reply of which nobody knows whether it is visible: resend (it may be "
        "there twice) or drop (it may be missing); per channel: resend,telegram=drop.",
    )
    public_url: str = Field(
        default="", description="Under which address platforms reach a producer, such as https://bot.example.com."
    )
    max_body_bytes: int = Field(
        default=1024 * 1024, ge=1, description="Largest request that a producer reads, in bytes."
    )
    request_timeout_s: float = Field(default=10.0, gt=0, description="Seconds that a request may take to arrive whole.")
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Serve /metrics for Prometheus, and /healthz and /readyz for probes, here; 0: do not.",
    )
    blocked_limit_s: float = Field(
        default=30.0,
        ge=1,
        description="Seconds that the event loop may stand still before /healthz asks for a restart: an agent must "
        "not compute in it for so long.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What is logged.")
    log_format: Literal["text", "json"] = Field(default="text", description="How it is logged.")

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

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
        return (
            init_settings,
            env_settings,
            SecretFilesSource(settings_cls),
            dotenv_settings,
            TomlConfigSettingsSource(settings_cls, _config_path()),
        )

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the settings; arguments that are ``None`` are as if not given.

        Raises:
            ConfigurationError: a value is wrong; the message names every wrong one and where it was read. Or
                a name that is no setting is given, as an argument or in the TOML file.
        """
        given = {name: value for name, value in given.items() if value is not None}
        cls._check_names(given, "given")
        secrets = SecretFilesSource(cls)
        sources = [
            (given, "argument"),
            (EnvSettingsSource(cls)(), "environment"),
            *(({name: value}, str(secrets.files[name])) for name, value in secrets().items()),
            (DotEnvSettingsSource(cls)(), str(cls.model_config["env_file"])),
            (cls._read_toml(), _config_path().name),
        ]
        origins: dict[str, str] = {}
        for values, origin in reversed(sources):
            origins |= {name.lower(): origin for name in values if name.lower() in cls.model_fields}
        try:
            settings = cls(**given)
        except ValidationError as error:
            secret = {name for name, file in secrets.files.items() if origins.get(name) == str(file)}
            problems = "\n".join(_problem(e, origins, secret) for e in error.errors(include_url=False))
            raise ConfigurationError(f"wrong settings:\n{problems}") from None
        settings._origins.update(origins)
        return settings

    @classmethod
    def _read_toml(cls) -> dict[str, Any]:
        path = _config_path()
        if os.environ.get("SDQUEUE_CONFIG") and not path.is_file():
            raise ConfigurationError(f"SDQUEUE_CONFIG names {str(path)!r}, which is no file")
        try:
            values = TomlConfigSettingsSource(cls, path)()
        except (TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}: is not TOML in UTF-8: {error}") from None
        channels = installed_channels()
        values = {name: value for name, value in values.items() if not (isinstance(value, dict) and name in channels)}
        cls._check_names(values, f"in {path}")
        return values

    @classmethod
    def _check_names(cls, names: Mapping[str, Any], where: str) -> None:
        unknown = [name for name in names if name not in cls.model_fields]
        if not unknown:
            return
        hints = [
            f"{name!r}"
            + (f" (is {close[0]!r} meant?)" if (close := difflib.get_close_matches(name, cls.model_fields)) else "")
            for name in unknown
        ]
        raise ConfigurationError(f"no such setting, {where}: {', '.join(hints)}; `sdqueue settings` lists them all")

    def origin(self, name: str) -> str:
        """Where a value was read: ``argument``, ``environment``, the path of a file of its own, ``.env``, the TOML
        file, or ``default``."""
        return self._origins.get(name, "default")

    @field_validator("broker_url")
    @classmethod
    def _broker_scheme(cls, url: str) -> str:
        return check_url(url, BROKER_SCHEMES)

    @field_validator("store_url")
    @classmethod
    def _store_scheme(cls, url: str) -> str:
        return check_url(url, STORE_SCHEMES)

    @field_validator("lock_url")
    @classmethod
    def _lock_scheme(cls, url: str) -> str:
        return url and check_url(url, LOCK_SCHEMES)

    @field_validator("stream_url")
    @classmethod
    def _stream_scheme(cls, url: str) -> str:
        return url and check_url(url, STREAM_SCHEMES)

    @field_validator("producer_state_url")
    @classmethod
    def _producer_state_scheme(cls, url: str) -> str:
        return url and check_url(url, PRODUCER_STATE_SCHEMES)

    @field_validator("public_url")
    @classmethod
    def _public_url_form(cls, url: str) -> str:
        if url and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", url):
            raise ValueError("must be an address like https://bot.example.com, without a query")
        return url.rstrip("/")

    @field_validator("keys_url")
    @classmethod
    def _keys_scheme(cls, url: str) -> str:
        return url and check_url(url, KEYS_SCHEMES)

    @field_validator("encryption_keys")
    @classmethod
    def _encryption_keys_form(cls, keys: SecretStr) -> SecretStr:
        if keys.get_secret_value():
            parse_keys(keys.get_secret_value())
        return keys

    @field_validator("namespace")
    @classmethod
    def _namespace_form(cls, namespace: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", namespace):
            raise ValueError(
                "must be 1 to 100 letters, digits, dots, dashes or underscores, with a letter or digit first"
            )
        return namespace

    @field_validator("double_texting")
    @classmethod
    def _double_texting_form(cls, text: str) -> str:
        PerChannel.parse(text, DoubleTexting.ENQUEUE)
        return text

    @field_validator("on_dead")
    @classmethod
    def _on_dead_form(cls, text: str) -> str:
        PerChannel.parse(text, OnDead.SKIP)
        return text

    @field_validator("on_ambiguous")
    @classmethod
    def _on_ambiguous_form(cls, text: str) -> str:
        PerChannel.parse(text, OnAmbiguous.RESEND)
        return text

    @field_validator("agent", mode="before")
    @classmethod
    def _agents_joined(cls, agent: Any) -> Any:
        return ",".join(agent) if isinstance(agent, list) and all(isinstance(a, str) for a in agent) else agent

    @field_validator("agent")
    @classmethod
    def _agent_form(cls, agent: str) -> str:
        for name in parse_routes(agent).values() if agent else ():
            if not re.fullmatch(r"[\w.]+:[\w.]+|openai/\S+", name):
                raise ValueError("must have the form package.module:factory, or openai/MODEL")
        return agent

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.store_url.startswith("memory:") and not self.broker_url.startswith("memory:"):
            raise ValueError(
                f"SDQUEUE_STORE_URL is {self.store_url}, which ends with its process, but the broker "
                f"{mask(self.broker_url)} outlives it: acknowledged turns would be forgotten; "
                "use sqlite:/// or redis://"
            )
        if self.keys_url.startswith("memory:") and not self.store_url.startswith("memory:"):
            raise ValueError(
                f"SDQUEUE_KEYS_URL is {self.keys_url}, which ends with its process, but the store "
                f"{mask(self.store_url)} outlives it: nobody could open its sessions; use sqlite:/// or redis://"
            )
        return self

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """Variables, and files of secrets, that look like settings and are none: mistyped, or somebody else's.

        No error, since Kubernetes makes such variables for a service of the name ``sdqueue``.
        """
        known = {*(f"SDQUEUE_{name.upper()}" for name in cls.model_fields), "SDQUEUE_CONFIG", SECRETS_DIR}
        channels = [name.upper().replace("-", "_") for name in installed_channels()]
        others = ("SDQUEUE_TEST_", *(f"SDQUEUE_{name}_" for name in channels))
        found = {name: name for name in os.environ} | {n.upper(): str(f) for n, f in secret_files().items()}
        mine = (name for name in found if name.startswith("SDQUEUE_") and not name.startswith(others))
        return sorted(found[name] for name in mine if name not in known)

    def masked(self) -> dict[str, Any]:
        """All values by name, with the passwords in URLs, and keys, replaced by ``***``."""
        return {name: _masked(name, value) for name, value in self.model_dump().items()}


def installed_channels() -> list[str]:
    """The channels of producers that are installed: the names of the entry point group ``sdqueue.channels``.

    Each has settings of its own, in variables and a table of its name.
    """
    return sorted({entry.name for entry in entry_points(group="sdqueue.channels")})


def needed_extras(channels: Iterable[str]) -> str:
    """What pip has to install for these channels: ``'sdqueue[slack,webhook]'``.

    The front door with OpenAI's API needs nothing of its own; the extra ``openai`` is for language models.
    """
    extras = sorted({"slack", "telegram", "webchat", "webhook"}.intersection(channels))
    return f"'sdqueue[{','.join(extras) or 'producers'}]'"


def _config_path() -> Path:
    return Path(os.environ.get("SDQUEUE_CONFIG") or "sdqueue.toml")


def _problem(error: Mapping[str, Any], origins: Mapping[str, str], secret: Container[str]) -> str:
    """A wrong value, by the name of its variable, with its source; one out of a file of secrets is not shown."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return f"  {message}"
    name = str(error["loc"][0])
    got = "" if name in secret else f", got {_masked(name, error['input'])!r}"
    return f"  SDQUEUE_{name.upper()} ({origins.get(name, 'default')}): {message}{got}"


def _masked(name: str, value: object) -> object:
    """A value without its secrets."""
    if name in SECRETS:
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return text and mask_keys(text)
    return mask(value) if isinstance(value, str) else value
