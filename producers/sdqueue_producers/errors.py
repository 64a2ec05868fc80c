"""How a delivery to a platform fails; all under :class:`sdqueue.SdqueueError`.

::

    SdqueueError
     └── DeliveryError
          ├── RetryAfter     not now: the platform says when, or is passingly out of order; nothing is visible
          ├── Permanent      never: the address is gone, or the platform refuses this text
          └── Ambiguous      nobody knows: the connection was cut after the request had gone out

A channel raises one of these three from ``deliver``, ``edit``, ``find`` and the methods of a stream. Anything else that
it raises is a defect: it is logged with its traceback and treated like ``Ambiguous`` where a repeat does no harm
(``caps.idempotent``, ``caps.can_find``), else like ``RetryAfter``.
"""

from __future__ import annotations

from sdqueue.errors import SdqueueError


class DeliveryError(SdqueueError):
    """A reply could not be shown on its platform."""


class RetryAfter(DeliveryError):
    """The platform did not take it, and may later.

    Parameters:
        seconds: when to try again; ``None``: it did not say, so the egress backs off by itself.
        why: what it said.
        bucket: the key of the rate limit that was hit, of those that the channel names for the address; nothing more
            is sent under it until then, by any process. ``None``: only this delivery waits.
    """

    def __init__(self, seconds: float | None, why: str, *, bucket: str | None = None) -> None:
        when = "later" if seconds is None else f"in {seconds:g} s"
        super().__init__(f"the platform did not take it ({why}); it is tried again {when}")
        self.seconds = seconds
        self.why = why
        self.bucket = bucket


class Permanent(DeliveryError):
    """The platform will never take it; it becomes a dead letter with this reason.

    Parameters:
        reason: a stable slug, such as ``channel-not-found``.
        detail: what was wrong, with which value, and what to do.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Ambiguous(DeliveryError):
    """Whether the platform has taken it is not known: the connection was cut once the request was out, for instance."""
