"""Settings: where they are read, what is refused and how it is said, and which backends they open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sdqueue.backends import default_lock_url, open_broker, open_locks, open_store, opened_sessions, path_of
from sdqueue.errors import ConfigurationError
from sdqueue.settings import Settings
from sdqueue.urls import each_host, mask


@pytest.fixture(autouse=True)
def clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and none of the caller's settings."""
    for name in [name for name in os.environ if name.startswith("SDQUEUE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_defaults_work_without_any_configuration() -> None:
    settings = Settings.load()
    assert (settings.broker_url, settings.partitions) == ("sqlite:///.sdqueue/broker.db", 64)
    assert {settings.origin(name) for name in Settings.model_fields} == {"default"}


def test_arguments_win_over_environment_dotenv_and_toml(clean_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("partitions", "concurrency", "prefetch", "max_sessions")
    (clean_place / "sdqueue.toml").write_text("".join(f"{name} = 4\n" for name in names))
    (clean_place / ".env").write_text("".join(f"SDQUEUE_{name.upper()}=3\n" for name in names[:3]))
    for name in names[:2]:
        monkeypatch.setenv(f"SDQUEUE_{name.upper()}", "2")

    settings = Settings.load(partitions=1, prefetch=None)

    assert [getattr(settings, name) for name in names] == [1, 2, 3, 4]
    assert [settings.origin(name) for name in names] == ["argument", "environment", ".env", "sdqueue.toml"]
    assert settings.origin("namespace") == "default"


def test_a_toml_file_may_have_another_name(clean_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clean_place / "pool.toml").write_text('namespace = "pool"')
    monkeypatch.setenv("SDQUEUE_CONFIG", "pool.toml")
    assert Settings.load().namespace == "pool"
    assert Settings.load().origin("namespace") == "pool.toml"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("concurency = 3", r"no such setting, in sdqueue\.toml: 'concurency' \(is 'concurrency' meant\?\)"),
        ("[sdqueue]\npartitions = 3", "no such setting, in sdqueue.toml: 'sdqueue'"),
        ("partitions = ", "sdqueue.toml: is not TOML"),
        ('partitions = "many"', r"SDQUEUE_PARTITIONS \(sdqueue\.toml\): .* got 'many'"),
    ],
)
def test_a_wrong_toml_file_is_named_with_what_is_wrong(clean_place: Path, toml: str, message: str) -> None:
    (clean_place / "sdqueue.toml").write_text(toml)
    with pytest.raises(ConfigurationError, match=message):
        Settings.load()


def test_a_toml_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDQUEUE_CONFIG", "nowhere.toml")
    with pytest.raises(ConfigurationError, match=r"'nowhere\.toml', which is no file"):
        Settings.load()


def test_every_wrong_value_is_named_with_its_variable_and_source(
    clean_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clean_place / ".env").write_text("SDQUEUE_PARTITIONS=10000\n")
    monkeypatch.setenv("SDQUEUE_LOG_LEVEL", "loud")
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(lock_ttl_s="soon")
    message = str(raised.value)
    assert "SDQUEUE_PARTITIONS (.env): Input should be less than or equal to 9999, got '10000'" in message
    assert "SDQUEUE_LOG_LEVEL (environment): Input should be 'debug', 'info'" in message
    assert "SDQUEUE_LOCK_TTL_S (argument): " in message
    assert "got 'soon'" in message


def test_an_empty_variable_is_as_if_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDQUEUE_PARTITIONS", "")
    monkeypatch.setenv("SDQUEUE_CONFIG", "")
    assert Settings.load().partitions == 64


def test_an_argument_that_is_no_setting_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'broker' \(is 'broker_url' meant\?\)"):
        Settings.load(broker="memory://")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("broker_url", "redis://localhost", "must start with one of memory://, sqlite://, amqp://, amqps://"),
        ("broker_url", "localhost:5672", "must start with one of"),
        ("broker_url", "amqp://", "needs a host"),
        ("broker_url", "amqp://user:pa/ss@rabbit:5672", "special characters of a password"),
        ("broker_url", "amqp://rabbit:99999", "port number"),
        ("broker_url", "amqp://a:5672,b:x/vhost", "port number"),
        ("broker_url", "amqp://a,,b", "needs a host"),
        ("broker_url", "memory://x", "takes nothing after it"),
        ("broker_url", "sqlite://turns.db", "needs a path"),
        ("store_url", "sqlite:///", "needs a path"),
        ("store_url", "sqlite:///x.db?mode=ro", "needs a path and nothing else"),
        ("store_url", "file://sessions", "needs a path"),
        ("store_url", "amqp://x", "must start with one of"),
        ("lock_url", "sqlite:///x.db", "must start with one of"),
        ("lock_url", "null://", "must start with one of"),
        ("namespace", "", "1 to 100 letters"),
        ("namespace", "a b", "1 to 100 letters"),
        ("agent", "mybot", "package.module:factory"),
        ("agent", "my bot:make", "package.module:factory"),
        ("double_texting", "shout", "enqueue"),
        ("turn_timeout_s", 0, "greater than 0"),
        ("concurrency", 1.5, "valid integer"),
    ],
)
def test_what_cannot_work_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Settings.load(**{name: value})


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "rediss://:secret@redis:6380/2",
        "redis+cluster://a:1,b:2",
        "redis+sentinel://:secret@a:26379,b:26379/service/0",
        "rediss+sentinel://a/service",
        "sqlite:////var/lib/sessions.db",
        "file:///var/lib/sessions",
        "null://",
    ],
)
def test_store_urls_that_work(url: str) -> None:
    assert Settings.load(store_url=url).store_url == url


