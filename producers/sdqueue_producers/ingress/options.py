"""IngressOptions: the limits of an ingress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from sdqueue.settings import Settings


@dataclass(frozen=True)
class IngressOptions:
    """What an ingress accepts and remembers.

    Parameters:
        max_body_bytes: largest body of a request.
        request_timeout_s: seconds in which a body must have arrived whole.
        kept_ids_s: seconds that the ids of published turns are remembered.
        typing_max_s: seconds after which a typing indicator ends, though no reply has come.
        max_typing: turns that an indicator is kept up for at once; beyond, the oldest is given up.
        declare: whether the queues of the channels' replies are made where they are missing.
    """

    max_body_bytes: int = 1024 * 1024
    request_timeout_s: float = 10.0
    kept_ids_s: float = 24 * 3600.0
    typing_max_s: float = 180.0
    max_typing: int = 1000
    declare: bool = True

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Those that the settings name."""
        return cls(
            max_body_bytes=settings.max_body_bytes,
            request_timeout_s=settings.request_timeout_s,
            kept_ids_s=settings.kept_ids_s,
            typing_max_s=settings.turn_timeout_s + 60,
            declare=settings.apply,
        )
