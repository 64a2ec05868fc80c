"""Tail: reads the feed of a session for one connection, as events that its client can be sent."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from sdqueue_producers.webchat.feed import LARGEST_READ, Entry, Feed, Place

Event = dict[str, Any]
"""``id``, ``type`` and what the type has, see docs/webchat.md."""


class Tail:
    """Where one connection is in its session's feed.

    It reads only when it is asked, and is asked only when the client has taken what was read before: nothing piles up
    for a slow one, which gets an answer that grows in larger pieces instead.

    Parameters:
        feed: what is read.
        session_id: whose.
        after: the id of the last event that the client has seen; nonsense is a place that is not known.
    """

    def __init__(self, feed: Feed, session_id: str, after: str | None) -> None:
        self._feed = feed
        self._session_id = session_id
        self._place = None if not after else Place.parse(after) or Place(0, 0)
        self._grown: dict[str, str] = {}  # what this connection has sent of the answers that are growing

    async def next(self) -> Sequence[Event]:
        """What is new; empty where nothing is.

        Raises:
            StoreUnavailable: the feed cannot be read.
        """
        events: list[Event] = []
        while True:
            page = await self._feed.read(self._session_id, self._place)
            if page.reset:
                self._grown.clear()
                self._place = None
                events.append({"type": "reset"})
            for entry in page.entries:
                self._place = entry.place
                event = self._event(entry)
                if event is not None:
                    events.append(event)
            if events or len(page.entries) < LARGEST_READ:
                return events

    def _event(self, entry: Entry) -> Event | None:
        body = json.loads(entry.body)
        event: Event = {"id": str(entry.place), **body}
        if body["type"] == "typing":
            left = event.pop("until") - time.time()
            if body["on"] and left <= 0:
                return None
            event["for_s"] = round(max(left, 0), 1)
        if body["type"] == "partial":
            sent, text = self._grown.get(entry.slot, ""), body["text"]
            event["append"] = bool(sent) and text.startswith(sent)
            if event["append"]:
                event["text"] = text[len(sent) :]
            self._grown[entry.slot] = text
        else:
            self._grown.pop(entry.slot, None)
        return event
