"""How a reply is to go back: what the request says (RFC 7240 and Accept), else what the endpoint's settings say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from sdqueue_producers.request import Request
from sdqueue_producers.webhook.settings import MAX_WAIT_S, EndpointSettings

_WAIT: Final = re.compile(r'wait\s*=\s*(?:([0-9]{1,9})|"([0-9]{1,9})")', re.IGNORECASE)


@dataclass(frozen=True)
class ReplyMode:
    """How a reply is to go back.

    Parameters:
        kind: ``hold``: as the response, where it comes in time; ``later``: by callback or at the status address;
            ``stream``: as an event stream.
        wait_s: seconds to hold.
        applied: of the preferences in the request, the one that was followed, for ``Preference-Applied``.
    """

    kind: Literal["hold", "later", "stream"]
    wait_s: float = 0.0
    applied: str = ""

    @classmethod
    def of(cls, request: Request, settings: EndpointSettings) -> ReplyMode:
        """Read it. Preferences that make no sense are ignored, as RFC 7240 has it."""
        if _accepts_events(request.headers.get("accept", "")):
            return cls("stream")
        preferences = [one.split(";", 1)[0].strip() for one in request.headers.get("prefer", "").split(",")]
        for preference in preferences:
            match = _WAIT.fullmatch(preference)
            if match is not None:
                wait_s = min(float(match[1] or match[2]), MAX_WAIT_S)
                applied = f"wait={wait_s:g}"
                return cls("hold", wait_s, applied) if wait_s else cls("later", applied=applied)
        if "respond-async" in map(str.lower, preferences):
            return cls("later", applied="respond-async")
        mode = settings.effective_mode
        if mode == "hold":
            return cls("hold", settings.wait_s)
        return cls("stream" if mode == "stream" else "later")


def _accepts_events(accept: str) -> bool:
    for item in accept.lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        if media == "text/event-stream":
            return not any(re.fullmatch(r"q\s*=\s*0(?:\.0*)?", parameter) for parameter in parameters)
    return False
