"""State: what producers remember, shared by all of them."""

from sdqueue_producers.state.memory import MemoryState
from sdqueue_producers.state.state import Parked, ProducerState

__all__ = ["MemoryState", "Parked", "ProducerState"]
