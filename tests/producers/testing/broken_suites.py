"""The suite for channels, on each that is broken; run by test_suite.py in a process of its own."""

from __future__ import annotations

from typing import Any

from sdqueue_producers import Channel, ChannelContext
from sdqueue_producers.testing import Platform

from tests.producers.testing.broken import BROKEN, Whole
from tests.producers.testing.chirp import ChirpSuite


class _Suite(ChirpSuite):
    patience_s = 12.0
    made: Any = Whole

    def kind(self) -> Any:
        return self.made

    def make_channel(self, context: ChannelContext, platform: Platform) -> Channel:
        channel: Any = super().make_channel(context, platform)
        channel.context = context
        return channel  # type: ignore[no-any-return]


for _kind in BROKEN:
    globals()[f"Test{_kind.__name__}"] = type(f"Test{_kind.__name__}", (_Suite,), {"made": _kind})
