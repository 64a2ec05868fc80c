"""EnvironmentInstallation: the token of the one workspace, from the settings."""

from __future__ import annotations

from sdqueue.errors import ConfigurationError
from sdqueue_producers.slack.installations.installation import Installation


class EnvironmentInstallation:
    """Serves every event with one token: the app is installed in one workspace, or in one organisation.

    Parameters:
        bot_token: ``xoxb-…``.

    Raises:
        ConfigurationError: there is none.
    """

    def __init__(self, bot_token: str) -> None:
        if not bot_token:
            raise ConfigurationError(
                "no token for Slack: set SDQUEUE_SLACK_BOT_TOKEN, or SDQUEUE_SLACK_INSTALLATIONS to state:// or "
                "file:///path and install the app at /slack/install"
            )
        self._bot_token = bot_token

    async def find(self, install: str) -> Installation:
        """See :class:`Installations`."""
        return Installation(install, self._bot_token)

    async def save(self, installation: Installation) -> None:
        """See :class:`Installations`: not possible."""
        raise ConfigurationError(
            f"installation {installation.id} cannot be kept in env://: set SDQUEUE_SLACK_INSTALLATIONS to state:// or "
            "file:///path"
        )

    async def delete(self, install: str, *, until: float) -> bool:
        """See :class:`Installations`: only whoever sets the token can take it away, and may have set another by now."""
        return False
