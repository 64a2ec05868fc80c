"""The store as a process sees it: each call over the wire."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sdqueue.sessions import InMemorySessionStore, SessionRecord
from sdqueue.sessions.record import Stored
from tests.simulation.wire import Backend, Wire, at_once


class SimulatedStore:
    """An :class:`~sdqueue.sessions.InMemorySessionStore` at the other end of a wire.

    It has each public coroutine method of that store, so whatever capability stores learn is simulated too.

    Parameters:
        wire: the way there.
        backend: the store's side of the world.
        store: what is there.
    """

    def __init__(self, wire: Wire, backend: Backend, store: InMemorySessionStore) -> None:
        self._wire = wire
        self._backend = backend
        self._store = store


def _over_the_wire(name: str) -> Callable[..., Any]:
    async def call(self: SimulatedStore, *args: Any, **named: Any) -> Any:
        what = f"{name} {' '.join(_told(value) for value in (*args, *named.values()))}"
        return await self._wire.call(self._backend, what, lambda: at_once(getattr(self._store, name)(*args, **named)))

    call.__name__ = name
    return call


def _told(value: Any) -> str:
    """A parameter, as short as it can be."""
    if isinstance(value, (list, tuple)):
        return " ".join(_told(each) for each in value)
    if isinstance(value, (SessionRecord, Stored)):
        return f"on v{getattr(value, 'stored', value).version}"
    return str(getattr(value, "turn_id", value))


for _name, _ in inspect.getmembers(InMemorySessionStore, inspect.iscoroutinefunction):
    if not _name.startswith("_"):
        setattr(SimulatedStore, _name, _over_the_wire(_name))
