"""The W3C trace context of a request, as it goes into the headers of its turns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
_TRACESTATE: Final = re.compile(r"[ -~]{1,512}")
_LONGEST: Final = 256


def trace_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """``traceparent`` and ``tracestate`` where they are valid; a state without a parent means nothing.

    Source: W3C Trace Context, level 1, sections 3.2 and 3.3.

    Parameters:
        headers: of a request, by name in small letters.
    """
    parent = headers.get("traceparent", "")
    found = _TRACEPARENT.fullmatch(parent) if len(parent) <= _LONGEST else None
    if found is None or (parent.startswith("00-") and found[1]):
        return {}
    state = headers.get("tracestate", "")
    return {"traceparent": parent} | ({"tracestate": state} if _TRACESTATE.fullmatch(state) else {})
