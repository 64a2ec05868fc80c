"""StateInstallations: the tokens of many workspaces in the state that all producers share."""

from __future__ import annotations

from sdqueue_producers.slack.installations.installation import Installation
from sdqueue_producers.state import ProducerState


class StateInstallations:
    """Keeps each installation as a value of its own, until it is deleted.

    Parameters:
        state: with Redis, for any number of machines; with ``memory://`` they are gone with the process.
    """

    def __init__(self, state: ProducerState) -> None:
        self._state = state

    async def find(self, install: str) -> Installation | None:
        """See :class:`Installations`."""
        [text] = await self._state.get([_key(install)])
        return None if text is None else Installation.from_json(text)

    async def save(self, installation: Installation) -> None:
        """See :class:`Installations`."""
        await self._state.set({_key(installation.id): installation.to_json()}, ttl_s=None)

    async def delete(self, install: str, *, until: float) -> bool:
        """See :class:`Installations`."""
        found = await self.find(install)
        if found is None or found.installed_at > until:
            return False
        await self._state.delete([_key(install)])
        return True


def _key(install: str) -> str:
    return f"slack:installation:{install}"
