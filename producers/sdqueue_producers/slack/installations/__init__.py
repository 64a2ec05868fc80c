"""Installations: which workspaces have installed the app, and their tokens."""

from sdqueue_producers.slack.installations.environment import EnvironmentInstallation
from sdqueue_producers.slack.installations.file import FileInstallations
from sdqueue_producers.slack.installations.installation import Installation, Installations
from sdqueue_producers.slack.installations.opening import open_installations
from sdqueue_producers.slack.installations.state import StateInstallations

__all__ = [
    "EnvironmentInstallation",
    "FileInstallations",
    "Installation",
    "Installations",
    "StateInstallations",
    "open_installations",
]
