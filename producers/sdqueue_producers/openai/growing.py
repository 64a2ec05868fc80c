"""Growing: a text that is shown piece by piece and cannot be taken back."""

from __future__ import annotations

from sdqueue.errors import SdqueueError
from sdqueue.messages import OutboundReply


class Diverged(SdqueueError):
    """What was shown is not how the answer begins: its agent had to start again and says something else."""


class Growing:
    """Tells what to show next, so that all of it together is the final text.

    Where the agent starts again, its new answer is compared with what was shown: nothing is shown until it goes
    beyond that, and where it differs there is no way to go on. Where a delta was lost, nothing more is shown until the
    final text.
    """

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._again: str | None = None  # what the new start has said, while it is behind what was shown
        self._index = 0
        self._whole = True

    @property
    def shown(self) -> str:
        """All that was shown."""
        return "".join(self._shown)

    def add(self, delta: OutboundReply) -> str:
        """What to show after a delta; empty: nothing.

        Raises:
            Diverged: the new answer differs from what was shown.
        """
        place = delta.stream
        if place is not None:
            if place.restart:
                self._again, self._index, self._whole = "", 0, True
            self._whole = self._whole and place.index == self._index
            self._index = place.index + 1
        if not self._whole:
            return ""
        if self._again is None:
            return self._show(delta.text)
        self._again += delta.text
        shown = self.shown
        if self._again.startswith(shown):
            news, self._again = self._again[len(shown) :], None
            return self._show(news)
        if shown.startswith(self._again):
            return ""
        raise _diverged()

    def finish(self, text: str) -> str:
        """What to show at the end, so that the whole is ``text``.

        Raises:
            Diverged: that is not possible.
        """
        shown = self.shown
        if not text.startswith(shown):
            raise _diverged()
        return self._show(text[len(shown) :])

    def _show(self, text: str) -> str:
        if text:
            self._shown.append(text)
        return text


def _diverged() -> Diverged:
    return Diverged(
        "the agent had to start again and answers differently from what was sent; send the request again with the "
        "same Idempotency-Key to get the whole answer"
    )
