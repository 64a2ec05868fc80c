"""Where producers remember, by URL: ``SDQUEUE_PRODUCER_STATE_URL``, or what fits the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from sdqueue.backends import CLOSE_S, path_of
from sdqueue.errors import ConfigurationError
from sdqueue.settings import Settings
from sdqueue.urls import mask
from sdqueue_producers.state.memory import MemoryState
from sdqueue_producers.state.redis import RedisState
from sdqueue_producers.state.sqlite import SQLiteState
from sdqueue_producers.state.state import ProducerState

_log: Final = logging.getLogger(__name__)


def open_state(settings: Settings) -> ProducerState:
    """Where producers remember; the caller closes it. Nothing is reached before it is needed.

    With a Redis store it is the same Redis, with a SQLite store the database ``<path>.producer`` beside it, with a
    folder of files ``producer.db`` in it. With a store that keeps nothing, or lives in its process, it is this
    process's memory, of which a warning is logged where the broker has a longer life.

    Raises:
        ConfigurationError: the URL cannot be read.
    """
    url = settings.producer_state_url or default_state_url(settings.store_url)
    match url.partition("://")[0]:
        case "memory":
            if not settings.broker_url.startswith("memory:"):
                _log.warning(
                    "producers remember in the memory of this process only: after a restart, and in other processes, "
                    "nothing is known of what was seen and delivered, and replies that wait for a later try are lost; "
                    "set SDQUEUE_PRODUCER_STATE_URL to redis:// or sqlite:///"
                )
            return MemoryState()
        case "sqlite":
            return SQLiteState(path_of(url))
        case scheme if scheme.startswith("redis"):
            return RedisState(url, namespace=settings.namespace)
    raise ConfigurationError(
        f"SDQUEUE_PRODUCER_STATE_URL: no backend for {mask(url)!r}; `sdqueue settings` says which there are"
    )


def default_state_url(store_url: str) -> str:
    """Where producers remember that were told nothing else: what fits a store."""
    match store_url.partition("://")[0]:
        case "sqlite":
            return f"{store_url}.producer"
        case "file":
            return f"sqlite:///{path_of(store_url) / 'producer.db'}"
        case "null":
            return "memory://"
    return store_url


@asynccontextmanager
async def opened_state(settings: Settings) -> AsyncIterator[ProducerState]:
    """Where producers remember, for the length of a block, closed at its end. Raises like :func:`open_state`."""
    state = open_state(settings)
    try:
        yield state
    finally:
        with suppress(TimeoutError):  # a server that does not answer: what is not given back ends with the process
            async with asyncio.timeout(CLOSE_S):
                await state.aclose()
