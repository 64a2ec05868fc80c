"""Client: what applications and producers use to hand over turns and to get replies."""

from sdqueue.client.client import CONFIRM_TIMEOUT_S, REPLY_TIMEOUT_S, Client, TurnOptions
from sdqueue.client.question import Replies

__all__ = ["CONFIRM_TIMEOUT_S", "REPLY_TIMEOUT_S", "Client", "Replies", "TurnOptions"]
