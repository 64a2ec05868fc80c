"""State: what producers remember, shared by all of them."""

from sdqueue_producers.state.memory import MemoryState
from sdqueue_producers.state.opening import open_state, opened_state
from sdqueue_producers.state.redis import RedisState
from sdqueue_producers.state.sqlite import SQLiteState
from sdqueue_producers.state.state import Parked, ProducerState

__all__ = ["MemoryState", "Parked", "ProducerState", "RedisState", "SQLiteState", "open_state", "opened_state"]
