"""Slack: events, slash commands and installations on the way in; messages, edits and streams on the way out."""

from sdqueue_producers.slack.channel import SlackChannel, make_channel
from sdqueue_producers.slack.installations import Installation, Installations
from sdqueue_producers.slack.settings import SlackSettings

__all__ = ["Installation", "Installations", "SlackChannel", "SlackSettings", "make_channel"]
