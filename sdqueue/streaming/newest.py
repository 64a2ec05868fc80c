"""NewestAttempt: of all deltas that arrive, those that are one answer."""

from __future__ import annotations

from sdqueue.messages import OutboundReply
from sdqueue.streaming.offset import BEGINNING, StreamOffset


class NewestAttempt:
    """Lets through the deltas of the newest attempt, each once and in order.

    Where a consumer dies, stands still or loses its session, another one begins the answer anew, and what the first
    one still has to say arrives between the other's deltas. It is dropped here. The first delta of another attempt
    that is let through says ``restart``, also where that attempt's very first one was lost.

    Parameters:
        after: where the listener was before; the beginning: it has heard nothing.
    """

    def __init__(self, after: StreamOffset = BEGINNING) -> None:
        self._after = after
        self._attempt = 0
        self._word = ""
        self._index = -1
        self._past: set[str] = set()

    def accept(self, delta: OutboundReply) -> OutboundReply | None:
        """The delta as it is to be handed on; ``None`` where it is not."""
        stream = delta.stream
        if stream is None:
            return delta  # of a consumer of an older release
        # Where the store cannot count, two attempts may have the same number, but not the same word.
        word = delta.id.rpartition(":")[2].rpartition(".")[0]
        if stream.attempt < self._attempt or word in self._past:
            return None
        begun, same = self._attempt > 0, word == self._word
        if not begun:
            begun = self._after != BEGINNING
            same = begun and StreamOffset.parse(stream.offset).attempt == self._after.attempt
        if same and stream.index <= self._index:
            return None
        if not same:
            self._past.add(self._word)
        self._attempt, self._word, self._index = stream.attempt, word, stream.index
        if begun and not same and not stream.restart:
            place = stream.model_copy(update={"restart": True}).model_dump()
            return delta.model_copy(update={"metadata": delta.metadata | {"stream": place}})
        return delta
