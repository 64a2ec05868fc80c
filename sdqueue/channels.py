"""What a channel may choose for its sessions, and how such a choice is written: ``enqueue,slack=interrupt``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Generic, Self, TypeVar

from sdqueue.errors import ConfigurationError


class DoubleTexting(StrEnum):
    """What becomes of a turn that arrives while another one of its session runs."""

    ENQUEUE = "enqueue"  # it waits
    COLLECT = "collect"  # all that wait become one turn
    INTERRUPT = "interrupt"  # it stops the running one, of which nothing is kept
    REJECT = "reject"  # it is refused at once


class OnDead(StrEnum):
    """What a dead turn does to its session."""

    SKIP = "skip"  # the session goes on with the next turn
    PARK = "park"  # later turns wait until the dead one is replayed or discarded


class OnAmbiguous(StrEnum):
    """What becomes of a reply of which nobody knows whether the platform has shown it, and nothing tells."""

    RESEND = "resend"  # it is sent again, and may be visible twice
    DROP = "drop"  # it is not, and may not be visible at all


Choice = TypeVar("Choice", bound=StrEnum)

_CHANNEL: Final = re.compile(r"[a-z0-9_-]{1,64}")


def channel_names(text: str) -> tuple[str, ...]:
    """Read names of channels with commas between, as in ``slack,webhook``; empty where there is none.

    Raises:
        ConfigurationError: one is written wrong, or is there twice.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if not _CHANNEL.fullmatch(name):
            raise ConfigurationError(f"channel {name!r}: a name is 1 to 64 of a-z, 0-9, _ and -")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"channels {text!r}: one is named twice")
    return names


@dataclass(frozen=True)
class PerChannel(Generic[Choice]):
    """A choice for all channels, and others for some.

    Parameters:
        default: for every channel that is not named.
        channels: by channel.
    """

    default: Choice
    channels: Mapping[str, Choice] = field(default_factory=dict)

    def of(self, channel: str) -> Choice:
        """The choice for a channel."""
        return self.channels.get(channel, self.default)

    @classmethod
    def parse(cls, text: str, default: Choice) -> Self:
        """Read ``choice``, ``channel=choice`` or several of them with commas between.

        Parameters:
            text: what was written.
            default: for all channels where the text names none for them; its type has the choices.

        Raises:
            ValueError: a choice or a channel is none, or one is named twice.
        """
        kind = type(default)
        found: dict[str, Choice] = {}
        for part in text.split(","):
            channel, _, name = part.strip().rpartition("=")
            channel, name = channel.strip(), name.strip()
            if "=" in part and not _CHANNEL.fullmatch(channel):
                raise ValueError(f"{part.strip()!r}: a channel is 1 to 64 of a-z, 0-9, _ and -")
            if name not in list(kind):
                raise ValueError(
                    f"{part.strip()!r}: {name!r} is none of {', '.join(kind)}; write one of them for all channels, "
                    f"and channel=choice behind a comma for others"
                )
            if channel in found:
                raise ValueError(f"{part.strip()!r}: {channel or 'the choice for all channels'} is given twice")
            found[channel] = kind(name)
        return cls(found.pop("", default), found)
