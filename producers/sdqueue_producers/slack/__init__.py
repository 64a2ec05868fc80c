"""Slack: events, slash commands and installations on the way in; messages, edits and streams on the way out."""

from sdqueue_producers.registry import ChannelContext
from sdqueue_producers.slack.channel import SlackChannel
from sdqueue_producers.slack.installations import Installation, Installations
from sdqueue_producers.slack.settings import SlackSettings

__all__ = ["Installation", "Installations", "SlackChannel", "SlackSettings", "make_channel"]


def make_channel(context: ChannelContext) -> SlackChannel:
    """The Slack channel, told by ``SDQUEUE_SLACK_…``.

    Raises:
        ConfigurationError: the settings will not do.
    """
    return SlackChannel(SlackSettings.load(), context.state)
