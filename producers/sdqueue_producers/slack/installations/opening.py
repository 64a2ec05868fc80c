"""Installations by URL: ``SDQUEUE_SLACK_INSTALLATIONS``."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from sdqueue.errors import ConfigurationError
from sdqueue_producers.slack.installations.environment import EnvironmentInstallation
from sdqueue_producers.slack.installations.file import FileInstallations
from sdqueue_producers.slack.installations.installation import Installations
from sdqueue_producers.slack.installations.state import StateInstallations
from sdqueue_producers.state import ProducerState


def open_installations(url: str, *, bot_token: str, state: ProducerState) -> Installations:
    """What ``SDQUEUE_SLACK_INSTALLATIONS`` names.

    Parameters:
        url: ``env://``, ``file:///path`` or ``state://``.
        bot_token: for ``env://``.
        state: for ``state://``.

    Raises:
        ConfigurationError: there is no such place, or no token for ``env://``.
    """
    parts = urlsplit(url)
    if parts.scheme == "env":
        return EnvironmentInstallation(bot_token)
    if parts.scheme == "state":
        return StateInstallations(state)
    if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
        return FileInstallations(Path(unquote(parts.path)))
    raise ConfigurationError(
        f"SDQUEUE_SLACK_INSTALLATIONS={url!r} cannot be used; it is env://, file:///path/to/tokens.json (three "
        "slashes) or state://"
    )
