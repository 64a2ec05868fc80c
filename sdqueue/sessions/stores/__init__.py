"""Session stores: where sessions live between turns."""

from sdqueue.sessions.stores.memory import InMemorySessionStore
from sdqueue.sessions.stores.null import NullSessionStore
from sdqueue.sessions.stores.store import SessionStore, TurnCounter

__all__ = ["InMemorySessionStore", "NullSessionStore", "SessionStore", "TurnCounter"]
