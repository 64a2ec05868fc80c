"""Which channels there are, and how one is made: the entry point group ``sdqueue.channels``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from sdqueue.channels import channel_names
from sdqueue.client import Client
from sdqueue.errors import ConfigurationError
from sdqueue.settings import Settings, installed_channels, needed_extras
from sdqueue_producers.channel import Channel
from sdqueue_producers.settings import ChannelSettings
from sdqueue_producers.state import ProducerState

GROUP: Final = "sdqueue.channels"
"""The entry point group of channels: ``name = "package.module:make_channel"``."""


@dataclass(frozen=True)
class ChannelContext:
    """What a channel may use.

    Parameters:
        settings: those of sdqueue; a channel's own are a :class:`~sdqueue_producers.ChannelSettings`.
        state: shared by all producers; the channel's keys begin with its name and a colon.
        client: reads streamed answers on, for channels whose clients come back.
    """

    settings: Settings
    state: ProducerState
    client: Client


ChannelFactory = Callable[[ChannelContext], Channel]
"""Makes a channel; raises ConfigurationError where its settings will not do."""


def parse_channels(text: str) -> tuple[str, ...]:
    """Read names with commas between, as in ``slack,webhook``.

    Raises:
        ConfigurationError: there is none, one is written wrong, or is there twice.
    """
    names = channel_names(text)
    if not names:
        raise ConfigurationError(f"no channel is named; give --channels, of {', '.join(installed_channels())}")
    return names


def make_channel(name: str, context: ChannelContext) -> Channel:
    """The channel of this name.

    Raises:
        ConfigurationError: there is no such channel, a package is missing, or its settings will not do.
    """
    channel = _factory(name)(context)
    if channel.name != name:
        raise ConfigurationError(
            f"channel {name!r} calls itself {channel.name!r}; its turns would be answered elsewhere"
        )
    return channel


def settings_of(name: str) -> type[ChannelSettings] | None:
    """The settings of the channel of this name; ``None`` where it has none that are a ChannelSettings.

    Raises:
        ConfigurationError: there is no such channel, or a package is missing.
    """
    _factory(name)  # its import defines them
    waiting: list[type[ChannelSettings]] = [ChannelSettings]
    while waiting:
        found = waiting.pop()
        if getattr(found, "channel", None) == name:
            return found
        waiting += found.__subclasses__()
    return None


def _factory(name: str) -> ChannelFactory:
    found: list[EntryPoint] = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not found:
        raise ConfigurationError(f"there is no channel {name!r}; installed are {', '.join(installed_channels())}")
    try:
        factory: ChannelFactory = found[0].load()
    except ModuleNotFoundError as error:
        ours = found[0].module.partition(".")[0] == __name__.partition(".")[0]
        how = f"pip install {needed_extras([name])}" if ours else f"see what {found[0].module} needs"
        raise ConfigurationError(
            f"channel {name!r} needs the package {error.name}, which is not installed: {how}"
        ) from None
    return factory