@pytest.mark.parametrize(
    ("url", "each"),
    [
        ("amqp://rabbit", ["amqp://rabbit"]),
        (
            "amqp://u:p%2Cw@a:1,b:2/v?heartbeat=5",
            ["amqp://u:p%2Cw@a:1/v?heartbeat=5", "amqp://u:p%2Cw@b:2/v?heartbeat=5"],
        ),
        ("amqps://[::1]:1,b", ["amqps://[::1]:1", "amqps://b"]),
        ("amqp://a,b?heartbeat=1,2", ["amqp://a?heartbeat=1,2", "amqp://b?heartbeat=1,2"]),
    ],
)
def test_several_hosts_are_a_url_each(url: str, each: list[str]) -> None:
    assert Settings.load(broker_url=url).broker_url == url
    assert each_host(url) == each


def test_a_store_that_ends_with_its_process_does_not_fit_a_broker_that_outlives_it() -> None:
    with pytest.raises(ConfigurationError, match="acknowledged turns would be forgotten") as raised:
        Settings.load(store_url="memory://", broker_url="amqp://u:secret@rabbit")
    assert "secret" not in str(raised.value)
    assert Settings.load(store_url="memory://", broker_url="memory://").store_url == "memory://"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://user:secret@rabbit:5672/%2F", "amqp://user:***@rabbit:5672/%2F"),
        ("amqp://user:secret@a:1,b:2/v", "amqp://user:***@a:1,b:2/v"),
        ("amqp://user:sec/ret@rabbit", "amqp://user:***@rabbit"),
        ("amqp://user:se@cret@rabbit", "amqp://user:***@rabbit"),
        ("redis://:secret@[::1]:6379/0", "redis://:***@[::1]:6379/0"),
        ("redis+sentinel://:secret@a:1,b:2/s/0", "redis+sentinel://:***@a:1,b:2/s/0"),
        ("redis://h/0?password=secret&ssl_ca_certs=/a/b", "redis://h/0?password=***&ssl_ca_certs=/a/b"),
        ("redis+sentinel://a/s?sentinel_password=secret", "redis+sentinel://a/s?sentinel_password=***"),
        ("amqp://[broken:secret@x", "amqp://[broken:***@x"),
        ("amqp://user@rabbit", "amqp://user@rabbit"),
        ("sqlite:///a.db", "sqlite:///a.db"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert mask(url) == shown


def test_no_password_is_shown_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDQUEUE_STORE_URL", "redis://u:secret@h")
    settings = Settings.load(broker_url="amqp://u:secret@h", lock_url="rediss://h?password=secret")
    assert "secret" not in str(settings.masked())
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(broker_url="amqp://u:secret/x@h", lock_url="redis://:secret@")
    assert "secret" not in str(raised.value)


# Backends


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///a/b.db", "a/b.db"),
        ("sqlite:////a/b.db", "/a/b.db"),
        ("file:///a/b", "/a/b"),
        ("file:///a%20b", "/a b"),
    ],
)
def test_paths_are_relative_with_three_slashes_for_sqlite_only(url: str, path: str) -> None:
    assert path_of(url) == Path(path)


