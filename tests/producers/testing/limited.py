"""Limited: how long the suite of all channels lets a platform think."""

from __future__ import annotations

import pytest


class Limited:
    """Goes before :class:`~sdqueue_producers.testing.ChannelSuite`; its channel gives a call ``limit_s`` seconds.

    They are few only where they are waited for. Elsewhere a machine that stands still for a moment changes nothing.
    """

    limit_s = 30.0

    @pytest.fixture(autouse=True)
    def limit(self, request: pytest.FixtureRequest) -> None:
        """Before the channel is made."""
        if "silent" in request.node.name:
            self.limit_s = 1.0
