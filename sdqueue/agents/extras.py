"""Libraries that come with an extra of sdqueue, and are imported only by the module that adapts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sdqueue.errors import ConfigurationError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import the libraries of an extra within this block.

    Raises:
        ConfigurationError: they are not installed; it says how to install them.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(f"{error}; this agent needs an extra: pip install 'sdqueue[{name}]'") from error
