"""Settings in files, as Docker, Kubernetes and systemd hand secrets to a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sdqueue_producers.slack.settings import SlackSettings
from sdqueue_producers.webhook.settings import WebhookSettings

from sdqueue.cli.app import app
from sdqueue.errors import ConfigurationError
from sdqueue.settings import Settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of secrets, beside an empty current directory, and none of the caller's settings."""
    for name in [name for name in os.environ if name.startswith("SDQUEUE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    monkeypatch.setenv("SDQUEUE_SECRETS_DIR", str(secrets))
    return secrets


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_holds_the_value_of_the_variable_of_its_name(folder: Path, end: str) -> None:
    (folder / "sdqueue_broker_url").write_bytes(f"amqp://u:secret @rabbit{end}".encode())
    settings = Settings.load()
    assert settings.broker_url == "amqp://u:secret @rabbit"
    assert settings.origin("broker_url") == str(folder / "sdqueue_broker_url")
    assert "secret" not in str(settings.masked()["broker_url"])


def test_files_stand_between_the_environment_and_dotenv(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("partitions", "concurrency", "prefetch", "max_sessions")
    Path("sdqueue.toml").write_text("".join(f"{name} = 4\n" for name in names))
    Path(".env").write_text("".join(f"SDQUEUE_{name.upper()}=3\n" for name in names[:3]))
    for name in names[:2]:
        (folder / f"sdqueue_{name}").write_text("2\n")
    monkeypatch.setenv("SDQUEUE_PARTITIONS", "1")

    settings = Settings.load()

    assert [getattr(settings, name) for name in names] == [1, 2, 3, 4]
    origins = ["environment", str(folder / "sdqueue_concurrency"), ".env", "sdqueue.toml"]
    assert [settings.origin(name) for name in names] == origins


def test_of_several_folders_the_first_wins(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (folder / "sdqueue_namespace").write_text("first")
    (other / "sdqueue_namespace").write_text("second")
    (other / "sdqueue_partitions").write_text("7")
    monkeypatch.setenv("SDQUEUE_SECRETS_DIR", f"{folder}:{other}")
    settings = Settings.load()
    assert (settings.namespace, settings.partitions) == ("first", 7)


def test_an_empty_file_is_as_if_not_there(folder: Path) -> None:
    (folder / "sdqueue_namespace").write_text("\n")
    assert Settings.load().origin("namespace") == "default"


def test_a_volume_of_kubernetes_is_read(folder: Path) -> None:
    """There the files are links into a folder that is exchanged as a whole."""
    (folder / "..2026").mkdir()
    (folder / "..2026" / "sdqueue_namespace").write_text("mounted")
    (folder / "..data").symlink_to("..2026")
    (folder / "sdqueue_namespace").symlink_to("..data/sdqueue_namespace")
    assert Settings.load().namespace == "mounted"
    assert Settings.unknown_variables() == []


def test_a_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDQUEUE_SECRETS_DIR", "/nowhere")
    for load in (Settings.load, SlackSettings.load):
        with pytest.raises(ConfigurationError, match="SDQUEUE_SECRETS_DIR: cannot read the folder '/nowhere'"):
            load()


def test_what_cannot_be_read_is_named_but_only_where_it_is_needed(folder: Path) -> None:
    (folder / "sdqueue_namespace").symlink_to(folder / "gone")
    (folder / "sdqueue_slack_bot_token").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="sdqueue_namespace: cannot be read: No such file"):
        Settings.load()
    with pytest.raises(ConfigurationError, match="sdqueue_slack_bot_token: is not text in UTF-8"):
        SlackSettings.load()
    (folder / "sdqueue_namespace").unlink()
    assert Settings.load().namespace == "sdqueue"


def test_a_wrong_value_is_told_with_its_file_and_without_its_secret(folder: Path) -> None:
    (folder / "sdqueue_broker_url").write_text("amqp://u:secret/x@h")
    with pytest.raises(ConfigurationError) as told:
        Settings.load()
    assert f"SDQUEUE_BROKER_URL ({folder / 'sdqueue_broker_url'}): " in str(told.value)
    assert "secret" not in str(told.value).replace(str(folder), "")


@pytest.mark.parametrize("name", ["sdqueue_broker_url", "sdqueue_partitions", "sdqueue_log_format"])
def test_what_is_in_the_wrong_file_is_not_shown(folder: Path, name: str) -> None:
    """A password alone, where a URL should be, cannot be told from what is no secret."""
    (folder / name).write_text("hunter2")
    with pytest.raises(ConfigurationError) as told:
        Settings.load()
    assert f"{name.upper()} ({folder / name}): " in str(told.value)
    assert "hunter2" not in str(told.value)


def test_a_folder_whose_files_cannot_be_looked_at_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given one that this user may list and not enter."""
    (folder / "sdqueue_namespace").write_text("x")

    def closed(path: Path) -> bool:  # as of Python 3.11; later ones say no, and reading it is refused
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", closed)
    with pytest.raises(ConfigurationError, match=r"cannot read the folder .*: Permission denied"):
        Settings.load()


def test_settings_of_channels_are_read_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sdqueue_slack_signing_secret").write_text("f" * 32 + "\n")
    (folder / "sdqueue_slack_bot_token").write_text("xoxb-file\n")
    monkeypatch.setenv("SDQUEUE_SLACK_BOT_TOKEN", "xoxb-environment")
    Path(".env").write_text("SDQUEUE_SLACK_SIGNING_SECRET=dotenv\n")
    settings = SlackSettings.load()
    assert settings.signing_secret.get_secret_value() == "f" * 32
    assert settings.bot_token.get_secret_value() == "xoxb-environment"
    origins = [settings.origin(name) for name in ("signing_secret", "bot_token")]
    assert origins == [str(folder / "sdqueue_slack_signing_secret"), "environment"]


def test_a_table_is_json_in_a_file(folder: Path) -> None:
    file = folder / "sdqueue_webhook_endpoints"
    file.write_text('{"crm": {"tokens": ["' + "t" * 40 + '"]}}')
    assert list(WebhookSettings.load().endpoints) == ["crm"]
    file.write_text("crm")
    with pytest.raises(ConfigurationError, match="SDQUEUE_WEBHOOK_ENDPOINTS: must be JSON"):
        WebhookSettings.load()


def test_where_they_were_read_does_not_push_the_values_out_of_the_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a path as long as a line of the terminal."""
    long = folder / "/".join(["deep"] * 16)
    long.mkdir(parents=True)
    (long / "sdqueue_namespace").write_text("shop")
    monkeypatch.setenv("SDQUEUE_SECRETS_DIR", str(long))
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        app(["settings"])
    assert " shop " in capsys.readouterr().out


def test_files_that_only_look_like_settings_are_named(folder: Path) -> None:
    for name in ("sdqueue_broker", "sdqueue_namespace", "sdqueue_slack_bot_tokn", "somebody_elses"):
        (folder / name).write_text("x")
    assert Settings.unknown_variables() == [str(folder / "sdqueue_broker")]
    assert SlackSettings.unknown_variables() == [str(folder / "sdqueue_slack_bot_tokn")]