@pytest.mark.parametrize(
    ("store", "lock"),
    [
        ("sqlite:////v/s.db", "file:///v/s.db.locks"),
        ("file:///v/s", "file:///v/s/locks"),
        ("file:///v%20w", "file:///v%20w/locks"),
        ("redis://h/1", "redis://h/1"),
        ("redis+cluster://a,b", "redis+cluster://a,b"),
        ("null://", "memory://"),
        ("memory://", "memory://"),
    ],
)
def test_the_default_lock_fits_the_store(store: str, lock: str) -> None:
    assert default_lock_url(store) == lock


def test_a_relative_store_is_locked_beside_it(clean_place: Path) -> None:
    assert default_lock_url("sqlite:///data/s.db") == (clean_place / "data" / "s.db.locks").as_uri()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ("SQLiteBroker", "SQLiteSessionStore", "FileLockBackend")),
        (
            {"broker_url": "memory://", "store_url": "memory://"},
            ("MemoryBroker", "InMemorySessionStore", "AsyncioLockBackend"),
        ),
        (
            {"broker_url": "amqp://h", "store_url": "redis://h"},
            ("RabbitMQBroker", "RedisSessionStore", "RedisLockBackend"),
        ),
        (
            {"broker_url": "amqps://h", "store_url": "redis+cluster://a:1"},
            ("RabbitMQBroker", "RedisSessionStore", "RedisLockBackend"),
        ),
        ({"store_url": "null://"}, ("SQLiteBroker", "NullSessionStore", "AsyncioLockBackend")),
        ({"store_url": "file:///v", "lock_url": "redis://h"}, ("SQLiteBroker", "FileSessionStore", "RedisLockBackend")),
    ],
)
async def test_urls_choose_the_backends(given: dict[str, Any], names: tuple[str, str, str]) -> None:
    """Opening reaches nothing: no server of these names exists."""
    settings = Settings.load(**given, namespace="ns", partitions=3)
    broker = open_broker(settings)
    assert (broker.topology.namespace, broker.topology.partitions) == ("ns", 3)
    found = [type(backend).__name__ for backend in (broker, open_store(settings), open_locks(settings))]
    assert tuple(found) == names


async def test_opened_backends_are_closed_at_the_end_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Store:
        async def aclose(self) -> None:
            closed.append("store")

    class Locks:
        async def aclose(self) -> None:
            closed.append("locks")

    monkeypatch.setattr("sdqueue.backends.open_store", lambda _: Store())
    monkeypatch.setattr("sdqueue.backends.open_locks", lambda _: Locks())
    with pytest.raises(LookupError):
        async with opened_sessions(Settings.load()):
            raise LookupError
    assert sorted(closed) == ["locks", "store"]


def test_a_folder_that_cannot_be_made_is_named(clean_place: Path) -> None:
    (clean_place / "file").write_text("")
    with pytest.raises(ConfigurationError, match="SDQUEUE_BROKER_URL: cannot make the folder"):
        open_broker(Settings.load(broker_url="sqlite:///file/broker.db"))


def test_variables_that_only_look_like_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped one would silently be as if not set."""
    monkeypatch.setenv("SDQUEUE_BROKER", "amqp://x")
    monkeypatch.setenv("SDQUEUE_BROKER_URL", "memory://")
    monkeypatch.setenv("SDQUEUE_TEST_AMQP_URL", "amqp://x")
    assert Settings.unknown_variables() == ["SDQUEUE_BROKER"]
