"""Destination: where in Slack a reply goes, read from the address that came with its turn."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from sdqueue_producers.errors import Permanent
from sdqueue_producers.outgoing import Address

_TS: Final = re.compile(r"[0-9]{1,12}\.[0-9]{1,6}")


@dataclass(frozen=True)
class Destination:
    """A channel or thread of a workspace.

    Parameters:
        install: the installation whose token may post there.
        channel: the id of the channel or direct message.
        thread_ts: the first message of the thread; ``None``: the channel itself.
        ts: the user's message, which every reply to it is newer than.
        user: who asked; a native stream has to name them.
        recipient_team: the team of that user, which with Slack Connect is not the installation's.
        assistant: the thread is one of the assistant's, which shows a status.
    """

    install: str
    channel: str
    thread_ts: str | None = None
    ts: str | None = None
    user: str | None = None
    recipient_team: str | None = None
    assistant: bool = False

    @classmethod
    def read(cls, address: Address) -> Self:
        """Read an address.

        Raises:
            Permanent: it is none of Slack's; whoever made the turn has to mend it.
        """
        if not isinstance(address, dict):
            raise Permanent("bad-address", f"a Slack address is a JSON object, not {type(address).__name__}")

        def text(name: str) -> str | None:
            value = address.get(name)
            if value is not None and not isinstance(value, str):
                raise Permanent("bad-address", f"{name} of the Slack address must be text, not {type(value).__name__}")
            return value or None

        install, channel, ts = text("install"), text("channel"), text("ts")
        if install is None or channel is None:
            raise Permanent("bad-address", "the Slack address names no install or no channel")
        return cls(
            install=install,
            channel=channel,
            thread_ts=text("thread_ts"),
            ts=ts if ts is not None and _TS.fullmatch(ts) else None,
            user=text("user"),
            recipient_team=text("recipient_team"),
            assistant=address.get("assistant") is True,
        )

    @property
    def post_bucket(self) -> str:
        """Slack lets an app post one message a second in a channel."""
        return f"post:{self.install}:{self.channel}"

    @property
    def edit_bucket(self) -> str:
        """Slack counts chat.update for a whole workspace."""
        return f"edit:{self.install}"
