"""Observation: hooks that the core calls, and what can be hung on them."""

from sdqueue.observe.observer import Observer, Observers

__all__ = ["Observer", "Observers"]
