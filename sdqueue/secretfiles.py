"""Settings in files of their own, as Docker, Kubernetes and systemd hand secrets to a process.

``SDQUEUE_SECRETS_DIR`` names a folder, or several separated by ``:``, of which the first wins. A file in it has the
name of a variable in small letters, such as ``sdqueue_broker_url``, and holds the value; line ends after it do not
count. Other files there are somebody else's. It is set in the environment alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pydantic_settings import BaseSettings, EnvSettingsSource

from sdqueue.errors import ConfigurationError

VARIABLE: Final = "SDQUEUE_SECRETS_DIR"


class SecretFilesSource(EnvSettingsSource):
    """Reads the settings that have a file, each as if it were a variable.

    Parameters:
        settings_cls: whose fields.
        env_prefix: of their variables; default: that of the class.

    Raises:
        ConfigurationError: a folder is not there, or a file cannot be read.
    """

    def __init__(self, settings_cls: type[BaseSettings], env_prefix: str | None = None) -> None:
        prefix = settings_cls.model_config.get("env_prefix", "") if env_prefix is None else env_prefix
        super().__init__(settings_cls, env_prefix=prefix)
        files = secret_files()
        names = {field: f"{prefix}{field}".lower() for field in settings_cls.model_fields}
        self.files = {field: files[name] for field, name in names.items() if name in files}
        """By field. Those of other classes are not read: they may be closed to this process."""
        values = {names[field]: _read(file) for field, file in self.files.items()}
        self.env_vars = {name: value for name, value in values.items() if value}  # empty is as if not there


def secret_files() -> dict[str, Path]:
    """The files that look like settings of sdqueue, by the name of their variable in small letters.

    Raises:
        ConfigurationError: a folder is not there or cannot be read.
    """
    found: dict[str, Path] = {}
    for folder in filter(None, os.environ.get(VARIABLE, "").split(":")):
        try:
            files = sorted(file for file in Path(folder).iterdir() if _is_ours(file))
        except OSError as error:
            raise ConfigurationError(
                f"{VARIABLE}: cannot read the folder {folder!r}: {error.strerror}; name one that is there, or leave it "
                "out"
            ) from None
        for file in files:
            found.setdefault(file.name.lower(), file)
    return found


def _is_ours(file: Path) -> bool:
    return file.name.lower().startswith("sdqueue_") and not file.is_dir()


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(
            f"{file}: cannot be read: {error.strerror}; the user of this process needs the permission to read it"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file}: is not text in UTF-8") from None
