"""Installation: a workspace, or an organisation, that has installed the app, with its token."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Protocol, Self


@dataclass(frozen=True)
class Installation:
    """One that has installed the app.

    Parameters:
        id: the workspace's id (``T…``), or the organisation's (``E…``) where the app is installed in all of it.
        bot_token: ``xoxb-…``; in no log, error or turn.
        bot_user: the bot's user id there.
        scopes: what it may do.
        installed_at: when it was installed, in seconds since 1970.
    """

    id: str
    bot_token: str = field(repr=False)
    bot_user: str = ""
    scopes: tuple[str, ...] = ()
    installed_at: float = 0.0

    def to_json(self) -> str:
        """As it is kept, with the token."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` has written."""
        fields = json.loads(text)
        return cls(**fields | {"scopes": tuple(fields["scopes"])})


class Installations(Protocol):
    """Where installations are kept; for all processes that share the app.

    ``tests/producers/slack/test_installations.py`` is what every one of them passes.
    """

    async def find(self, install: str) -> Installation | None:
        """The one of this id.

        Raises:
            StoreUnavailable: the place cannot be reached.
        """
        ...

    async def save(self, installation: Installation) -> None:
        """Keep one, in place of an earlier one of its id. Raises like :meth:`find`."""
        ...

    async def delete(self, install: str, *, until: float) -> bool:
        """Forget one, unless it was installed after ``until``, in seconds since 1970.

        News of its end can be a day late, and must not end what was installed since. Raises like :meth:`find`.
        Answers whether it was forgotten.
        """
        ...
